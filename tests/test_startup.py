"""What a process says and does before and after a run; runs of several processes are in tests/launch."""

import os
import signal
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
    ],
)
def test_a_lost_process_is_one_message_and_run_again(told, capsys):
    assert startup.fail(jax.errors.JaxRuntimeError(told)) == 75
    err = capsys.readouterr().err
    assert "another process of this run is gone" in err
    assert told[:60] in err
    assert "Traceback" not in err


def test_any_other_error_of_several_processes_is_a_bug_with_its_traceback(capsys):
    assert startup.fail(ZeroDivisionError("division by zero")) == 1
    assert "ZeroDivisionError: division by zero" in capsys.readouterr().err


def test_a_process_alone_may_be_suspended():
    """As with a laptop: nobody waits for its heartbeats, whatever the time-out between processes."""
    code = """
import time
from mer_jax import startup
startup.start_jax(None, None, None, cache="", process_timeout=1)
print("started", flush=True)
time.sleep(3)
print("went on", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(4)
        os.kill(process.pid, signal.SIGCONT)
        assert process.communicate(timeout=60)[0] == "went on\n"
    assert process.returncode == 0


def test_without_others_process_0_agrees_with_itself():
    assert mesh.agree(3.0) == 3.0
    np.testing.assert_array_equal(mesh.agree_on(np.array([True, False])), [True, False])
