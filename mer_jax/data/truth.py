"""What truly moves in clips, where somebody knows: rendered ones. Beside the built datasets, one file a dataset."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import numpy as np

from mer_jax.errors import UserError
from mer_jax.files import atomic_open

FOLDER = "truth"


@dataclasses.dataclass(frozen=True)
class Truth:
    """The true motion of n clips of one dataset.

    Attributes:
      clip: names [n].
      motion: float32 [n, H, W], how far the action units move the skin between true onset and true apex, in pixels of
        the frames as built; head, light and lids have no part in it.
      disturbance: float32 [n], how much else moves between them: mean squared head movement, infinite with a blink.
    """

    clip: np.ndarray
    motion: np.ndarray
    disturbance: np.ndarray


def write(data_dir: Path, dataset: str, found: Truth) -> Path:
    """Writes the truth of a dataset and returns the file."""
    path = data_dir / FOLDER / f"{dataset}.npz"
    arrays = dataclasses.asdict(found) | {"motion": found.motion.astype(np.float16)}
    with atomic_open(path, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return path


def read(data_dir: Path, dataset: str) -> Truth | None:
    """The truth of a dataset; None where nobody wrote it.

    Raises:
      UserError: the file cannot be read.
    """
    path = data_dir / FOLDER / f"{dataset}.npz"
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            return Truth(file["clip"], file["motion"].astype(np.float32), file["disturbance"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it and write it again") from None
