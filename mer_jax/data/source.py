"""Clips on disk: any built dataset, read without TensorFlow, one frame at a time where one frame is wanted."""

from __future__ import annotations

import collections
import difflib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mer_jax import files
from mer_jax.data import frames as frames_lib
from mer_jax.data import index as index_lib
from mer_jax.data import remote
from mer_jax.data.clips import ClipRecord, ClipTable
from mer_jax.data.index import Index
from mer_jax.errors import UserError

_CACHED_CLIPS = 8  # encoded clips kept for each dataset: a training pair reads the same clip a few times in a row


class NotBuiltError(UserError):
    """A dataset is not there; building it may help."""


Content = tuple[list[bytes], np.ndarray]  # encoded frames, landmarks float32 [T, 68, 2]


class _Part(Protocol):
    """One dataset of a source."""

    index: Index
    where: str

    def read(self, i: int) -> Content:
        """The content of clip `i`."""


class ClipSource:
    """Clips of one or more datasets: facts in memory, frames read on demand.

    Safe to share between threads, and picklable (workers open their own files).

    Attributes:
      table: facts of all clips, in a fixed order; `i` below is a row of it.
      fingerprint: hexadecimal SHA-256 over the content of all clips and their order.
      clip_fingerprints: hexadecimal SHA-256 of the content of each clip [n].
      shapes: int32 [n, 3], height, width and channels of the frames of each clip.
    """

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = tuple(parts)
        index = [p.index for p in self._parts]
        self.table = ClipTable.concatenate([x.table for x in index])
        self.clip_fingerprints = np.concatenate([x.fingerprints for x in index])
        self.shapes = np.concatenate([x.shapes for x in index])
        self.fingerprint = Index(self.table, self.clip_fingerprints, self.shapes).fingerprint
        self._ends = np.cumsum([len(x.table) for x in index])

    def __len__(self) -> int:
        return len(self.table)

    def encoded(self, i: int) -> list[bytes]:
        """The encoded frames of clip `i`, T of them; nothing is decoded."""
        return self._read(i)[0]

    def landmarks(self, i: int) -> np.ndarray:
        """Landmarks of clip `i`, float32 [T, 68, 2] in pixels of its frames."""
        return self._read(i)[1]

    def frame(self, i: int, t: int) -> np.ndarray:
        """Frame `t` of clip `i`, uint8 [H, W, C] (RGB order); no other frame is decoded.

        Raises:
          IndexError: the clip has no frame `t`.
          UserError: the frame cannot be decoded.
        """
        encoded = self.encoded(i)
        if not 0 <= t < len(encoded):
            raise IndexError(f"clip {self.table['clip'][i]} has {len(encoded)} frames; there is no frame {t}")
        try:
            return frames_lib.decode(encoded[t])
        except frames_lib.FrameError as error:
            raise UserError(f"clip {self.table['clip'][i]}, frame {t}: {error}") from None

    def frames(self, i: int) -> np.ndarray:
        """All frames of clip `i`, uint8 [T, H, W, C]."""
        return np.stack([self.frame(i, t) for t in range(int(self.table["length"][i]))])

    def _read(self, i: int) -> Content:
        if not 0 <= i < len(self):
            raise IndexError(f"there are {len(self)} clips; there is no clip {i}")
        part = int(np.searchsorted(self._ends, i, side="right"))
        return self._parts[part].read(int(i) - (int(self._ends[part - 1]) if part else 0))


class _MemoryPart:
    def __init__(self, records: Sequence[ClipRecord]) -> None:
        self._records = tuple(records)
        self.where = "memory"
        self.index = Index(
            ClipTable.from_records(self._records),
            np.array([index_lib.clip_fingerprint(r) for r in self._records], dtype=str),
            np.array([frames_lib.decode(r.frames[0]).shape for r in self._records], np.int32).reshape(-1, 3),
        )

    def read(self, i: int) -> Content:
        record = self._records[i]
        return list(record.frames), np.asarray(record.landmarks, np.float32)


