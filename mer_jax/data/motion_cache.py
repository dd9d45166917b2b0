"""A cache of arrays on disk, one file a clip, shared by all runs: whatever was computed once is read from then on.

<root>/<SHA-256 of the key>/key.json               what the directory holds, for people
                            <fingerprint>.motion   one array

An entry is a magic number, the SHA-256 of what follows, and the array in NumPy's format. It is written under a
temporary name, flushed and renamed, so a killed run leaves whole entries only; an entry that is damaged nevertheless
(a full disk, a bad copy) fails its checksum and is computed again.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mer_jax import files
from mer_jax.errors import UserError

_MAGIC = b"MERMOTN1"
_LOG = logging.getLogger(__name__)


class DamagedEntryError(ValueError):
    """An entry of the cache whose content is not what was written; the message says why."""


def encode(array: np.ndarray) -> bytes:
    """The bytes of an entry."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    body = buffer.getvalue()
    return _MAGIC + hashlib.sha256(body).digest() + body


def decode(entry: bytes) -> np.ndarray:
    """The array of an entry.

    Raises:
      DamagedEntryError: the entry is truncated, altered or of another kind.
    """
    head = len(_MAGIC)
    if entry[:head] != _MAGIC:
        raise DamagedEntryError("it does not begin as an entry of this cache")
    body = entry[head + 32 :]
    if hashlib.sha256(body).digest() != entry[head : head + 32]:
        raise DamagedEntryError(f"its {len(body)} bytes do not match their checksum")
    return np.load(io.BytesIO(body), allow_pickle=False)


class MotionCache:
    """Arrays by (key, fingerprint). Several processes may use one root at a time."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def directory(self, key: str) -> Path:
        """Where the entries of a key lie."""
        return self.root / hashlib.sha256(key.encode()).hexdigest()

    def get(
        self,
        fingerprints: Sequence[str],
        key: str,
        compute: Callable[[list[int]], Sequence[np.ndarray]],
        *,
        chunk: int = 64,
        progress: Callable[[int], None] = lambda n: None,
    ) -> list[np.ndarray]:
        """The array of every clip; missing ones are computed and kept, `chunk` clips at a time.

        Args:
          fingerprints: content hash of each clip, hexadecimal; equal clips are computed once.
          key: text that names everything else the arrays depend on (`MotionSpec.key`).
          compute: positions in `fingerprints` -> their arrays.
          chunk: clips computed between two writes; what a killed run loses at most.
          progress: called with the number of clips that are done since the last call.

        Raises:
          UserError: the cache cannot be written.
        """
        directory = self.directory(key)
        found: dict[str, np.ndarray] = {}
        missing: dict[str, int] = {}
        for k, name in enumerate(fingerprints):
            if name in found or name in missing:
                continue
            array = self._read(directory / f"{name}.motion")
            if array is None:
                missing[name] = k
            else:
                found[name] = array
        progress(sum(name in found for name in fingerprints))
        for names in _chunks(list(missing), chunk):
            arrays = compute([missing[name] for name in names])
            if len(arrays) != len(names):
                raise ValueError(f"{len(names)} clips gave {len(arrays)} arrays")
            self._write(directory, key, dict(zip(names, arrays, strict=True)))
            found.update(zip(names, arrays, strict=True))
            progress(sum(name in names for name in fingerprints))
        return [found[name] for name in fingerprints]

    def _read(self, path: Path) -> np.ndarray | None:
        try:
            return decode(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except DamagedEntryError as error:
            _LOG.warning("%s is damaged (%s): it is computed again", path, error)
            return None

    def _write(self, directory: Path, key: str, arrays: dict[str, np.ndarray]) -> None:
        try:
            if not (directory / "key.json").is_file():
                with files.atomic_open(directory / "key.json") as f:
                    f.write(key + "\n")
            for name, array in arrays.items():
                with files.atomic_open(directory / f"{name}.motion", "wb") as f:
                    f.write(encode(array))
        except OSError as error:
            raise UserError(
                f"{directory}: motion targets cannot be kept ({error.strerror}); expected a directory that can be "
                "written and has room: free some, or name another data directory"
            ) from None


def _chunks(names: list[str], size: int) -> Iterator[list[str]]:
    for begin in range(0, len(names), size):
        yield names[begin : begin + size]
