"""Face alignment: from frames and 68 landmarks to square face crops, landmarks carried through the same transform.

A micro-expression moves the skin by about a pixel. A box that is found anew in every frame follows the face that moves
in it: it scales a smile away (the mouth corners widen the box) and adds the noise of the landmarks as motion. So the
default is one similarity transform for a whole clip. Boxes of single frames are there as `released`, for parity with
the code of MOL and FDP. Crops as distributed, and rendered faces, need `none`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

import cv2
import numpy as np

from mer_jax.data import frames as frames_lib
from mer_jax.data.clips import N_LANDMARKS, ClipTable
from mer_jax.errors import UserError

KINDS = ("none", "clip", "released")
STABLE_POINTS = (27, 28, 29, 30, 36, 39, 42, 45)  # nose bridge and eye corners: hardly moved by facial actions
_RIGHT_EYE, _LEFT_EYE = slice(36, 42), slice(42, 48)  # of the person: left and right in the image
_NOSE_TIP, _MOUTH_CORNERS = 30, (48, 54)
# Where the stable points are in an average face whose eye line is level, origin between the eyes, unit: distance of the
# outer eye corners. INFERRED: proportions of the canonical face model of MediaPipe, rounded, the bridge in even steps;
# only the size and place of the crop depend on them, and those equally for all frames.
_STABLE_FACE = np.array(
    [(0, -0.07), (0, 0.07), (0, 0.21), (0, 0.35), (-0.5, 0), (-0.21, 0), (0.21, 0), (0.5, 0)], np.float64
)
# Of the same face, the five points of the box: eye centres, nose tip, mouth corners.
_BOX_FACE = np.array([(-0.355, 0), (0.355, 0), (0, 0.35), (-0.275, 0.78), (0.275, 0.78)], np.float64)


@dataclasses.dataclass(frozen=True)
class Alignment:
    """How faces are cut out.

    Attributes:
      kind: `none` (frames as they are, brought to a square by `fit`), `clip` (one similarity transform a clip, by the
        eye corners and the nose bridge of its first frame) or `released` (one a frame, by eye centres, nose tip and
        mouth corners, as in the code of MOL and FDP).
      margin: side of the box over the larger side of the smallest upright box around eyes, nose and mouth. 2.5 in MOL
        and FDP (released code).
    """

    kind: str = "none"
    margin: float = 2.5

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"data.align: found {self.kind!r}; expected one of {', '.join(KINDS)}")
        if not (math.isfinite(self.margin) and self.margin > 0):
            raise UserError(f"data.align_margin: found {self.margin!r}; expected a number above 0, 2.5 in the papers")


NONE = Alignment()


class Way(Protocol):
    """The way of one frame to a square."""

    def image(self, frame: np.ndarray) -> np.ndarray:
        """uint8 [H, W, C] -> [size, size, C]."""

    def points(self, points: np.ndarray) -> np.ndarray:
        """(x, y) [..., 2] in pixels of the frame -> float32, in pixels of the result."""


@dataclasses.dataclass(frozen=True)
class Similarity:
    """A rotation, a scale and a shift, and the square that is seen through them.

    Attributes:
      linear: float64 [2, 2], rotation times scale.
      shift: float64 [2], in pixels of the result; a point p of the frame goes to linear @ p + shift.
      size: side of the result in pixels.
      border: grey level of what lies outside the frame; None repeats the frame's edge.
      smooth: average over the pixels of the frame that a pixel of the result covers, where it covers several.
    """

    linear: np.ndarray
    shift: np.ndarray
    size: int
    border: int | None = None
    smooth: bool = True

    @property
    def scale(self) -> float:
        """Pixels of the result for one of the frame."""
        return math.sqrt(abs(float(np.linalg.det(self.linear))))

    def image(self, frame: np.ndarray) -> np.ndarray:
        """uint8 [H, W, C] -> [size, size, C]: bilinear, with an area average when shrinking."""
        # sampled k times as densely, then averaged k x k: no aliasing, and exact in where things are
        k = max(1, math.ceil(1 / self.scale - 1e-6)) if self.smooth else 1
        matrix = np.concatenate([k * self.linear, (k * (self.shift + 0.5) - 0.5)[:, None]], axis=1)
        mode = cv2.BORDER_REPLICATE if self.border is None else cv2.BORDER_CONSTANT
        dense = cv2.warpAffine(
            frame, matrix, (k * self.size, k * self.size), flags=cv2.INTER_LINEAR, borderMode=mode,
            borderValue=[self.border or 0] * 4,
        )  # fmt: skip
        if k > 1:
            dense = cv2.resize(dense, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return np.asarray(dense).reshape(self.size, self.size, frame.shape[2])

    def points(self, points: np.ndarray) -> np.ndarray:
        """(x, y) [..., 2] in pixels of the frame -> float32, in pixels of the result."""
        return (points @ self.linear.T + self.shift).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Crop:
    """How the frames of one clip become squares: one way for all of them, or one each.

    Attributes:
      ways: 1 or T ways.
    """

    ways: tuple[Way, ...]

    def way(self, t: int) -> Way:
        """The way of frame `t`."""
        return self.ways[0] if len(self.ways) == 1 else self.ways[t]

    def points(self, landmarks: np.ndarray) -> np.ndarray:
        """Landmarks of all frames [T, 68, 2] -> float32 [T, 68, 2], in pixels of the squares."""
        return np.stack([self.way(t).points(points) for t, points in enumerate(landmarks)])


class Source(Protocol):
    """What is read of a `data.source.ClipSource`."""

    @property
    def table(self) -> ClipTable: ...  # noqa: D102
    @property
    def shapes(self) -> np.ndarray: ...  # noqa: D102
    def landmarks(self, i: int) -> np.ndarray: ...  # noqa: D102


def crop_of(source: Source, i: int, size: int, fit: str, alignment: Alignment) -> Crop:
    """`crop` of clip `i` of a source.

    Raises:
      UserError: see `crop`; or its frames are flow, whose vectors would have to be turned with the picture.
    """
    name, shape = str(source.table["clip"][i]), (int(source.shapes[i, 0]), int(source.shapes[i, 1]))
    if alignment.kind == "none":
        return crop(np.empty((0, N_LANDMARKS, 2)), shape, size, fit, alignment, name)
    if source.table["modality"][i] == "flow_strain":
        raise UserError(
            f"clip {name} holds flow and strain, not images; data.align must be 'none', found {alignment.kind!r}"
        )
    return crop(source.landmarks(i), shape, size, fit, alignment, name)


def crop(landmarks: np.ndarray, shape: tuple[int, int], size: int, fit: str, alignment: Alignment, clip: str) -> Crop:
    """How the frames of a clip become squares of `size` pixels.

    Args:
      landmarks: [T, 68, 2] of the whole clip in pixels of its frames, NaN where unknown (read unless kind is `none`).
      shape: height and width of the frames.
      size: side of the squares.
      fit: for frames that are not aligned: `crop`, `pad` or `stretch`, see `frames.square`.
      alignment: what is done.
      clip: its name, for messages.

    Raises:
      UserError: the landmarks that the alignment needs are unknown, or all in one place.
    """
    if alignment.kind == "none":
        return Crop((frames_lib.square(*shape, size, fit),))
    wanted = landmarks[:, STABLE_POINTS] if alignment.kind == "clip" else landmarks
    known = np.flatnonzero(np.isfinite(wanted).all(axis=(1, 2)))
    if not len(known):
        raise UserError(
            f"clip {clip}: no landmarks found; data.align = {alignment.kind!r} needs them. Build the data with "
            "landmark files (see the dataset's README), or choose data.align = 'none'"
        )
    try:
        if alignment.kind == "clip":
            # the first frame, or the first one in which the face was found
            return Crop((by_stable_points(landmarks[known[0]], size, alignment.margin),))
        # INFERRED: the released code stops at a frame without a face; here it takes the way of the nearest known one
        nearest = [int(known[np.abs(known - t).argmin()]) for t in range(len(landmarks))]
        ways = {t: by_frame(landmarks[t], size, alignment.margin) for t in sorted(set(nearest))}
        return Crop(tuple(ways[t] for t in nearest))
    except ZeroDivisionError:
        raise UserError(f"clip {clip}: the landmarks of a frame are all in one place; expected a face") from None


def by_stable_points(landmarks: np.ndarray, size: int, margin: float) -> Similarity:
    """The transform that makes the eye line level and the face's stable points fit those of an average face.

    The angle is that between the eye corners' centres; scale and shift are the least-squares fit of eye corners and
    nose bridge. Brows, lids and mouth have no say, so a face already smiling in the first frame is not cut smaller.

    Args:
      landmarks: [68, 2], of one frame.
      size: side of the crop.
      margin: see Alignment.

    Raises:
      ZeroDivisionError: the points are all in one place.
    """
    points = landmarks[list(STABLE_POINTS)].astype(np.float64)
    turn = _upright(points[[4, 5]].mean(axis=0), points[[6, 7]].mean(axis=0))
    turned = points @ turn.T
    here, there = turned - turned.mean(axis=0), _STABLE_FACE - _STABLE_FACE.mean(axis=0)
    if not (spread := float((here**2).sum())):
        raise ZeroDivisionError
    scale = float((here * there).sum()) / spread  # frame pixels -> the average face's unit
    if scale <= 0:  # upside down within a level eye line: not a face
        raise ZeroDivisionError
    low, side = _box(_BOX_FACE, margin)
    factor = size / side
    shift = (_STABLE_FACE.mean(axis=0) - scale * turned.mean(axis=0) - low) * factor - 0.5
    return Similarity(factor * scale * turn, shift, size)


def standard_box(margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Upper left and lower right corner [2] of the crop that `by_stable_points` makes, in the unit of an average face.

    Args:
      margin: see Alignment.
    """
    low, side = _box(_BOX_FACE, margin)
    return low, low + side


