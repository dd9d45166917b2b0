"""Small drawing tools on a float canvas in face units (the crop is [0, 1] x [0, 1], y down)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import cv2
import numpy as np

_SHIFT = 6  # OpenCV draws polygons at 1/64 texel


def pixel_grid(n: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 x and y [n, n] of the pixel centres of an n x n image, in face units."""
    centres = (np.arange(n, dtype=np.float32) + np.float32(0.5)) / np.float32(n)
    x, y = np.meshgrid(centres, centres)
    return x, y


def blob(x: np.ndarray, y: np.ndarray, cx: float, cy: float, sx: float, sy: float) -> np.ndarray:
    """A Gaussian hill of height 1 at (cx, cy) with standard deviations sx, sy."""
    return np.exp(-0.5 * (((x - cx) / sx) ** 2 + ((y - cy) / sy) ** 2))


def hill(x: np.ndarray, y: np.ndarray, centre: np.ndarray, sx: float, sy: float) -> np.ndarray:
    """`blob` around a point [2]."""
    return blob(x, y, float(centre[0]), float(centre[1]), sx, sy)


def curve(points: np.ndarray | Sequence[Sequence[float]], steps: int) -> np.ndarray:
    """A Catmull-Rom curve through n points, `steps` pieces between neighbours: [(n - 1) * steps + 1, 2]."""
    p = np.asarray(points, np.float64)
    return _catmull_rom(len(p), steps) @ p


@functools.lru_cache(maxsize=64)
def _catmull_rom(n: int, steps: int) -> np.ndarray:
    """The curve as a linear map of its points; beyond the ends the points go on straight."""
    ends = np.zeros((2, n))
    ends[0, :2], ends[1, -2:] = (2, -1), (-1, 2)
    padded = np.concatenate([ends[:1], np.eye(n), ends[1:]])
    t = (np.arange(steps) / steps)[:, None]
    pieces = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        pieces.append(b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))))
    return np.concatenate([*pieces, padded[-2:-1]])


def fixed_point(points: np.ndarray, size: int) -> np.ndarray:
    """Points in face units as OpenCV's fixed-point texel coordinates, int32 [n, 1, 2] (see `cv2.fillPoly`)."""
    return np.rint((points * size - 0.5) * 2**_SHIFT).astype(np.int32).reshape(-1, 1, 2)


def fill(image: np.ndarray, points: np.ndarray, colour: float | tuple[int, ...]) -> None:
    """Fills an anti-aliased polygon (face units) into `image` [S, S(, 3)] in place, at 1/64 texel."""
    cv2.fillPoly(image, [fixed_point(points, image.shape[1])], colour, cv2.LINE_AA, _SHIFT)


def polygon_mask(points: np.ndarray, size: int, corner: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The inside of a polygon (face units of an image of `size` texels) in the window at `corner`: float32 in 0..1."""
    mask = np.zeros(shape, np.uint8)
    shifted = fixed_point(points, size) - (corner * 2**_SHIFT).astype(np.int32)
    cv2.fillPoly(mask, [shifted], 255, cv2.LINE_AA, _SHIFT)
    return mask.astype(np.float32) / 255


def line(image: np.ndarray, points: np.ndarray, colour: float | tuple[int, ...], thickness: int) -> None:
    """Draws an anti-aliased open line (face units) into `image` in place, at 1/64 texel."""
    cv2.polylines(image, [fixed_point(points, image.shape[1])], False, colour, thickness, cv2.LINE_AA, _SHIFT)


class Canvas:
    """A float32 rgb image [size, size, 3] in [0, 1] with soft brushes.

    Attributes:
      size: texels along a side.
      x: float32 [size, size], face units.
      y: float32 [size, size], face units.
      image: float32 [size, size, 3].
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.x, self.y = pixel_grid(size)
        self.image = np.zeros((size, size, 3), np.float32)

    def step(self, distance: np.ndarray) -> np.ndarray:
        """1 where a signed distance (face units) is positive, with an edge two texels wide."""
        return np.clip(distance * self.size / 2 + 0.5, 0, 1)

    def soft(self, mask: np.ndarray, width: float) -> np.ndarray:
        """A boolean or float mask blurred over `width` face units."""
        return cv2.GaussianBlur(mask.astype(np.float32), (0, 0), max(width * self.size, 0.4))

    def polygon(self, points: np.ndarray, width: float) -> np.ndarray:
        """The inside of a polygon as a soft mask [size, size]."""
        mask = np.zeros((self.size, self.size), np.uint8)
        fill(mask, np.asarray(points), 255)
        return self.soft(mask / np.float32(255), width)

    def paint(self, mask: np.ndarray, colour: np.ndarray) -> None:
        """Blends `colour` [3] or [size, size, 3] in where `mask` is 1."""
        self.image += mask[..., None] * (colour - self.image)

    def darken(self, mask: np.ndarray, amount: float) -> None:
        """Multiplies the image by 1 - amount * mask."""
        self.image *= (1 - amount * mask)[..., None]

    def stroke(self, points: np.ndarray | Sequence[Sequence[float]], width: float, amount: float) -> None:
        """Darkens along a smooth line with a Gaussian profile of standard deviation `width` face units."""
        self.darken(line_profile(np.asarray(points), width, self.x, self.y), amount)

    def to_uint8(self) -> np.ndarray:
        """uint8 [size, size, 3]."""
        return np.clip(self.image * 255 + 0.5, 0, 255).astype(np.uint8)


def line_profile(points: np.ndarray, width: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """exp(-d^2 / 2 width^2) of the distance d to a smooth line; shape of x. Fades over the ends."""
    dense = curve(points, 8) if len(points) > 1 else points
    squared = np.full(x.shape, np.inf, np.float32)
    for a, b in itertools.pairwise(dense):
        span = b - a
        t = np.clip(((x - a[0]) * span[0] + (y - a[1]) * span[1]) / max(float(span @ span), 1e-12), 0, 1)
        np.minimum(squared, (x - a[0] - t * span[0]) ** 2 + (y - a[1] - t * span[1]) ** 2, out=squared)
    return np.exp(-0.5 * squared / width**2)
