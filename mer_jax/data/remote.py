"""Built datasets in a bucket: copied to this machine once, since ArrayRecord reads nothing but files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import uuid
from pathlib import Path

from mer_jax import files
from mer_jax.data import index as index_lib
from mer_jax.errors import UserError


def local_copy(directory: Path) -> Path:
    """The directory of a finished dataset on this machine, copied there where it is not yet.

    Args:
      directory: URL of a dataset's version, with its finish marker.

    Raises:
      UserError: the copy fails, or lacks a file.
    """
    marker = index_lib.read_marker(directory)
    if marker is None:
        raise UserError(f"{directory}: the marker is of another version of mer_jax; build the dataset again")
    content = json.dumps([os.fspath(directory), marker], sort_keys=True)
    place = files.local_cache() / "fetched" / hashlib.sha256(content.encode()).hexdigest()[:16]
    final = place / directory.name
    if (final / index_lib.MARKER).is_file():
        return final
    print(f"copying {directory} to {final}", file=sys.stderr, flush=True)
    part = place / f".{directory.name}.{uuid.uuid4().hex[:8]}"
    try:
        for name in (*marker["files"], index_lib.MARKER):
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            with (directory / name).open("rb") as source, open(part / name, "wb") as copy:
                shutil.copyfileobj(source, copy, 2**22)
        index_lib.check_files(part, marker)
        try:
            os.rename(part, final)
        except OSError:
            if not (final / index_lib.MARKER).is_file():  # else another process was faster
                raise
    except UserError:
        raise
    except Exception as error:  # disk, network: each client has errors of its own
        raise UserError(f"{directory} cannot be copied to {final} ({' '.join(str(error).split())[:200]})") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return final
