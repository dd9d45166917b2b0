import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from mer_jax.errors import Preempted, UserError
from mer_jax.training import checkpoint, pretrain
from mer_jax.training.monitor import Monitor
from tests.training import toy

SETTINGS = pretrain.PretrainSettings(steps=20, steps_per_epoch=4, batch=8, chunk_steps=5, save_every=10)
ROOT = Path(__file__).parents[2]


class Stop:
    def __init__(self, at=None):
        self.at, self.calls = at, 0

    def reached(self):
        self.calls += 1
        return self.calls == self.at


def run(directory, stop=None, stream=None, health=None, constants=dict, system=None, settings=SETTINGS):
    directory.mkdir(parents=True, exist_ok=True)
    engine = pretrain.PretrainEngine(system or toy.ToySystem(), settings)
    rolling, monitor = checkpoint.Rolling(directory / "pretrain"), Monitor(directory)
    try:
        stream = stream or toy.Stream(SETTINGS.batch)
        variables = pretrain.pretrain(engine, stream, constants, rolling, monitor, stop or Stop(), {}, health)
        return jax.tree.map(np.asarray, variables)
    finally:
        monitor.close()
        rolling.close()


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return run(tmp_path_factory.mktemp("one"))


def assert_close(a, b, tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.abs(x - y).max() <= tolerance * np.abs(y).max()


def test_rematerialisation_changes_nothing_but_is_in_the_program(tmp_path, reference):
    again = dataclasses.replace(SETTINGS, remat="products")
    assert_close(run(tmp_path, settings=again), reference, 1e-5)
    batch = toy.Stream(SETTINGS.batch)(0)
    kept = [
        str(jax.make_jaxpr(engine._train_global)(engine.init(batch, {}), batch, 0)).count("remat")
        for engine in (pretrain.PretrainEngine(toy.ToySystem(), s) for s in (SETTINGS, again))
    ]
    assert kept[0] == 0 < kept[1]
    with pytest.raises(UserError, match=r"engine\.remat is 'all'; expected one of none, products"):
        dataclasses.replace(SETTINGS, remat="all")


@pytest.mark.parametrize("stop_at", [1, 3])
def test_a_preempted_pretraining_continues_to_identical_results(tmp_path, reference, stop_at):
    with pytest.raises(Preempted):
        run(tmp_path, Stop(at=stop_at))
    fitted_again = []
    variables = run(tmp_path, constants=lambda: fitted_again.append(1) or {})
    assert_close(variables, reference, 0)
    assert not fitted_again


def test_what_was_fitted_is_in_the_checkpoint(tmp_path):
    fitted = {"latent": {"mean": np.arange(3, dtype=np.float32)}}
    with pytest.raises(Preempted):
        run(tmp_path, Stop(at=1), constants=lambda: fitted)
    variables = run(tmp_path, constants=lambda: 1 / 0)
    assert_close(variables["constants"], fitted, 0)


def test_looks_are_logged_with_health_and_waiting(tmp_path):
    run(tmp_path, health=lambda variables: {"R": 0.5})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all(line["R"] == 0.5 and 0 <= line["waiting_for_data"] <= 1 for line in lines)


def test_a_batch_that_does_not_divide_is_refused(monkeypatch):
    monkeypatch.setattr(pretrain.mesh, "make_mesh", lambda axis: type("Mesh", (), {"size": 3})())
    with pytest.raises(UserError, match=r"pre\.batch is 8; expected a multiple of the 3 devices .*: 6 or 9"):
        pretrain.PretrainEngine(toy.ToySystem(), SETTINGS)


@pytest.mark.parametrize(("processes", "devices"), [(1, 8), (2, 4)])
def test_devices_and_processes_agree_with_one_device(tmp_path, reference, processes, devices):
    script = ROOT / "tests" / "training" / "many_devices.py"
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": "",
    }
    port = str(29000 + os.getpid() % 10000)
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path), port, str(processes), str(i)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    for worker in workers:
        _, stderr = worker.communicate(timeout=1200)
        assert worker.returncode == 0, stderr
    pretrained = checkpoint.read_arrays(tmp_path / "pretrain" / "pretrain" / "20")
    assert_close({"params": pretrained["params"], **pretrained["collections"]}, reference, 1e-4)
    # divided over the devices, and computed again in the backward pass: the same, and it opens on one device
    expected = run(tmp_path / "wide", system=toy.WideSystem())
    sharded = tmp_path / "sharded" / "pretrain" / "20"
    assert_close(checkpoint.read_arrays(sharded)["params"], expected["params"], 1e-4)
    assert_close(checkpoint.read_arrays(tmp_path / "sharded" / "stopped" / "20"), checkpoint.read_arrays(sharded), 0)
    if processes == 1:
        sent = json.loads((tmp_path / "sent.json").read_text())
        assert sent.pop("folds0") == sent.pop("folds1") == {}  # folds know nothing of each other
        weights = 4 * sum(x.size for x in jax.tree.leaves(expected["params"]))
        # gradients and a few scalars are summed, once, and nothing else is sent
        assert set(sent["whole"]) == {"all-reduce"}
        assert weights <= sent["whole"]["all-reduce"][1] <= weights + 64
        # the one large leaf is collected; its gradient may be summed whole, or sent in shares
        assert {"all-gather"} <= set(sent["sharded"]) <= {"all-gather", "all-reduce", "reduce-scatter"}
        assert sent["sharded"]["all-gather"][1] >= 4 * 192 * 64
    # the folds of the same processes against folds one by one on one device
    for name, expected in toy_folds(tmp_path / "one").items():
        found = tmp_path / "folds" / "folds" / name
        assert_close(checkpoint.read_arrays(found), expected, 1e-4)
        stopped = tmp_path / "stopped" / "folds" / name
        assert_close(checkpoint.read_arrays(stopped), checkpoint.read_arrays(found), 0)
        assert checkpoint.read_meta(stopped) == checkpoint.read_meta(found)


def toy_folds(directory):
    from tests.training.test_waves import run as run_folds

    return run_folds(directory)[0]