def by_frame(landmarks: np.ndarray, size: int, margin: float) -> Similarity:
    """The box of a single frame as in the released code of MOL and FDP.

    The eye line (between the means of six points each) becomes level; the box is centred on the smallest upright box
    of eye centres, nose tip and mouth corners, its side `margin` times the larger one; bilinear, grey 128 outside.

    Args:
      landmarks: [68, 2], of one frame.
      size: side of the crop; 144 in MOL, 64 in FDP.
      margin: see Alignment.

    Raises:
      ZeroDivisionError: the points are all in one place.
    """
    points = landmarks.astype(np.float64)
    eyes = [points[_RIGHT_EYE].mean(axis=0), points[_LEFT_EYE].mean(axis=0)]
    turn = _upright(*eyes)
    five = np.stack([*eyes, points[_NOSE_TIP], *points[list(_MOUTH_CORNERS)]]) @ turn.T
    low, side = _box(five, margin)
    if not side:
        raise ZeroDivisionError
    factor = size / side
    # INFERRED: pixel centres at whole numbers, as everywhere here; the half pixel is the same for all frames
    return Similarity(factor * turn, -low * factor - 0.5, size, border=128, smooth=False)


def _upright(right: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Rotation [2, 2] after which the line from the right to the left eye is level."""
    x, y = left - right
    length = math.hypot(x, y)
    return np.array([[x, y], [-y, x]]) / length if length else np.eye(2)


def _box(points: np.ndarray, margin: float) -> tuple[np.ndarray, float]:
    """(upper left corner [2], side) of the square box of `margin` times the larger side around points [P, 2]."""
    low, high = points.min(axis=0), points.max(axis=0)
    side = margin * float((high - low).max())
    return (low + high) / 2 - side / 2, side