class _StoredPart:
    """A built dataset: its index is read at once, its records when the first clip is asked for."""

    def __init__(self, directory: Path) -> None:
        self.where = str(directory)
        self.index = index_lib.read_index(directory)
        self._directory = directory
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._records: Any = None
        self._cache: collections.OrderedDict[int, Content] = collections.OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"where": self.where, "index": self.index, "_directory": self._directory}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def read(self, i: int) -> Content:
        with self._lock:
            if self._records is None:
                self._records = self._named(i, lambda: open_records(self._directory))
            if i in self._cache:
                self._cache.move_to_end(i)
                return self._cache[i]
        content = self._load(i)  # without the lock: threads read side by side
        with self._lock:
            self._cache[i] = content
            if len(self._cache) > _CACHED_CLIPS:
                self._cache.popitem(last=False)
            return content

    def _load(self, i: int) -> Content:
        record = self._named(i, lambda: self._records[i])
        name = str(self.index.table["clip"][i])
        if record["clip"].decode() != name:
            raise UserError(
                f"{self.where}: record {i} holds {record['clip'].decode()}, the index says {name}; "
                "delete the directory and build the dataset again"
            )
        return list(record["frames"]), np.asarray(record["landmarks"], np.float32)

    def _named(self, i: int, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except Exception as error:  # the reader raises whatever its C++ side calls the damage
            raise UserError(
                f"{self.where}: clip {self.index.table['clip'][i]} cannot be read "
                f"({' '.join(str(error).split())[:200]}); delete the directory and build the dataset again"
            ) from error


def open_records(directory: Path) -> Any:
    """The records of a dataset as a random-access sequence of feature dictionaries; TensorFlow is not imported."""
    import tensorflow_datasets as tfds  # half a second, paid by those only who read frames

    return tfds.builder_from_directory(str(directory)).as_data_source(index_lib.SPLIT)


def default_data_dir() -> Path:
    """Where datasets are built and found unless said otherwise: `$MER_JAX_DATA`, else `~/.cache/mer_jax/data`."""
    return files.path_of(os.environ.get("MER_JAX_DATA") or files.local_cache())


def open_dataset(name: str, data_dir: Path | str | None = None) -> ClipSource:
    """Opens a built dataset.

    Args:
      name: `dataset` or `dataset/config`, as given to `python -m tfds_builders.build`.
      data_dir: where datasets are built, a folder or a URL; None for `default_data_dir()`.

    Raises:
      UserError: the dataset is not built there, the name lacks its config, or files are damaged.
    """
    root = default_data_dir() if data_dir is None else files.path_of(data_dir)
    directory = find_directory(name, root)
    if files.is_remote(directory):
        directory = remote.local_copy(directory)
    marker = index_lib.read_marker(directory)
    assert marker is not None
    index_lib.check_files(directory, marker)
    return ClipSource([_StoredPart(directory)])


def open_datasets(names: Sequence[str], data_dir: Path | str | None = None) -> ClipSource:
    """Opens several built datasets as one source, clips in the order of `names`."""
    return join([open_dataset(name, data_dir) for name in names])


def join(sources: Sequence[ClipSource]) -> ClipSource:
    """One source with the clips of all, in order.

    Raises:
      UserError: a clip appears twice.
    """
    return ClipSource([part for source in sources for part in source._parts])


def memory_source(records: Sequence[ClipRecord]) -> ClipSource:
    """A source over records that are in memory."""
    return ClipSource([_MemoryPart(records)])


def find_directory(name: str, data_dir: Path) -> Path:
    """The directory of a dataset's newest finished version.

    Raises:
      NotBuiltError: there is none; the message says what to run.
    """
    directory = data_dir / name
    finished = [p for p in _children(directory) if (p / index_lib.MARKER).is_file()]
    if finished:
        return max(finished, key=lambda p: _version(p.name))
    flag = f" --data_dir {data_dir}"
    configs = sorted(n.split("/", 1)[1] for n in built_datasets(data_dir) if n.startswith(name + "/"))
    if configs:
        listed = ", ".join(f"{name}/{c}" for c in configs)
        raise UserError(f"dataset {name!r} has several configs; say which: {listed}")
    near = difflib.get_close_matches(name, built_datasets(data_dir), n=1)
    hint = f" (built there: did you mean {near[0]!r}?)" if near else ""
    if files.is_remote(data_dir):
        raise UserError(
            f"dataset {name!r} is not in {data_dir}; build it in a folder (python -m tfds_builders.build {name} "
            f"--data_dir FOLDER) and copy that: gcloud storage cp -r FOLDER/{name.split('/')[0]} {data_dir}/"
        )
    raise NotBuiltError(
        f"dataset {name!r} is not built in {data_dir}{hint}; run: python -m tfds_builders.build {name}{flag}"
    )


def built_datasets(data_dir: Path) -> list[str]:
    """Names of all finished datasets below a directory; none for a URL, where looking takes long."""
    names = set()
    if files.is_remote(data_dir):
        return []
    for pattern in ("*/*", "*/*/*"):
        for marker in data_dir.glob(f"{pattern}/{index_lib.MARKER}"):
            name = marker.parent.parent.relative_to(data_dir)
            if not any(part.startswith(".") for part in name.parts):
                names.add(name.as_posix())
    return sorted(names)


def _children(directory: Path) -> list[Path]:
    return sorted(p for p in directory.iterdir() if p.is_dir()) if directory.is_dir() else []


def _version(name: str) -> tuple[int, ...]:
    parts = name.split(".")
    return tuple(int(p) for p in parts) if all(p.isdigit() for p in parts) else (-1,)
