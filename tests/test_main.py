"""The entry point as its users meet it: a subprocess, from data to report."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mer_jax.analysis import open_run
from mer_jax.errors import UserError
from mer_jax.evaluation.results import read_predictions
from mer_jax.training import checkpoint

ROOT = Path(__file__).parents[1]
DRIVER = ROOT / "tests" / "drive_main.py"
# Hardly a network, for what does not hang on the network: most of a run's time in a test is tracing and compiling.
SMALL = "variant=position_only,model.position_depth=0"
SMALL_MACRO = f"configs/ma2mi.py:tiny,{SMALL},objective=macro_cls"


def command(workdir, *arguments, config="configs/ma2mi.py:tiny"):
    flags = ["--config", config, "--workdir", str(workdir), "--compilation_cache", os.environ["MER_JAX_TEST_CACHE"]]
    return [sys.executable, str(DRIVER), *flags, *arguments]


def start(workdir, *arguments, data, **kwargs):
    environment = {**os.environ, "MER_JAX_DATA": str(data), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command(workdir, *arguments, **kwargs), cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def finish(process, code=0):
    out, err = process.communicate(timeout=1200)
    assert process.returncode == code, err[-3000:]
    return out, err


@pytest.fixture(scope="module")
def data():
    return Path(os.environ["MER_JAX_TEST_DATA"])


@pytest.fixture(scope="module")
def reference(tmp_path_factory, data):
    workdir = tmp_path_factory.mktemp("runs") / "reference"
    return workdir, finish(start(workdir, data=data))


def test_one_command_goes_from_nothing_to_a_report(reference):
    workdir, (out, _) = reference
    assert out.splitlines()[-1] == f"report: {workdir / 'report.html'}"
    metrics = json.loads((workdir / "metrics.json").read_text())
    keys = {"select", "comparable", "oracle_inputs", "n", "classes", "overall", "per_class", "per_dataset", "per_seed"}
    assert keys | {"confusion"} <= set(metrics)
    assert metrics["n"] == np.sum(metrics["confusion"]) == 25
    assert set(metrics["overall"]["uf1"]) == {"mean", "std", "low", "high"}
    predictions = read_predictions(workdir / "predictions.csv")
    assert len(set(zip(predictions.seed, predictions.clip, strict=True))) == len(predictions) == 25
    for artefact in ("config.json", "manifest.json", "splits.csv", "log.jsonl", "figures", "report.html"):
        assert (workdir / artefact).exists(), artefact
    assert list(workdir.glob("events.*"))


def test_what_lies_on_disk_opens_without_training_code(reference):
    workdir, _ = reference
    run = open_run(workdir)
    assert {"R", "R_shuf", "R_null", "waiting_for_data"} <= set(run.curves("pretrain"))
    folds = sorted(p.name for p in (workdir / "checkpoints" / "finetune" / "folds").iterdir())
    assert folds == sorted(set(run.predictions.fold))
    variables = checkpoint.read_arrays(workdir / "checkpoints" / "finetune" / "folds" / folds[0])
    assert {"encoder", "head"} == set(variables["params"])
    (step,) = (p for p in (workdir / "checkpoints" / "pretrain").iterdir() if p.name.isdigit())
    pretrained = checkpoint.read_arrays(step)
    assert {"bottleneck", "decoder", "encoder"} == set(pretrained["params"])


def test_a_run_says_again_what_it_predicted(reference, data):
    workdir, _ = reference
    run = open_run(workdir)
    store = run.clips(["synthetic_faces_tiny_micro/p003/c025"], str(data))  # a clip without an expression
    seen = run.look(store=store)
    order = [seen.clip.tolist().index(clip) for clip in run.predictions.clip]
    np.testing.assert_allclose(seen.probability[order], run.predictions.probability, atol=1e-5)
    np.testing.assert_array_equal(seen.fold[order], run.predictions.fold)
    network = run.network(seen.fold[0])
    linear = network.variables["params"]["head"]["linear"]
    mine = seen.fold == seen.fold[0]
    np.testing.assert_allclose(seen.features[mine] @ linear["kernel"] + linear["bias"], seen.logits[mine], atol=1e-4)
    assert set(run.tested_in) == {c for roles in run.splits.values() for c in roles["test"]} == set(seen.clip)

    other = run.look(["synthetic_faces_tiny_micro/p003/c025"], fold=run.folds()[1], store=store)
    assert other.logits.shape == (1, 1, 5)
    assert other.fold.tolist() == [run.folds()[1]]
    assert run.classes[run.number("surprise")] == "surprise"
    for wrong, message in (
        (lambda: run.look(["synthetic_faces_tiny_micro/p003/c025"], store=store), "no fold tested the clip 'synth"),
        (lambda: run.look(["p003/c025"], store=store), r"found no clip 'p003/c025' in synthetic_faces/tiny_micro"),
        (
            lambda: run.look(fold="p099", store=store),
            r"found no finished fold 'p099'; there are synthetic_tiny_micro-p001",
        ),
        (lambda: run.number("joy"), r"found no class 'joy'; there are happiness, disgust"),
    ):
        with pytest.raises(UserError, match=message):
            wrong()


def test_running_again_redoes_nothing(reference, data):
    workdir, _ = reference
    watched = [p for p in workdir.rglob("*") if p.is_file() and ("checkpoints" in p.parts or p.suffix == ".csv")]
    before = {p: (p.stat().st_mtime_ns if "checkpoints" in p.parts else p.read_bytes()) for p in watched}
    _, err = finish(start(workdir, data=data))
    after = {p: (p.stat().st_mtime_ns if "checkpoints" in p.parts else p.read_bytes()) for p in watched}
    assert before == after
    assert "pre-training of seed 0 is finished already" in err
    assert "step" not in err


def test_a_finished_run_is_scored_again_with_another_apex(reference, data):
    workdir, _ = reference
    before = (workdir / "predictions.csv").read_bytes()
    finish(start(workdir, "--config.eval.apex=middle", data=data))
    again = json.loads((workdir / "metrics-apex-middle.json").read_text())
    assert (again["n"], again["oracle_inputs"]) == (25, "boundaries")
    assert len(read_predictions(workdir / "predictions-apex-middle.csv")) == 25
    assert (workdir / "predictions.csv").read_bytes() == before


def test_kill_minus_nine_at_any_moment_changes_no_prediction(data, tmp_path):
    """Killed while building, pre-training, between the stages, while saving and in the folds; then run to the end."""
    expected, workdir, fresh = tmp_path / "expected", tmp_path / "killed", tmp_path / "data"
    finish(start(expected, data=data, config=SMALL_MACRO))

    def saving():
        return any(".orbax-checkpoint-tmp" in str(p) for p in workdir.glob("checkpoints/**/*"))

    def folds():
        return list(workdir.glob("checkpoints/finetune/folds/*/state"))

    moments = [
        lambda: (fresh / ".building").exists() and any((fresh / ".building").iterdir()),
        lambda: any(p.name.isdigit() for p in workdir.glob("checkpoints/pretrain/*")),
        saving,
        lambda: (workdir / "checkpoints" / "finetune").exists(),
        lambda: len(folds()) >= 2,
    ]
    for number, moment in enumerate(moments):
        process = start(workdir, data=fresh if number == 0 else data, config=SMALL_MACRO)
        deadline = time.monotonic() + 900
        while not moment() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert process.poll() is None, (number, process.communicate()[1][-2000:])
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finish(start(workdir, data=data, config=SMALL_MACRO))
    assert (workdir / "predictions.csv").read_bytes() == (expected / "predictions.csv").read_bytes()
    ours, theirs = (json.loads((w / "metrics.json").read_text()) for w in (workdir, expected))
    assert ours == theirs


def test_sigterm_saves_and_leaves_with_75(data, tmp_path):
    workdir, long = tmp_path / "preempted", "--config.pre.epochs=150"
    process = start(workdir, long, data=data, config=SMALL_MACRO)
    deadline = time.monotonic() + 900
    while not (workdir / "log.jsonl").exists() or not (workdir / "log.jsonl").read_text():
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = finish(process, code=75)
    assert "saved" in err.splitlines()[-1]
    steps = [int(p.name) for p in (workdir / "checkpoints" / "pretrain").iterdir() if p.name.isdigit()]
    assert steps
    _, err = finish(start(workdir, long, "--config.stages=pretrain", data=data, config=SMALL_MACRO))
    assert f"goes on from step {max(steps)}" in err


def test_selection_and_seeds(data, tmp_path):
    """`oracle` is branded, several seeds have checkpoints of their own, a shared pre-training is said."""
    flags = ["--config.seeds=(0,1)", "--config.pre.share=True", "--config.select=oracle"]
    out, _ = finish(start(tmp_path / "run", *flags, data=data, config=SMALL_MACRO))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert not metrics["comparable"]
    assert set(metrics["per_seed"]) == {"0", "1"}
    assert "NOT COMPARABLE" in out
    assert "NOT COMPARABLE" in (tmp_path / "run" / "report.html").read_text().upper()
    assert any("share a pre-training" in note for note in metrics["notes"])
    assert len(list((tmp_path / "run" / "checkpoints").glob("seed_*/finetune/folds/*"))) == 10
    assert len(list((tmp_path / "run" / "checkpoints").glob("seed_*/pretrain"))) == 1


def test_action_units_are_a_task(data, tmp_path):
    finish(start(tmp_path / "run", data=data, config=f"configs/ma2mi.py:synthetic_au,scratch,tiny,{SMALL}"))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["task"] == "au"
    assert {"all_ones", "all_zeros"} == set(metrics["baselines"])


@pytest.mark.parametrize(
    ("arguments", "config", "parts"),
    [
        ((), "configs/ma2mu.py", ("configs/ma2mu.py", "configs/ma2mi.py")),
        ((), "configs/ma2mi.py:tniy", ("tniy", "did you mean tiny")),
        (("--config.pre.epoch=3",), "configs/ma2mi.py:tiny", ("epoch", "epochs")),
        (("--config.pre.epochs=many",), "configs/ma2mi.py:tiny", ("epochs", "many")),
        (("--config.pre.latent=dtc",), "configs/ma2mi.py:tiny", ("pre.latent", "dtc", "dct")),
        (("--config.engine.fold_mode=map",), "configs/ma2mi.py:tiny", ("engine.fold_mode", "map", "vmap")),
        (("--config.data.name=synthetic_faces/mirco",), "configs/ma2mi.py:tiny", ("synthetic_faces/mirco",)),
        (("--config.init_from=/nowhere",), "configs/ma2mi.py:tiny", ("init_from", "/nowhere")),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(reference, data, tmp_path, arguments, config, parts):
    out, err = finish(start(tmp_path / "run", *arguments, data=data, config=config), code=2)
    assert "Traceback" not in err + out
    for part in parts:
        assert part in err


def test_a_changed_config_on_a_workdir_is_refused_by_key(reference, data):
    workdir, _ = reference
    _, err = finish(start(workdir, "--config.ft.epochs=5", data=data), code=2)
    assert "ft.epochs: 4 there, 5 now" in err


def test_a_plan_trains_nothing(data, tmp_path):
    out, _ = finish(start(tmp_path / "planned", "--plan", data=data, config=SMALL_MACRO))
    assert "5 (loso)" in out
    assert not (tmp_path / "planned").exists()


def test_help_tells_what_there_is():
    done = subprocess.run(
        [sys.executable, "-m", "mer_jax.main", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "configs/ma2mi.py" in done.stdout
    assert "[no]plan" in done.stdout
