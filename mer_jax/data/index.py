"""What lies beside the records of a built dataset: the index (facts of every clip, no frames) and the finish marker.

<data_dir>/<dataset>[/<config>]/<version>/
  <dataset>-clips.array_record-*   the records
  clips.npz                        the index
  build_report.json                rows found, corrected, skipped
  finished.json                    the marker; a directory without it is not a dataset
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax import files
from mer_jax.data.clips import AU_COLUMNS, NUMBER_COLUMNS, TEXT_COLUMNS, ClipRecord, ClipTable
from mer_jax.errors import UserError

SPLIT = "clips"
INDEX = "clips.npz"
MARKER = "finished.json"
REPORT = "build_report.json"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Index:
    """Facts of n clips.

    Attributes:
      table: the clips in the order of the records.
      fingerprints: hexadecimal SHA-256 of each clip's whole content [n].
      shapes: int32 [n, 3], height, width and channels of a clip's frames.
    """

    table: ClipTable
    fingerprints: np.ndarray
    shapes: np.ndarray

    @property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 over the clips and their order."""
        return hashlib.sha256("\n".join(self.fingerprints.tolist()).encode()).hexdigest()


def clip_fingerprint(record: ClipRecord) -> str:
    """Hexadecimal SHA-256 of all fields of a clip, frames included."""
    digest = hashlib.sha256()
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        parts = list(value) if field.name == "frames" else [_plain_bytes(field.name, value)]
        digest.update(f"{field.name}:{len(parts)}".encode())
        for part in parts:
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.hexdigest()


def _plain_bytes(name: str, value: Any) -> bytes:
    if name in TEXT_COLUMNS:
        return str(value).encode()
    kind = NUMBER_COLUMNS.get(name) or (np.int8 if name in AU_COLUMNS else np.float32)
    array = np.ascontiguousarray(value, dtype=np.dtype(kind).newbyteorder("<"))
    return repr(array.shape).encode() + array.tobytes()


def write_index(directory: Path, index: Index) -> None:
    """Writes the index of a dataset."""
    arrays: dict[str, Any] = {f"table/{name}": column for name, column in index.table.columns.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, fingerprints=index.fingerprints, shapes=index.shapes, **arrays)
    with files.atomic_open(directory / INDEX, "wb") as f:
        f.write(buffer.getvalue())


def read_index(directory: Path) -> Index:
    """Reads the index of a finished dataset."""
    with np.load(directory / INDEX, allow_pickle=False) as stored:
        columns = {n.removeprefix("table/"): stored[n] for n in stored.files if n.startswith("table/")}
        return Index(ClipTable(columns), stored["fingerprints"], stored["shapes"])


def write_marker(directory: Path, facts: Mapping[str, Any]) -> None:
    """Declares a dataset finished: all its files are flushed to disk, their sizes noted, then the marker is written."""
    sizes = {}
    for path in sorted(p for p in directory.rglob("*") if p.is_file() and p.name != MARKER):
        with open(path, "rb") as f:
            os.fsync(f.fileno())
        sizes[path.relative_to(directory).as_posix()] = path.stat().st_size
    index_hash = hashlib.sha256((directory / INDEX).read_bytes()).hexdigest()
    files.write_json(directory / MARKER, {"format": _FORMAT, **facts, "index_sha256": index_hash, "files": sizes})


def read_marker(directory: Path) -> dict[str, Any] | None:
    """The marker of a finished dataset, or None where there is none."""
    try:
        marker = files.read_json(directory / MARKER)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise UserError(f"{directory / MARKER}: not JSON ({error}); delete {directory} and build it again") from None
    return marker if marker.get("format") == _FORMAT else None


def check_files(directory: Path, marker: Mapping[str, Any]) -> None:
    """Compares the files of a finished dataset with its marker.

    Raises:
      UserError: a file is missing, has another size, or the index has another content.
    """
    again = f"the dataset is damaged: delete {directory} and build it again"
    for name, size in marker["files"].items():
        path = directory / name
        if not path.is_file():
            raise UserError(f"{path}: file not found; {again}")
        if path.stat().st_size != size:
            raise UserError(f"{path}: {path.stat().st_size} bytes found, {size} expected; {again}")
    if hashlib.sha256((directory / INDEX).read_bytes()).hexdigest() != marker["index_sha256"]:
        raise UserError(f"{directory / INDEX}: the content has changed since it was built; {again}")
