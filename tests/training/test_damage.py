"""Disks that fill up and checkpoints that were cut off: one clear error, and what was saved before still opens."""

import contextlib
import errno
import os
import resource

import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax import files, prepare
from mer_jax.errors import UserError
from mer_jax.training import checkpoint
from mer_jax.training.monitor import Monitor
from mer_jax.workdir import Workdir
from tests.training import test_pretrain


@contextlib.contextmanager
def full_disk(room):
    """Files cannot grow beyond `room` bytes: like a full disk, for C++ as well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_save_that_does_not_fit_leaves_the_one_before(tmp_path):
    rolling = checkpoint.Rolling(tmp_path)
    rolling.save(1, {"x": jnp.arange(8.0)}, {"step": 1})
    rolling.wait()
    noise = np.random.default_rng(0).normal(size=100_000)

    def save():
        rolling.save(2, {"x": jnp.asarray(noise)}, {"step": 2})
        rolling.wait()

    with full_disk(20_000), pytest.raises(Exception, match="File too large") as caught:
        save()
    assert "what was saved before is whole" in str(files.storage_error(caught.value))
    again = checkpoint.Rolling(tmp_path)  # the next start
    assert again.latest() == 1
    arrays, meta = again.restore(1)
    np.testing.assert_array_equal(arrays["x"], np.arange(8.0))
    assert meta == {"step": 1}
    again.save(2, {"x": jnp.asarray(noise)}, {"step": 2})
    again.close()
    assert [p.name for p in tmp_path.iterdir()] == ["2"]


def test_a_file_that_does_not_fit_leaves_the_one_before(tmp_path, monkeypatch):
    files.write_json(tmp_path / "metrics.json", {"n": 1})

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_json(tmp_path / "metrics.json", {"n": 2})
    assert files.storage_error(caught.value)
    assert files.read_json(tmp_path / "metrics.json") == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_events_that_do_not_fit_are_an_error_and_not_a_wait(tmp_path):
    monitor = Monitor(tmp_path)
    monitor._log.close()
    monitor._log = open(os.devnull, "a")  # noqa: SIM115  a line of the log may still fit
    monitor._flushed = np.inf
    metrics = {f"a term with a long name {i}": 1.0 for i in range(50)}

    def look_often():
        for step in range(1000):  # more than any queue holds
            monitor.look("pretrain", 0, step, metrics)

    with full_disk(20_000), pytest.raises(OSError, match="File too large") as caught:
        look_often()
    assert files.storage_error(caught.value)


def test_a_full_or_read_only_disk_is_told_in_one_message():
    def told(error):
        found = files.storage_error(error)
        return str(found), found.exit_code

    whole = "what was saved before is whole."
    room = f"{whole} Make room, or the file system writable, and run the same command again"
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/w/checkpoints/pretrain/4")
    assert told(full) == (f"/w/checkpoints/pretrain/4: No space left on device; {room}", 2)
    wrapped = RuntimeError("saving failed")
    wrapped.__cause__ = ValueError("RESOURCE_EXHAUSTED: write: Disk quota exceeded [source locations=...]")
    assert told(wrapped) == (f"Disk quota exceeded; {room}", 2)
    assert told(OSError(errno.EROFS, os.strerror(errno.EROFS))) == (f"Read-only file system; {room}", 2)
    stale = OSError(errno.ESTALE, os.strerror(errno.ESTALE), "/w/config.json")  # of a network: it may be there again
    assert told(stale) == (f"/w/config.json: Stale file handle; {whole} Run the same command again", 75)
    for other in (OSError(errno.ENOENT, "No such file or directory"), ValueError("shapes differ"), FileNotFoundError()):
        assert files.storage_error(other) is None


def test_a_read_only_workdir_is_one_message(tmp_path, monkeypatch):
    def refuse(self, data):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(type(tmp_path), "write_bytes", refuse)
    with pytest.raises(UserError, match=rf"--workdir {tmp_path} cannot be written \(Read-only file system\)"):
        Workdir(tmp_path, (0,))


def test_an_unreachable_data_dir_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.dir \S+file/data cannot be reached \(Not a directory\)"):
        prepare.open_or_build("synthetic_faces/tiny_macro", str(tmp_path / "file" / "data"), "")


def test_a_checkpoint_that_was_cut_off_is_named_and_the_others_open(tmp_path):
    finished = checkpoint.Finished(tmp_path)
    for name in ("a", "b"):
        finished.save(name, {"w": jnp.asarray(np.random.default_rng(0).normal(size=(64, 64)))}, {"fold": name})
    finished.close()
    largest = max((p for p in finished.path("a").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    with pytest.raises(UserError, match=r"the checkpoint \S+/a cannot be read: .*delete that folder"):
        checkpoint.read_arrays(finished.path("a"))
    assert checkpoint.read_arrays(finished.path("b"))["w"].shape == (64, 64)


def test_what_a_kill_leaves_while_saving_is_passed_over(tmp_path):
    stopped = test_pretrain.Stop(at=2)
    with pytest.raises(test_pretrain.Preempted):
        test_pretrain.run(tmp_path, stopped)
    half = tmp_path / "pretrain" / "15.orbax-checkpoint-tmp-3" / "state"
    half.mkdir(parents=True)
    (half / "_METADATA").write_text("{")
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Monitor, "say", lambda self, text: said.append(text))
        test_pretrain.run(tmp_path)
    assert "pre-training goes on from step 10 of 20" in said
    assert [p.name for p in (tmp_path / "pretrain").iterdir()] == ["20"]
