"""Flow around the apex, one step after another, each field reduced to a grid of mean direction and mean magnitude.

The temporal feature of ATNet (Peng et al., "A Novel Apex-Time Network for Cross-Dataset Micro-Expression Recognition",
ACII 2019, section III-B): a window of 32 frames on each side of the apex gives 64 flow fields between neighbours; each
is cut into 8x8 blocks, and of every block the mean direction and the mean magnitude are kept: 64 rows of 128 numbers.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import numpy as np

Window = Literal["frames", "seconds"]
Angle = Literal["plain", "circular"]


@dataclasses.dataclass(frozen=True)
class FlowGrid:
    """Which flows around the apex, and how each is reduced.

    Attributes:
      window: `frames`, the paper: step i is the flow from frame apex - side + i to the next frame, so that the time
        that the window spans and the size of the flow both depend on the frame rate. `seconds`: step i is the flow
        between the moments (i - side) * step_ms and (i + 1 - side) * step_ms from the apex, whatever the frame rate; a
        moment between two frames is interpolated linearly, as TIM does.
      side: steps on each side of the apex; 32 in the paper.
      step_ms: length of a step where window is `seconds`. INFERRED: 5 ms, a frame of the 200/s of CASME II and SAMM.
      cells: blocks a side of the grid; 8 in the paper. INFERRED: of equal size, scanned row by row.
      angle: `plain`, the paper: the arithmetic mean of the directions, which is wrong where they straddle +-pi;
        `circular`: the direction of the sum of their unit vectors.
    """

    window: Window = "frames"
    side: int = 32
    step_ms: float = 5.0
    cells: int = 8
    angle: Angle = "plain"

    def __post_init__(self) -> None:
        for name, known in (("window", Window), ("angle", Angle)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"flow grid {name}: found {getattr(self, name)!r}, expected {get_args(known)}")
        for name in ("side", "step_ms", "cells"):
            if not getattr(self, name) > 0:
                raise ValueError(f"flow grid {name}: found {getattr(self, name)}, expected a positive number")

    @property
    def steps(self) -> int:
        """Rows of the feature."""
        return 2 * self.side

    @property
    def features(self) -> int:
        """Numbers in a row: direction and magnitude of every block, interleaved."""
        return 2 * self.cells**2

    def key(self) -> dict[str, Any]:
        """What the values depend on."""
        facts = dataclasses.asdict(self)
        if self.window == "frames":
            del facts["step_ms"]
        return facts


def moments(spec: FlowGrid, onset: int, apex: int, offset: int, fps: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the steps of a window begin and end, and which of them lie within onset .. offset.

    Args:
      spec: the window.
      onset: position of the onset.
      apex: position of the apex, the middle of the window.
      offset: position of the offset.
      fps: frames a second; read where the window is in `seconds` only.

    Returns:
      positions float64 [steps + 1] in frames, of which step i spans i .. i + 1; bool [steps].
    """
    step = 1.0 if spec.window == "frames" else spec.step_ms / 1000 * fps
    at = apex + step * np.arange(-spec.side, spec.side + 1)
    inside = (at >= onset - 1e-6) & (at <= offset + 1e-6)
    return at, inside[:-1] & inside[1:]


def frames_at(frames: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Grey frames [T, H, W] at positions [P] within 0 .. T - 1, between frames by linear interpolation.

    Returns:
      [P, H, W], float32.
    """
    positions = np.clip(positions, 0, len(frames) - 1)
    low = np.floor(positions + 1e-6).astype(int)
    high = np.minimum(low + 1, len(frames) - 1)
    weight = np.clip(positions - low, 0, 1).astype(np.float32)[:, None, None]
    below, above = frames[low].astype(np.float32), frames[high].astype(np.float32)
    return np.asarray(below + weight * (above - below))


def reduce(flow: np.ndarray, cells: int, angle: Angle = "plain") -> np.ndarray:
    """Flow fields to grids of mean direction and magnitude.

    Args:
      flow: [P, H, W, 2], u to the right, v down; H and W multiples of `cells`.
      cells: blocks a side.
      angle: see `FlowGrid.angle`. A pixel that does not move has direction 0.

    Returns:
      float32 [P, 2 * cells^2]: (direction, magnitude) of every block, blocks row by row; directions atan2(v, u) in
      [-pi, pi], magnitudes in pixels.

    Raises:
      ValueError: the blocks do not divide the field.
    """
    count, height, width, _ = flow.shape
    if height % cells or width % cells:
        raise ValueError(f"a field of {height}x{width} pixels does not divide into {cells}x{cells} blocks")
    u, v = flow[..., 0], flow[..., 1]
    magnitude = np.hypot(u, v)
    direction = np.where(magnitude > 0, np.arctan2(v, u), 0.0)

    def blocks(x: np.ndarray) -> np.ndarray:
        return np.asarray(x.reshape(count, cells, height // cells, cells, width // cells).mean((2, 4)))

    circular = angle == "circular"
    mean = np.arctan2(blocks(np.sin(direction)), blocks(np.cos(direction))) if circular else blocks(direction)
    return np.stack([mean, blocks(magnitude)], axis=-1).reshape(count, -1).astype(np.float32)


def assemble(spec: FlowGrid, rows: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Rows [P, features] of the P steps inside the clip, in their place among all steps.

    Returns:
      float32 [steps, features + 1]; the last column is 1 where there is a flow; the other rows are all zero.
    """
    table = np.zeros((spec.steps, spec.features + 1), np.float32)
    table[valid, :-1] = rows
    table[valid, -1] = 1
    return table
