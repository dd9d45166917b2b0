"""The stream over a built set: the same batches for any number of workers and processes; damage is one message."""

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mer_jax.data import source
from mer_jax.data.pairs import PairSettings
from mer_jax.data.source import open_dataset
from mer_jax.data.stream import PairStream
from mer_jax.errors import UserError
from tfds_builders.build import ensure_built

NAME, BATCH, SIZE = "synthetic_faces/tiny_macro", 8, 24


@pytest.fixture(scope="module")
def data() -> Path:
    folder = Path(os.environ["MER_JAX_TEST_DATA"])
    ensure_built(NAME, folder)
    return folder


def open_stream(data: Path, threads: int, process: int = 0, processes: int = 1) -> PairStream:
    clips = open_dataset(NAME, data)
    settings = PairSettings(threads=threads, prefetch=3, cache_mb=0.1)
    return PairStream(clips, np.arange(len(clips)), settings, 7, BATCH, process, processes, size=SIZE)


def batches(stream: PairStream, start: int = 0) -> list[dict[str, np.ndarray]]:
    with stream.iterate(start, 2 + -(-len(stream.rows) // BATCH)) as found:
        return list(found)


def test_batches_do_not_depend_on_workers_or_processes(data: Path):
    expected = batches(open_stream(data, 0))
    visited = np.concatenate([batch["example"] for batch in expected])
    assert np.array_equal(visited, np.arange(len(expected) * BATCH))  # every example once
    for threads in (2, 4):
        for ours, theirs in zip(batches(open_stream(data, threads)), expected, strict=True):
            assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    # a stream that begins later gives what the first one gave there
    assert np.array_equal(batches(open_stream(data, 2), start=2)[0]["first"], expected[2]["first"])
    halves = [batches(open_stream(data, threads, process, 2)) for process, threads in ((0, 2), (1, 0))]
    for first, second, whole in zip(*halves, expected, strict=True):
        assert not set(first["example"]) & set(second["example"])
        assert all(np.array_equal(np.concatenate([first[name], second[name]]), whole[name]) for name in whole)


def test_threads_read_side_by_side(data: Path, monkeypatch: pytest.MonkeyPatch):
    both = threading.Barrier(2, timeout=60)  # nobody leaves before two are reading
    records = source.open_records

    class Slow:
        def __init__(self, directory: Path) -> None:
            self._records = records(directory)

        def __getitem__(self, i: int) -> Any:
            both.wait()
            return self._records[i]

    monkeypatch.setattr(source, "open_records", Slow)
    clips = source.open_dataset(NAME, data)
    with ThreadPoolExecutor(2) as pool:
        assert all(list(pool.map(clips.encoded, (0, 1))))


@pytest.fixture
def damaged(data: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the data, and its records."""
    shutil.copytree(data / NAME, tmp_path / NAME)
    return tmp_path, next((tmp_path / NAME).rglob("*.array_record*"))


def test_a_truncated_shard_is_named_before_anything_is_read(damaged: tuple[Path, Path]):
    folder, shard = damaged
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(UserError, match=rf"{shard.name}: \d+ bytes found, \d+ expected; the dataset is damaged"):
        open_dataset(NAME, folder)


def test_a_shard_that_is_cut_off_while_it_is_read_is_one_message(damaged: tuple[Path, Path]):
    folder, shard = damaged
    clips = open_dataset(NAME, folder)
    shard.write_bytes(shard.read_bytes()[:1000])
    stream = PairStream(clips, np.arange(len(clips)), PairSettings(threads=2), 7, BATCH, size=SIZE)
    with pytest.raises(UserError, match=r"clip \S+ cannot be read \(.*delete the directory and build"):
        batches(stream)


def test_an_unreachable_folder_is_one_message(tmp_path: Path):
    with pytest.raises(UserError, match=rf"dataset '{NAME}' is not built in {tmp_path}/gone"):
        open_dataset(NAME, tmp_path / "gone")
