import logging
import signal
import subprocess
import sys

import numpy as np
import pytest

from mer_jax.data.motion_cache import DamagedEntryError, MotionCache, decode, encode
from mer_jax.errors import UserError

NAMES = ["aa", "bb", "cc", "bb", "dd"]


class Counting:
    """Computes an array of each clip from its name and remembers what was asked for."""

    def __init__(self, stop_at=None):
        self.asked, self.stop_at = [], stop_at

    def __call__(self, wanted):
        if self.stop_at in wanted:
            raise KeyboardInterrupt
        self.asked.append(list(wanted))
        return [self.array(NAMES[k]) for k in wanted]

    @staticmethod
    def array(name):
        return np.frombuffer(name.encode(), np.uint8).astype(np.float32) * np.ones((3, 1), np.float32)


def check(arrays):
    assert len(arrays) == len(NAMES)
    for array, name in zip(arrays, NAMES, strict=True):
        np.testing.assert_array_equal(array, Counting.array(name))


def test_everything_is_computed_once(tmp_path):
    first, second, counts = Counting(), Counting(), []
    check(MotionCache(tmp_path).get(NAMES, "key", first, chunk=2, progress=counts.append))
    assert first.asked == [[0, 1], [2, 4]]  # equal clips once
    assert sum(counts) == len(NAMES)
    check(MotionCache(tmp_path).get(NAMES, "key", second))
    assert second.asked == []


def test_another_key_is_another_entry(tmp_path):
    cache, again = MotionCache(tmp_path), Counting()
    cache.get(NAMES, "key", Counting())
    cache.get(NAMES, "other key", again)
    assert again.asked == [[0, 1, 2, 4]]
    assert (cache.directory("key") / "key.json").read_text() == "key\n"


def test_interrupted_work_goes_on_where_it_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        MotionCache(tmp_path).get(NAMES, "key", Counting(stop_at=2), chunk=1)
    rest = Counting()
    check(MotionCache(tmp_path).get(NAMES, "key", rest, chunk=1))
    assert rest.asked == [[2], [4]]


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty", "foreign"])
def test_damaged_entries_are_computed_again_and_named(tmp_path, caplog, damage):
    cache = MotionCache(tmp_path)
    cache.get(NAMES, "key", Counting())
    path = cache.directory("key") / "cc.motion"
    whole = path.read_bytes()
    altered = bytearray(whole)
    altered[-1] ^= 1
    path.write_bytes(
        {"truncated": whole[:-5], "altered": bytes(altered), "empty": b"", "foreign": b"PK" + whole}[damage]
    )
    again = Counting()
    with caplog.at_level(logging.WARNING):
        check(cache.get(NAMES, "key", again))
    assert again.asked == [[2]]
    assert "cc.motion is damaged" in caplog.text
    assert path.read_bytes() == whole


def test_every_cut_and_every_bit_of_a_small_entry_is_noticed():
    whole = encode(np.arange(3, dtype=np.float32))
    np.testing.assert_array_equal(decode(whole), [0, 1, 2])
    for size in range(len(whole)):
        with pytest.raises(DamagedEntryError):
            decode(whole[:size])
    for k in range(len(whole)):
        with pytest.raises(DamagedEntryError):
            decode(whole[:k] + bytes([whole[k] ^ 0x10]) + whole[k + 1 :])


def test_types_and_shapes_survive(tmp_path):
    arrays = [
        np.zeros((0, 4, 4, 2), np.float16),
        np.float32(3.5) * np.ones(()),
        np.arange(6, dtype=np.int16).reshape(2, 3).T,
    ]
    cache = MotionCache(tmp_path)
    for get in range(2):
        found = cache.get(["a", "b", "c"], "k", lambda wanted, n=get: [arrays[k] for k in wanted] if n == 0 else [])
        for a, b in zip(found, arrays, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_no_temporary_file_is_left(tmp_path):
    MotionCache(tmp_path).get(NAMES, "key", Counting())
    left = sorted(p.name for p in tmp_path.rglob("*") if p.is_file())
    assert left == ["aa.motion", "bb.motion", "cc.motion", "dd.motion", "key.json"]


def test_a_killed_process_leaves_whole_entries_only(tmp_path):
    """The child dies while it writes its third entry: the temporary file is there, the entry is not."""
    program = """
import os, signal, sys
import numpy as np
from mer_jax.data import motion_cache
replace, done = os.replace, []
def dying(source, target):
    if str(target).endswith(".motion"):
        done.append(target)
        if len(done) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = dying
motion_cache.MotionCache(sys.argv[1]).get(
    ["aa", "bb", "cc", "dd"], "key", lambda wanted: [np.full(4, k, np.float32) for k in wanted], chunk=2)
"""
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    asked = []

    def compute(wanted):
        asked.extend(wanted)
        return [np.full(4, k, np.float32) for k in wanted]

    found = MotionCache(tmp_path).get(["aa", "bb", "cc", "dd"], "key", compute)
    np.testing.assert_array_equal(found, np.arange(4)[:, None] * np.ones(4))
    assert asked == [2, 3]


def test_a_wrong_number_of_arrays_is_a_bug(tmp_path):
    with pytest.raises(ValueError, match="5 clips gave 1"):
        MotionCache(tmp_path).get(list("abcde"), "k", lambda wanted: [np.zeros(1)])


def test_a_place_that_cannot_be_written_is_a_users_mistake(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(UserError, match="motion targets cannot be kept"):
        MotionCache(tmp_path / "file").get(["a"], "k", lambda wanted: [np.zeros(1)])
