"""Files with 68 landmarks a frame: CK+'s text files, arrays written with dlib, tables written by OpenFace.

All are given in pixels of the frame, in iBUG order, x before y.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np

from mer_jax.data.clips import N_LANDMARKS
from mer_jax.errors import UserError

SUFFIXES = (".npy", ".csv")


def unknown(length: int) -> np.ndarray:
    """Landmarks of a clip that has none: NaN, float32 [length, 68, 2]."""
    return np.full((length, N_LANDMARKS, 2), np.nan, np.float32)


def read(path: Path) -> np.ndarray:
    """Landmarks of all frames of a clip, from an `.npy` array [T, 68, 2] or OpenFace's `.csv`.

    Returns:
      float32 [T, 68, 2]; NaN where OpenFace says that tracking failed.

    Raises:
      UserError: unreadable, or not of that form.
    """
    points = _read_npy(path) if path.suffix.lower() == ".npy" else _read_openface(path)
    if np.isinf(points).any():
        raise UserError(f"{path}: found an infinite number, expected pixels, or NaN where unknown")
    return points


def read_clip(path: Path | None, length: int) -> np.ndarray:
    """Landmarks of a clip of `length` frames; NaN where `path` is None.

    Raises:
      UserError: see `read`; or the file holds another number of frames.
    """
    if path is None:
        return unknown(length)
    points = read(path)
    if len(points) != length:
        raise UserError(f"{path}: found landmarks of {len(points)} frames, expected the {length} frames of the clip")
    return points


def _read_npy(path: Path) -> np.ndarray:
    try:
        points = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as an .npy array ({error})") from error
    if not isinstance(points, np.ndarray) or points.ndim != 3 or points.shape[1:] != (N_LANDMARKS, 2):
        raise UserError(f"{path}: found shape {getattr(points, 'shape', '?')}, expected [frames, {N_LANDMARKS}, 2]")
    if points.dtype.kind not in "fiu":
        raise UserError(f"{path}: found type {points.dtype}, expected numbers")
    return points.astype(np.float32)


def _read_openface(path: Path) -> np.ndarray:
    wanted = [f"{axis}_{k}" for k in range(N_LANDMARKS) for axis in "xy"]
    points: list[list[float]] = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as f:
            lines = csv.DictReader(f, skipinitialspace=True)
            names = [(name or "").strip() for name in lines.fieldnames or []]
            missing = [c for c in wanted if c not in names]
            if missing:
                raise UserError(f"{path}: no column {missing[0]!r}; expected OpenFace's table with x_0 .. y_67")
            for line in lines:
                cells = {(k or "").strip(): v for k, v in line.items()}
                failed = float(cells.get("success") or 1) == 0
                points.append([math.nan if failed else float(cells[c]) for c in wanted])
    except (ValueError, TypeError, OSError, csv.Error) as error:
        raise UserError(f"{path}, line {len(points) + 2}: {error}; expected a number in every cell") from error
    return np.array(points, np.float32).reshape(-1, N_LANDMARKS, 2)


def read_points(path: Path) -> np.ndarray:
    """Landmarks of one frame from a text file of 68 lines `x y` (CK+).

    Returns:
      float32 [68, 2].

    Raises:
      UserError: unreadable, or not 68 pairs of numbers.
    """
    try:
        points = np.array(
            [[float(cell) for cell in line.split()] for line in path.read_text().splitlines() if line.strip()]
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as landmarks ({error})") from error
    if points.shape != (N_LANDMARKS, 2) or not np.isfinite(points).all():
        raise UserError(f"{path}: found shape {points.shape}, expected {N_LANDMARKS} lines of x and y")
    return points.astype(np.float32)
