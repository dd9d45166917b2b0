"""Augmentation of a clip: one geometric and one photometric transform, shared by all its frames (traced).

A transform that differed between two frames would look like motion, and micro-expressions move less than a pixel; so
a transform is drawn once (`draw`) and applied to frames, landmarks and flow fields alike. Coordinates are (x, y) with
integers at pixel centres.
"""

from __future__ import annotations

from typing import Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.data.clips import MODALITIES

RGB = MODALITIES.index("rgb")
FLOW_ZERO = 128 / 255  # a flow_strain frame holds (u, v, strain); the byte 128 stands for no motion in u and v

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _mirror_ibug() -> np.ndarray:
    """Index of the left/right partner of each of the 68 iBUG points."""
    pairs = [(i, 16 - i) for i in range(8)]  # jaw
    pairs += [(17 + i, 26 - i) for i in range(5)]  # brows
    pairs += [(31, 35), (32, 34)]  # nostrils
    pairs += [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]  # eyes
    pairs += [(48, 54), (49, 53), (50, 52), (59, 55), (58, 56)]  # outer lips
    pairs += [(60, 64), (61, 63), (67, 65)]  # inner lips
    mirror = np.arange(68)
    for a, b in pairs:
        mirror[a], mirror[b] = b, a
    return mirror


MIRROR_IBUG = _mirror_ibug()


class AugmentationSettings(Protocol):
    """Strengths of an augmentation; with all of them 0 it is the identity.

    Attributes:
      flip_p: probability of a left/right flip.
      rotate_deg: largest rotation about the centre, degrees either way.
      shift_px: largest shift, whole pixels of the output either way in x and y.
      brightness: largest amount added to the intensity 0..1, either way.
      contrast: largest relative change of contrast about mid-grey, either way.
    """

    @property
    def flip_p(self) -> float: ...  # noqa: D102
    @property
    def rotate_deg(self) -> float: ...  # noqa: D102
    @property
    def shift_px(self) -> int: ...  # noqa: D102
    @property
    def brightness(self) -> float: ...  # noqa: D102
    @property
    def contrast(self) -> float: ...  # noqa: D102


@flax.struct.dataclass
class Augmentation:
    """One drawn transform (a pytree of scalars; batched by vmap).

    Attributes:
      flip: bool, whether left and right change places.
      angle: float32, rotation of the content in radians, from the x towards the y axis (clockwise on the screen).
      shift: int32 [2], movement of the content in pixels of the output, (x, y), after flip and rotation.
      brightness: float32, added to the intensity.
      contrast: float32, factor on the distance to mid-grey.
    """

    flip: jax.Array
    angle: jax.Array
    shift: jax.Array
    brightness: jax.Array
    contrast: jax.Array


def identity() -> Augmentation:
    """The transform that changes nothing."""
    return Augmentation(
        flip=jnp.zeros((), bool),
        angle=jnp.zeros(()),
        shift=jnp.zeros(2, jnp.int32),
        brightness=jnp.zeros(()),
        contrast=jnp.ones(()),
    )


def draw(key: jax.Array, settings: AugmentationSettings) -> Augmentation:
    """Draws one transform: flip by probability, everything else uniform within its bound.

    INFERRED: whole-pixel shifts, as a random crop after padding makes them (the usual form in this field), keep the
    frames free of interpolation blur when nothing is rotated; contrast pivots on mid-grey rather than on the frame's
    own mean, so that it is one map for all frames of a clip.
    """
    flip, angle, shift, brightness, contrast = jax.random.split(key, 5)
    radians = np.deg2rad(settings.rotate_deg)
    return Augmentation(
        flip=jax.random.uniform(flip) < settings.flip_p,
        angle=jax.random.uniform(angle, minval=-radians, maxval=radians),
        shift=jax.random.randint(shift, (2,), -settings.shift_px, settings.shift_px + 1),
        brightness=jax.random.uniform(brightness, minval=-settings.brightness, maxval=settings.brightness),
        contrast=1 + jax.random.uniform(contrast, minval=-settings.contrast, maxval=settings.contrast),
    )


def _matrix(augmentation: Augmentation) -> jax.Array:
    """Linear part [2, 2] that takes an offset in the output to an offset in the input: rotation undone, then flip."""
    cos, sin = jnp.cos(augmentation.angle), jnp.sin(augmentation.angle)
    sign = jnp.where(augmentation.flip, -1.0, 1.0)
    return jnp.array([[sign * cos, sign * sin], [-sin, cos]])


