"""Action units as smooth skin displacement, lid and lip movement, and furrow shading.

An action unit moves the skin by a sum of Gaussian hills around its landmarks. Excursions at full intensity are in
millimetres and follow the anatomy (brow elevation about 8 to 10 mm, brow depression 5 mm, commissure excursion of a
full smile about 10 mm: Paletz et al., Plast. Reconstr. Surg. 1994; Schmidt & Cohn 2001); the crop is 198 mm wide (89 mm
between the outer eye corners, Farkas 1994, are .45 of it). Which muscle moves what is FACS (Ekman & Friesen 1978).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tfds_builders.synthetic_faces.drawing import line_profile
from tfds_builders.synthetic_faces.faces import SIDES, Person

MM = 1 / 198  # face units
BLINK = 45

# unit -> hills: (landmarks of the subject's right side whose mean is the centre, offset, sigma, movement in mm).
# Offsets, sigmas in face units; x points outwards (away from the middle of the face), y down.
_HILLS: dict[int, tuple[tuple[tuple[int, ...], tuple[float, float], tuple[float, float], tuple[float, float]], ...]] = {
    1: (((20, 21), (0, 0), (0.050, 0.045), (0.5, -8.0)), ((20, 21), (0, -0.08), (0.055, 0.05), (0, -4.0))),
    2: (((17, 18), (0.01, 0), (0.060, 0.045), (0.0, -7.5)), ((17, 18), (0, -0.08), (0.06, 0.05), (0, -3.5))),
    4: (((20, 21), (0, 0), (0.055, 0.045), (-3.5, 4.5)), ((18, 19), (0, 0), (0.06, 0.04), (-1.0, 2.5))),
    5: (((37, 38), (0, -0.02), (0.045, 0.018), (0, -1.5)),),
    6: (((36, 41), (0.02, 0.055), (0.060, 0.040), (-0.5, -4.5)), ((41, 40), (0, 0.01), (0.05, 0.02), (0, -1.2))),
    7: (((41, 40), (0, 0.008), (0.048, 0.020), (0, -2.2)), ((37, 38), (0, -0.012), (0.045, 0.018), (0, 1.0))),
    9: (((31,), (0.005, -0.02), (0.035, 0.045), (-0.4, -5.0)), ((21,), (-0.02, 0.03), (0.04, 0.04), (-1.5, 2.5))),
    10: (((50,), (0.01, -0.005), (0.045, 0.030), (0, -5.0)), ((31,), (0.03, 0.03), (0.04, 0.03), (0.6, -2.5))),
    12: (((48,), (0, 0), (0.055, 0.050), (7.5, -5.5)), ((48,), (0.03, -0.085), (0.06, 0.045), (1.5, -3.5))),
    14: (((48,), (0.01, 0), (0.038, 0.040), (3.5, 0.3)),),
    15: (((48,), (0, 0.01), (0.050, 0.045), (0.8, 5.5)),),
    17: (((57, 8), (0.02, -0.01), (0.060, 0.045), (0, -5.0)), ((58,), (0, 0), (0.05, 0.025), (0, -2.5))),
    20: (((48,), (0, 0.005), (0.055, 0.045), (6.5, 1.5)),),
    23: (((48,), (0, 0), (0.050, 0.035), (-3.0, 0)), ((50,), (0, 0), (0.04, 0.02), (-0.5, 1.2))),
    24: (((50,), (0, 0), (0.050, 0.020), (0, 1.8)), ((58,), (0, 0), (0.050, 0.020), (0, -2.0))),
    25: (((58,), (0.01, 0), (0.060, 0.030), (0, 2.5)), ((50,), (0.01, 0), (0.05, 0.025), (0, -1.0))),
    26: (((57, 8), (0.02, 0.0), (0.11, 0.07), (0, 9.0)), ((58,), (0.01, 0), (0.06, 0.03), (0, 4.0))),
}  # fmt: skip
UNITS = tuple(_HILLS)

# unit -> furrow lines: (landmark of the right side, points as offsets from it (x outwards), width, depth at full).
_FURROWS: dict[int, tuple[tuple[int, tuple[tuple[float, float], ...], float, float], ...]] = {
    1: ((21, ((0.07, -0.075), (0.02, -0.09), (-0.06, -0.085)), 0.006, 0.30),),
    2: ((18, ((0.06, -0.05), (0.0, -0.075), (-0.06, -0.08)), 0.006, 0.26),),
    4: ((21, ((-0.055, -0.045), (-0.06, 0.0), (-0.05, 0.04)), 0.007, 0.38),),
    6: ((36, ((0.03, 0.01), (0.07, 0.03)), 0.005, 0.26), (36, ((0.03, 0.03), (0.06, 0.06)), 0.005, 0.22)),
    7: ((41, ((0.05, 0.018), (0.0, 0.024), (-0.05, 0.014)), 0.005, 0.22),),
    9: ((31, ((-0.02, -0.10), (-0.005, -0.08), (0.02, -0.07)), 0.006, 0.34),),
    10: ((31, ((0.012, -0.02), (0.035, 0.02), (0.05, 0.06)), 0.008, 0.26),),
    12: ((48, ((-0.02, -0.13), (0.03, -0.08), (0.045, -0.02)), 0.008, 0.30),),
    14: ((48, ((0.03, -0.012), (0.032, 0.015)), 0.008, 0.45),),
    15: ((48, ((0.012, 0.02), (0.022, 0.06)), 0.006, 0.30),),
    17: ((8, ((0.05, -0.085), (0.0, -0.095), (-0.05, -0.085)), 0.007, 0.26),),
    20: ((48, ((0.03, -0.03), (0.04, 0.03)), 0.006, 0.22),),
    23: ((51, ((0.03, -0.022), (0.0, -0.026), (-0.03, -0.022)), 0.005, 0.16),),
    24: ((57, ((0.04, 0.016), (0.0, 0.02), (-0.04, 0.016)), 0.005, 0.20),),
}  # fmt: skip

# Movement of the lids (share of the opening that closes) and opening of the lips (mm) at full intensity.
LID_CLOSURE = {5: -0.45, 6: 0.12, 7: 0.30, 9: 0.15, BLINK: 1.0}
LIP_OPENING = {25: 4.5, 26: 11.0}

_MIRROR_POINT = {**{i: 16 - i for i in range(17)}, **{17 + i: 26 - i for i in range(10)}}
_MIRROR_POINT |= {31: 35, 36: 45, 37: 44, 38: 43, 39: 42, 40: 47, 41: 46, 48: 54, 49: 53, 50: 52, 58: 56}
_MIRROR_POINT |= {57: 57, 8: 8, 51: 51}

Activation = dict[tuple[int, str], float]  # (unit, side) -> intensity, 1 = the largest excursion


@dataclasses.dataclass(frozen=True)
class Hills:
    """A displacement field: a sum of Gaussian hills, rows (cx, cy, sx, sy, dx, dy) in face units."""

    rows: np.ndarray

    def at(self, points: np.ndarray) -> np.ndarray:
        """Displacement [M, 2] at points [M, 2], face units."""
        delta = (points[:, None] - self.rows[None, :, :2]) / self.rows[None, :, 2:4]
        return np.exp(-0.5 * (delta**2).sum(-1)) @ self.rows[:, 4:]

    def grid(self, size: int) -> np.ndarray:
        """Displacement float32 [2, size, size] at the pixel centres of an image of `size` pixels."""
        centre = (np.arange(size, dtype=np.float32) + 0.5) / size
        field = np.zeros((2, size, size), np.float32)
        for cx, cy, sx, sy, dx, dy in self.rows:
            # a hill is a product of one profile along x and one along y
            profile = np.outer(np.exp(-0.5 * ((centre - cy) / sy) ** 2), np.exp(-0.5 * ((centre - cx) / sx) ** 2))
            field[0] += np.float32(dx) * profile
            field[1] += np.float32(dy) * profile
        return field


def _on_side(index: int, side: str) -> int:
    return index if side == "right" else _MIRROR_POINT[index]


def hills(who: Person, unit: int, side: str) -> Hills:
    """The displacement field of one side of an action unit at full intensity on a person."""
    outwards = -1.0 if side == "right" else 1.0
    rows = []
    for anchors, offset, sigma, movement in _HILLS[unit]:
        centre = who.landmarks[[_on_side(i, side) for i in anchors]].mean(0) + np.array(offset) * [outwards, 1]
        rows.append([*centre, *sigma, movement[0] * outwards * MM, movement[1] * MM])
    return Hills(np.array(rows))


def furrow(who: Person, unit: int, side: str, size: int) -> np.ndarray | None:
    """How much the furrows of an action unit darken the skin at full intensity, [size, size]; None without furrows."""
    if unit not in _FURROWS:
        return None
    centre = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(centre, centre)
    outwards = -1.0 if side == "right" else 1.0
    shade = np.zeros((size, size), np.float32)
    for anchor, points, width, depth in _FURROWS[unit]:
        line = who.landmarks[_on_side(anchor, side)] + np.array(points) * [outwards, 1]
        shade = np.maximum(shade, np.float32(depth) * line_profile(line, width, x, y).astype(np.float32))
    return shade


def lid_closure(activation: Activation, side: str) -> float:
    """Share of the lid opening that is closed on one side (1 = shut; negative: wide open)."""
    return sum(gain * activation.get((unit, side), 0.0) for unit, gain in LID_CLOSURE.items())


def lip_opening(activation: Activation) -> float:
    """Distance between the lips in face units."""
    both = [np.mean([activation.get((unit, side), 0.0) for side in SIDES]) * mm for unit, mm in LIP_OPENING.items()]
    return float(sum(both)) * MM
