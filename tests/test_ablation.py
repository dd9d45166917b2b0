import csv
import importlib
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import ma2mi
from mer_jax import ablation
from mer_jax.errors import UserError
from mer_jax.training import checkpoint


def fake_run(calls):
    """A run that leaves what a table needs, and scores by its config."""

    def run(config, workdir):
        calls.append((workdir.name, config.init_from, config.ablation))
        if not (workdir / "checkpoints").exists():
            finished = checkpoint.Finished(workdir / "checkpoints" / "finetune" / "folds")
            finished.save("p1", {"params": {"w": np.zeros((3, 5), np.float32)}}, {"clips": {}})
            finished.close()
        value = 0.5 if config.pre.objective == "none" else 0.75
        scores = {s: {"mean": value, "std": 0.1, "low": 0.2, "high": 0.9} for s in ("uf1", "acc")}
        facts = {"select": "last", "comparable": True, "oracle_inputs": "none", "notes": ["a note"]}
        measures = {"epe": {"n": 9, "mean": 0.25, "std": 0.0, "low": 0.125, "high": 0.5}} if value == 0.5 else {}
        return {"overall": scores, "n": 9, "per_seed": {"0": {}}, "measures": measures, **facts}

    return run


def config_of(rows):
    config = ma2mi.get_config("tiny")
    config.rows, config.row_names = rows, tuple(rows)
    config.ablation = "ablation"
    return config


ROWS = {
    "full": {},
    "lr": {"ft": {"optimizer": {"learning_rate": 0.5}}},
    "scratch": {"pre": {"objective": "none"}},
    "pixel": {"pre": {"latent": "pixel"}},
}


def test_rows_become_a_table_with_differences_to_the_first(tmp_path):
    calls = []
    ablation.run_rows(config_of(ROWS), tmp_path, fake_run(calls), plan_only=False)
    rows = list(csv.DictReader((tmp_path / "ablation.csv").read_text().splitlines()))
    assert [r["row"] for r in rows] == list(ROWS)
    assert [float(r["uf1_difference"]) for r in rows] == [0, 0, -0.25, 0]
    assert {r["parameters"] for r in rows} == {"15"}
    assert [r["epe_mean"] for r in rows] == ["", "", "0.25", ""]
    assert rows[2]["epe_low"] == "0.125"
    assert all(float(r["seconds"]) >= 0 and r["n"] == "9" and r["notes"] == "a note" for r in rows)


def test_equal_pretrainings_are_shared_and_no_others(tmp_path):
    calls = []
    ablation.run_rows(config_of(ROWS), tmp_path, fake_run(calls), plan_only=False)
    full = str(tmp_path / "rows" / "full")
    assert calls == [("full", "", ""), ("lr", full, ""), ("scratch", "", ""), ("pixel", "", "")]


def test_a_row_that_equals_an_earlier_one_is_left_out(tmp_path, capsys):
    """As where a variant sets what the row changes."""
    calls = []
    rows = {"full": {}, "batch": {"ft": {"batch": config_of({}).ft.batch}}, "scratch": {"pre": {"objective": "none"}}}
    ablation.run_rows(config_of(rows), tmp_path, fake_run(calls), plan_only=False)
    assert [name for name, *_ in calls] == ["full", "scratch"]
    assert "row batch: here the same as full; left out" in capsys.readouterr().err


def test_time_of_a_finished_row_is_not_counted_again(tmp_path):
    run = fake_run([])
    ablation.run_rows(config_of(ROWS), tmp_path, run, plan_only=False)
    before = (tmp_path / "rows" / "full" / "seconds.json").read_bytes()
    ablation.run_rows(config_of(ROWS), tmp_path, run, plan_only=False)
    assert (tmp_path / "rows" / "full" / "seconds.json").read_bytes() == before


def test_a_row_with_an_unknown_field_is_refused(tmp_path):
    config = config_of({"full": {"pre": {"latnt": "dct"}}})
    config.lock()
    with pytest.raises(UserError, match="row 'full'"):
        ablation.run_rows(config, tmp_path, fake_run([]), plan_only=False)


CONFIGS = [p.stem for p in sorted(Path(ma2mi.__file__).parent.glob("*.py")) if p.stem not in ("common", "__init__")]


@pytest.mark.parametrize("system", CONFIGS)
def test_every_word_and_row_of_a_config_fits_its_fields(system):
    module = importlib.import_module(f"configs.{system}")
    assert module.get_config().system == system
    for word in module.VARIANTS:
        config = module.get_config(word)
        for row in config.row_names:
            changed = ConfigDict(config.to_dict()).lock()
            changed.update(config.rows[row])