def _origin(height: int, width: int, size: int) -> np.ndarray:
    """(x, y) of the centre crop's first pixel; whole pixels, so that a crop alone stays exact."""
    if height < size or width < size:
        raise ValueError(f"frames of {height}x{width} pixels are smaller than the view of {size}x{size}")
    return np.array([(width - size) // 2, (height - size) // 2])


def apply(frames: jax.Array, augmentation: Augmentation, size: int, modality: jax.Array | int = RGB) -> jax.Array:
    """Applies one transform to all frames of a clip; bilinear, the border repeated outwards.

    INFERRED: the border is repeated rather than set to 0, which would draw an edge through every shifted frame.

    Args:
      frames: float32 [T, H, W, C] in 0..1, H and W at least `size`.
      augmentation: the transform.
      size: height and width of the result: the centre crop without a transform, nothing is rescaled.
      modality: index into clips.MODALITIES (scalar, may be traced). Brightness and contrast touch rgb and grey only;
        in flow_strain frames the vectors (u, v) turn with the image: a flip negates u.

    Returns:
      float32 [T, size, size, C]. Shifts and flips without rotation are exact copies of pixels.

    Raises:
      ValueError: frames smaller than `size`.
    """
    frames = _warp(frames, augmentation, size)
    modality = jnp.asarray(modality)
    if frames.shape[-1] == 3:
        vectors = (frames[..., :2] - FLOW_ZERO) @ _matrix(augmentation) + FLOW_ZERO
        turned = jnp.concatenate([vectors.clip(0, 1), frames[..., 2:]], axis=-1)
        frames = jnp.where(modality == MODALITIES.index("flow_strain"), turned, frames)
    coloured = (modality == RGB) | (modality == MODALITIES.index("grey"))
    contrast = jnp.where(coloured, augmentation.contrast, 1.0)
    bias = jnp.where(coloured, augmentation.brightness, 0.0) + 0.5 * (1 - contrast)
    return jnp.clip(frames * contrast + bias, 0, 1)


def apply_to_flow(flow: jax.Array, augmentation: Augmentation, size: int) -> jax.Array:
    """Applies a transform's geometry to flow fields.

    Args:
      flow: float32 [T, H, W, 2], (u, v) in pixels, zero where nothing moves.
      augmentation: the transform; its photometric part does not matter.
      size: height and width of the result.

    Returns:
      float32 [T, size, size, 2]: the flow between the transformed frames.
    """
    return _warp(flow, augmentation, size) @ _matrix(augmentation)


def apply_to_landmarks(
    landmarks: jax.Array, augmentation: Augmentation, height: int, width: int, size: int
) -> jax.Array:
    """Moves landmarks with the frames; a flip exchanges the left and right points of the iBUG order.

    Args:
      landmarks: float32 [..., 68, 2], (x, y) in pixels of the frames before `apply`.
      augmentation: the transform.
      height: height of the frames before `apply`.
      width: width of the frames before `apply`.
      size: height and width after `apply`.

    Returns:
      float32 [..., 68, 2] in pixels of the result of `apply`; NaN stays NaN.
    """
    centre = (size - 1) / 2
    offset = landmarks - _origin(height, width, size) - centre
    # the transform's linear part is orthogonal: its transpose is its inverse, here applied to row vectors
    moved = jnp.einsum("...i,ij->...j", offset, _matrix(augmentation)) + centre + augmentation.shift
    return jnp.where(augmentation.flip, moved[..., MIRROR_IBUG, :], moved)


def center(frames: jax.Array, size: int) -> jax.Array:
    """The centre crop [..., size, size, C] of frames [..., H, W, C]: what `apply` with `identity()` gives.

    Raises:
      ValueError: frames smaller than `size`.
    """
    x, y = _origin(frames.shape[-3], frames.shape[-2], size)
    return frames[..., y : y + size, x : x + size, :]


def normalise(frames: jax.Array, how: str) -> jax.Array:
    """Maps intensities 0..1 to a network's input range.

    Args:
      frames: float32 [..., C] with C = 3 or 1.
      how: `imagenet` (mean and standard deviation of ImageNet; their channel averages for grey), `signed` (-1..1) or
        `unit` (0..1, unchanged).

    Returns:
      float32 [..., C].

    Raises:
      ValueError: another value of `how`.
    """
    if how == "unit":
        return frames
    if how == "signed":
        return 2 * frames - 1
    if how == "imagenet":
        mean, std = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
        if frames.shape[-1] == 1:
            mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
        return (frames - mean) / std
    raise ValueError(f"normalisation {how!r} is none of imagenet, signed, unit")


def _warp(frames: jax.Array, augmentation: Augmentation, size: int) -> jax.Array:
    """Resamples [T, H, W, C] -> [T, size, size, C] by flip, rotation and shift."""
    length, height, width, channels = frames.shape
    centre = (size - 1) / 2
    ys, xs = np.mgrid[:size, :size].reshape(2, -1) - centre  # [size * size]
    x, y = xs - augmentation.shift[0], ys - augmentation.shift[1]
    matrix, origin = _matrix(augmentation), _origin(height, width, size) + centre
    x, y = matrix[0, 0] * x + matrix[0, 1] * y + origin[0], matrix[1, 0] * x + matrix[1, 1] * y + origin[1]
    x, y = x.clip(0, width - 1), y.clip(0, height - 1)
    left, top = jnp.floor(x), jnp.floor(y)
    wx, wy = (x - left)[:, None], (y - top)[:, None]
    left, top = left.astype(jnp.int32), top.astype(jnp.int32)
    right, bottom = jnp.minimum(left + 1, width - 1), jnp.minimum(top + 1, height - 1)
    # one gather of the vectors of all frames and channels: four index lists instead of four a frame
    pixels = frames.transpose(1, 2, 0, 3).reshape(height * width, length * channels)

    def at(row: jax.Array, column: jax.Array) -> jax.Array:
        return jnp.take(pixels, row * width + column, axis=0, mode="clip")

    upper = at(top, left) + wx * (at(top, right) - at(top, left))
    lower = at(bottom, left) + wx * (at(bottom, right) - at(bottom, left))
    warped = upper + wy * (lower - upper)
    return warped.reshape(size, size, length, channels).transpose(2, 0, 1, 3)
