"""What a process says and does before and after a run; runs of several processes are in tests/launch."""

import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from mer_jax import startup
from mer_jax.errors import UserError
from mer_jax.training import mesh


def test_a_workdir_is_absolute():
    assert startup.workdir("~/a") == Path("~/a").expanduser()
    assert startup.workdir("b").is_absolute()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("host:1", 2, None), "belong together"),
        (("host", 2, 0), r"--coordinator is 'host'; expected host:port"),
        (("host:1", 2, 2), r"--process is 2 of --processes 2; expected 0 to 1"),
    ],
)
def test_flags_of_processes_must_fit_together(flags, message):
    with pytest.raises(UserError, match=message):
        startup.start_jax(*flags, cache="")


@pytest.mark.parametrize(
    "told",
    [
        "UNKNOWN: Gloo AllReduce failed: [external/gloo/gloo/transport/tcp/pair.cc:538] Connection reset by peer",
        "UNAVAILABLE: Failed to send RPC to coordination service.",
        "ABORTED: The following tasks are unhealthy (stopped sending heartbeats)",
        "INTERNAL: NCCL operation ncclGroupEnd() failed: remote process exited or there was a network error.",
    ],
)
def test_a_lost_process_is_one_message_and_run_again(told, capsys):
    assert startup.fail(jax.errors.JaxRuntimeError(told)) == 75
    err = capsys.readouterr().err
    assert "another process of this run is gone" in err
    assert told[:60] in err
    assert "Traceback" not in err


def test_a_lost_process_is_found_behind_the_errors_of_a_library(capsys):
    def save():
        try:
            raise jax.errors.JaxRuntimeError("INTERNAL: Barrier failed because: Task 1 heartbeat timeout.\nRPC: ...")
        except jax.errors.JaxRuntimeError as error:  # as orbax does it
            raise TimeoutError("Timed out while waiting for async_write_complete barrier.") from error

    def train():
        try:
            save()
        finally:  # an error of its own while the first one is on its way
            raise RuntimeError("cannot schedule new futures")

    with pytest.raises(RuntimeError) as caught:
        train()
    assert startup.fail(caught.value) == 75
    err = capsys.readouterr().err
    assert "(INTERNAL: Barrier failed because: Task 1 heartbeat timeout.)" in err
    assert "Traceback" not in err


TWO = """
import os, sys
from mer_jax import startup
me, wrong, code = (int(word) for word in sys.argv[2:5])
startup.start_jax("localhost:" + sys.argv[1], 2, me, cache="")
from mer_jax.training import mesh
if me == wrong:
    print("mer_jax: the disk is full", file=sys.stderr)
    os._exit(startup.stop(code, "the disk is full"))
mesh.barrier("never")
"""


@pytest.mark.parametrize(("wrong", "code"), [(0, 2), (1, 3)])
def test_a_mistake_of_one_process_ends_all_with_its_code(wrong, code):
    port = str(startup._free_port())
    begin = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, port, str(me), str(wrong), str(code)],
            cwd=Path(startup.__file__).parents[1], stderr=subprocess.PIPE, text=True,
        )
        for me in (0, 1)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [code, code], said
    assert "mer_jax: the disk is full" in said[wrong]
    assert f"mer_jax: process {wrong} of this run ended: the disk is full" in said[1 - wrong]
    assert time.monotonic() - begin < 250  # well before the wait of four hours is over


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("division by zero"),
        RuntimeError("NCCL operation ncclCommInitRankConfig failed: invalid usage"),  # again would end the same way
        OSError("503 UNAVAILABLE: the bucket"),
    ],
)
def test_any_other_error_of_several_processes_is_a_bug_with_its_traceback(error, capsys):
    assert startup.fail(error) == 1
    assert f"{type(error).__name__}: {error}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "tasks", "patient"),
    [
        ((None, None, None), None, True),
        ((None, None, None), "1", True),  # of Slurm
        ((None, None, None), "2", False),
        (("host:1", 2, 0), "1", False),  # started by hand in an allocation of one task
        (("host:1", 1, 0), None, True),
        (("host:1", 2, 0), None, False),
    ],
)
def test_nobody_waits_for_the_heartbeats_of_a_process_alone(flags, tasks, patient, monkeypatch):
    """It may be suspended, as with a laptop, and go on; of several, a silent one counts as lost after the time-out."""
    told = []

    def initialize(*_, heartbeat_timeout_seconds):
        told.append(heartbeat_timeout_seconds)
        if tasks is None and flags[0] is None and len(told) == 1:
            raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(startup, "_meet", lambda: None)
    if tasks:
        monkeypatch.setenv("SLURM_NTASKS", tasks)
    startup.start_jax(*flags, cache="", process_timeout=60)
    assert told[-1] == (startup._ALONE_SECONDS if patient else 60)


def test_without_others_process_0_agrees_with_itself():
    assert mesh.agree(3.0) == 3.0
    np.testing.assert_array_equal(mesh.agree_on(np.array([True, False])), [True, False])
