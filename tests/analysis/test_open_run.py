import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mer_jax.analysis.open_run import PANELS, open_run, without_paths
from mer_jax.errors import UserError

Make = Callable[..., Path]


def test_what_a_run_left(make_workdir: Make):
    run = open_run(make_workdir())
    assert run.metrics is not None
    assert run.predictions is not None
    assert run.metrics["n"] == len(run.predictions) / 2
    assert run.predictions.seeds == (0, 1)
    loss = run.curves("pretrain")["loss"]
    assert [(curve.seed, curve.fold) for curve in loss] == [(0, None), (1, None)]
    assert loss[0].step.tolist() == list(range(0, 400, 20))
    assert run.curves("pretrain")["R"][0].step.tolist() == [0, 100, 200, 300]
    folds = run.curves("finetune")["accuracy"]
    assert len(folds) == 2 * 12
    assert folds[3].fold == "03"
    assert run.health[1]["R"] == 0.91
    assert run.panels["recon_first"].shape == (3, 64, 64, 3)


def test_the_last_word_on_a_look_counts(make_workdir: Make):
    workdir = make_workdir()
    lines = [
        {"stage": "pretrain", "seed": 0, "step": 0, "loss": 5.0},
        {"stage": "pretrain", "seed": 0, "step": 10, "loss": 4.0},
        {"stage": "pretrain", "seed": 0, "step": 10, "R": 0.5},
        {"stage": "pretrain", "seed": 0, "step": 0, "loss": 5.5},  # after a resume
        {"stage": "pretrain", "seed": 0, "step": 20, "loss": None},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / "log.jsonl").write_text(text + '{"stage": "pretr')  # killed while writing
    curves = open_run(workdir).curves("pretrain")
    assert curves["loss"][0].step.tolist() == [0, 10, 20]
    np.testing.assert_array_equal(curves["loss"][0].value, [5.5, 4.0, np.nan])
    assert curves["R"][0].step.tolist() == [10]

    (workdir / "log.jsonl").write_text('{"stage": "pretr\n' + text)
    with pytest.raises(UserError, match=r"log\.jsonl, row 1: found .*expected one look as JSON"):
        open_run(workdir)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/run", "…/run"),
        ("~/data/faces", "…/faces"),
        ("C:\\data\\faces", "…/faces"),
        ("/home/My Name/run", "…/run"),
        ("--config=/a/b/c.py:scratch --workdir /tmp/x", "--config=…/c.py:scratch --workdir …/x"),
        ("casme2/sub01/EP02", "casme2/sub01/EP02"),
        ("gs://bucket/run", "gs://bucket/run"),
        ("cohort/subject or a / b", "cohort/subject or a / b"),
    ],
)
def test_absolute_paths_are_cut(text: str, expected: str):
    assert without_paths({"a": [text], "n": 3}) == {"a": [expected], "n": 3}


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"found no config\.json; expected the workdir of a run"):
        open_run(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: not JSON"):
        open_run(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"recon_fist": np.zeros((1, 2, 2, 3))}, "found an array 'recon_fist'; expected recon_first"),
        ({"recon_first": np.zeros((2, 2, 3))}, r"recon_first has the shape \(2, 2, 3\); expected 4 dimensions"),
        ({"heat_onset": np.zeros((2, 2, 2, 3)), "heat_apex": np.zeros((1, 2, 2, 3))}, "arrays of different length"),
    ],
)
def test_panels_are_checked(make_workdir: Make, arrays: dict[str, np.ndarray], message: str):
    workdir = make_workdir()
    np.savez(workdir / PANELS, **arrays)
    with pytest.raises(UserError, match=message):
        open_run(workdir)
