"""Files that are whole or absent: every artefact is written under a temporary name, flushed to disk and renamed.

A path is a folder's or a URL's (`gs://bucket/run`, through etils and fsspec). An object of a bucket appears whole when
it has been uploaded, so there it is written at once, under its own name.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from mer_jax.errors import HiccupError, UserError, causes

SCHEMES = ("gs",)  # what orbax and TensorStore write checkpoints to, beside folders
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_HICCUP = (errno.EIO, errno.ESTALE)  # what network file systems say when they lose touch for a while
_STORAGE = re.compile("|".join(os.strerror(number) for number in (*_FULL, *_HICCUP)))


def local_cache() -> Path:
    """Where this machine keeps what it can make or fetch again."""
    return Path("~/.cache/mer_jax/data").expanduser()


def is_remote(path: Path | str) -> bool:
    """Whether a path is a URL."""
    return "://" in os.fspath(path)


def path_of(text: Path | str) -> Path:
    """A path from what a user wrote: absolute, or a URL.

    Raises:
      UserError: a URL that cannot be used, with the reason.
    """
    if not is_remote(text):
        return Path(text).expanduser().absolute()
    url = os.fspath(text)
    scheme = url.split("://")[0]
    if scheme not in SCHEMES:
        raise UserError(
            f"{url}: found {scheme}://; expected a folder or gs://. Checkpoints (orbax, TensorStore) are written "
            "nowhere else: mount the file system (launch/README.md) and name the folder below the mount"
        )
    if not re.match(r"\w+://[^/]+", url):
        raise UserError(f"{url}: names no bucket; expected gs://BUCKET/FOLDER")
    from etils import epath

    path: Any = epath.Path(url)
    try:
        path.exists()
    except ImportError as error:
        raise UserError(f'{url}: {error}. Install what reads it: pip install "mer_jax[gcs]"') from None
    except Exception as error:  # credentials, network: each client has errors of its own
        raise UserError(f"{url} cannot be reached ({' '.join(str(error).split())[:200]})") from None
    return path


def refresh(path: Path) -> None:
    """Forgets what a remote file system was seen to hold: others write there too."""
    if is_remote(path):
        from etils.epath import backend

        backend.fsspec_backend.fs(path).invalidate_cache()


def remove_tree(path: Path) -> None:
    """Removes a folder and all in it; what cannot be removed stays."""
    if not is_remote(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(Exception):
        remote: Any = path
        remote.rmtree(missing_ok=True)


@contextlib.contextmanager
def atomic_open(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a file for writing that is there, whole, once this ends without an error.

    It is a temporary neighbour of `path`, fsynced and renamed on success; of a URL it is held in memory, then uploaded.
    """
    if is_remote(path):
        buffer: IO[Any] = io.BytesIO() if "b" in mode else io.StringIO(newline="")
        yield buffer
        content = buffer.getvalue()  # type: ignore[attr-defined]
        path_of(path).write_bytes(content if "b" in mode else content.encode())
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8", newline=None if "b" in mode else "") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Makes renames inside a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path | str, value: Any) -> None:
    """Writes a value as indented JSON, atomically."""
    with atomic_open(path) as f:
        json.dump(value, f, indent=1, sort_keys=False, allow_nan=False)
        f.write("\n")


def read_json(path: Path | str) -> Any:
    """Reads a JSON file."""
    return json.loads((Path(path) if isinstance(path, str) else path).read_text(encoding="utf-8"))


def read_facts(path: Path) -> dict[str, Any]:
    """Content of a JSON file of a run; {} where it is missing.

    Raises:
      UserError: it holds something else.
    """
    try:
        found = read_json(path) if path.is_file() else {}
    except ValueError as error:  # of json and of the encoding
        raise UserError(f"{path}: not JSON ({error}); expected the file as the run wrote it") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: found {str(found)[:40]}; expected names and values, as the run wrote them")
    return found


def storage_error(error: BaseException) -> UserError | HiccupError | None:
    """An error whose cause is a file system that is full, read-only or gone, in words; None for any other error.

    Orbax and TensorStore wrap such errors in others, or put them into words.
    """
    for cause in causes(error):
        reason = _STORAGE.search(str(cause))
        number = cause.errno if isinstance(cause, OSError) else None
        if not reason and number not in (*_FULL, *_HICCUP):
            continue
        name = getattr(cause, "filename", None)
        said = reason[0] if reason else os.strerror(number or 0)
        told = f"{f'{name}: ' if name else ''}{said}; what was saved before is whole. "
        if said in map(os.strerror, _HICCUP):
            return HiccupError(f"{told}Run the same command again")
        return UserError(f"{told}Make room, or the file system writable, and run the same command again")
    return None
