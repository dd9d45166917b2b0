"""launch/local_multiprocess.sh for real: two processes of one run, stopped, killed and then run to the end."""

import csv
import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest

from mer_jax.evaluation.results import read_predictions
from tests.launch.launching import LAUNCH, ROOT, environment

# Hardly a network: process 1 compiles everything at every start (JAX keeps programs of process 0).
CONFIG = "configs/ma2mi.py:tiny,variant=position_only,objective=macro_cls,model.position_depth=0"
TIMEOUT = 15  # seconds until a silent process counts as lost
PATIENCE = 1500  # seconds for anything, on a machine that does much else


class Run:
    """A start of both processes; their output goes to files."""

    def __init__(self, workdir, number):
        self.logs = workdir.with_name(f"{workdir.name}.{number}")
        self.logs.mkdir()
        names = {
            "MER_JAX_CONFIG": CONFIG, "MER_JAX_WORKDIR": str(workdir), "MER_JAX_LOGS": str(self.logs),
            "MER_JAX_DATA": os.environ["MER_JAX_TEST_DATA"], "MER_JAX_COMMIT": f"commit{number}",
            "MER_JAX_FLAGS":
                f"--compilation_cache {os.environ['MER_JAX_TEST_CACHE']} --process_timeout {TIMEOUT}",
        }  # fmt: skip
        self._out = open(self.logs / "out", "w")  # noqa: SIM115
        self._err = open(self.logs / "0.log", "w")  # noqa: SIM115
        self.process = subprocess.Popen(
            ["bash", str(LAUNCH / "local_multiprocess.sh")], cwd=ROOT, env=environment(**names),
            stdout=self._out, stderr=self._err, start_new_session=True,
        )  # fmt: skip

    def said(self, process=0):
        path = self.logs / f"{process}.log"
        return path.read_text() if path.exists() else ""

    @property
    def pids(self):
        line = next((s for s in self.said().splitlines() if s.startswith("processes: ")), "")
        return [int(word) for word in line.removeprefix("processes: ").split(";")[0].split()]

    def wait_for(self, moment):
        deadline = time.monotonic() + PATIENCE
        while not moment():
            assert self.process.poll() is None, self.said()[-2000:] + self.said(1)[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def end(self, seconds=PATIENCE):
        code = self.process.wait(seconds)
        self._out.close()
        self._err.close()
        return code

    def kill(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The workdir of a run that nothing happens to."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    run = Run(workdir, 0)
    try:
        assert run.end() == 0, run.said()[-3000:] + run.said(1)[-2000:]
    finally:
        run.kill()
    return workdir


def test_two_processes_are_stopped_killed_and_end_with_one_report(tmp_path, undisturbed):
    workdir, runs = tmp_path / "run", []
    log = workdir / "log.jsonl"

    def start():
        runs.append(Run(workdir, len(runs)))
        return runs[-1]

    def looks():
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def in_folds():
        return sum(look["stage"] == "finetune" for look in looks())

    try:
        # SIGTERM to the process that does not write, before its first steps are over: both save the same step and leave
        # with 75
        run = start()
        run.wait_for(lambda: "pre-training: 20 steps" in run.said())
        os.kill(run.pids[1], signal.SIGTERM)
        assert run.end() == 75, run.said()[-3000:]
        for process in (0, 1):
            assert "saved. Run the same command again" in run.said(process), run.said(process)[-2000:]
        assert run.said().count(" ended with 75") == 2
        (saved,) = (int(p.name) for p in (workdir / "checkpoints" / "pretrain").iterdir() if p.name.isdigit())

        # kill -9 in the folds, of each process: the other one ends by itself, in time
        for victim in (1, 0):
            run, before = start(), in_folds()
            run.wait_for(lambda before=before: in_folds() > before)
            assert victim == 0 or f"pre-training goes on from step {saved} of 20" in run.said()
            os.kill(run.pids[victim], signal.SIGKILL)
            killed = time.monotonic()
            code = run.end(TIMEOUT + 120)
            assert code in (75, 134, 137), run.said()[-3000:]
            assert f"process {victim} ended with 137" in run.said()
            said = run.said(1 - victim)
            assert "another process of this run is gone" in said or "another task died" in said or "shut down" in said
            assert time.monotonic() - killed < TIMEOUT + 90

        # the rerun goes on and finishes
        run = start()
        assert run.end() == 0, run.said()[-3000:] + run.said(1)[-2000:]
        assert "pre-training of seed 0 is finished already and kept" in run.said()
    finally:
        for run in runs:
            run.kill()

    # nothing that happened shows
    assert (workdir / "predictions.csv").read_bytes() == (undisturbed / "predictions.csv").read_bytes()

    # complete: every clip once, by its own fold
    predictions = read_predictions(workdir / "predictions.csv")
    with open(workdir / "splits.csv") as file:
        tested = {(row["clip"], row["fold"]) for row in csv.DictReader(file) if row["role"] == "test"}
    assert set(zip(predictions.clip, predictions.fold, strict=True)) == tested
    assert len(predictions) == len(tested) == 25
    assert np.isfinite(predictions.probability).all()
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert (metrics["n"], metrics["comparable"]) == (25, True)
    assert (runs[-1].logs / "out").read_text().splitlines()[-1] == f"report: {workdir / 'report.html'}"
    assert (workdir / "report.html").stat().st_size > 10_000

    # one writer: one file of events a start, no look twice, nothing from the other process but what it may say
    assert len(list(workdir.glob("events.*"))) == len(runs) == 4
    places = [(look["stage"], look["step"], look.get("fold")) for look in looks()]
    pretraining = [p for p in places if p[0] == "pretrain"]
    assert len(pretraining) == len(set(pretraining)) == 5
    assert {p for p in places if p[0] == "finetune"} == {
        ("finetune", step, fold) for step in (4, 8, 12) for _, fold in tested
    }
    for run in runs:
        assert "pre-training" not in run.said(1).replace("stopped in pre-training", "")
        assert "folds " not in run.said(1)
    manifest = json.loads((workdir / "manifest.json").read_text())
    assert (manifest["processes"], manifest["devices"]["count"]) == (2, 2)
    assert manifest["commits"] == ["commit0", "commit1", "commit2", "commit3"]
