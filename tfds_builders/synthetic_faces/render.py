"""Frames of a person under action units, head movement, light, noise and compression; sub-pixel, with exact motion.

The skin texture is drawn once at SUPERSAMPLING times the image size. A frame is the texture seen through the inverse
map u = r - D(r), r = A^-1(p): p a point of the frame, A the head's similarity transform, D the displacement of the
skin. Eyes are seen through the lids' opening, teeth and mouth through the lips'. What the texture shows at u is in the
frame at p, so motion between two frames is exact: p_1 -> u -> p_2.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from tfds_builders.synthetic_faces import action_units as au
from tfds_builders.synthetic_faces.drawing import curve, fill, line, polygon_mask
from tfds_builders.synthetic_faces.faces import SUPERSAMPLING, Person, Texture, lid_curves, person, texture

CENTRE = np.array([0.5, 0.55])  # the head turns and scales about it


@dataclasses.dataclass(frozen=True)
class Pose:
    """The state of a face in one frame.

    Attributes:
      activation: (unit, side) -> intensity, resting activation included.
      blink: lid closure by a blink, 0..1.
      shift: translation of the head [2], face units.
      rotation: radians, clockwise on the screen.
      scale: 1 = unchanged.
    """

    activation: au.Activation
    blink: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    scale: float = 1.0

    @property
    def linear(self) -> np.ndarray:
        """[2, 2], head to frame."""
        c, s = np.cos(self.rotation), np.sin(self.rotation)
        return self.scale * np.array([[c, -s], [s, c]])

    def to_frame(self, points: np.ndarray) -> np.ndarray:
        """Head coordinates [M, 2] -> frame coordinates."""
        return (points - CENTRE) @ self.linear.T + CENTRE + np.array(self.shift)

    def to_head(self, points: np.ndarray) -> np.ndarray:
        """Frame coordinates [M, 2] -> head coordinates."""
        return (points - CENTRE - np.array(self.shift)) @ np.linalg.inv(self.linear).T + CENTRE


class Renderer:
    """Renders frames of one person.

    Args:
      cohort: of the person.
      subject: of the person.
      size: height and width of the frames in pixels.
    """

    def __init__(self, cohort: str, subject: str, size: int) -> None:
        self.who: Person = person(cohort, subject)
        self.size, self.texels = size, size * SUPERSAMPLING
        self._texture: Texture = texture(cohort, subject, size)
        self._hills: dict[tuple[int, str], au.Hills] = {}
        self._grids: dict[tuple[int, str], np.ndarray] = {}
        self._furrows: dict[tuple[int, str], np.ndarray | None] = {}
        lids = lid_curves(self.who.landmarks)
        # every point that is tracked, in one array: landmarks, then upper and lower lid of either side
        self._sides = tuple(lids)
        self._points = np.concatenate([self.who.landmarks, *(edge for side in lids.values() for edge in side)])
        self._tracked: tuple[Pose | None, np.ndarray] = (None, self._points)

    # -- geometry ----------------------------------------------------------------------------------------------------

    def hills(self, key: tuple[int, str]) -> au.Hills:
        """Displacement field of one side of a unit at full intensity."""
        if key not in self._hills:
            self._hills[key] = au.hills(self.who, *key)
        return self._hills[key]

    def displacement(self, points: np.ndarray, activation: au.Activation) -> np.ndarray:
        """D at points [M, 2] of the head, face units."""
        return self._all_hills(activation).at(points)

    def moved(self, points: np.ndarray, activation: au.Activation) -> np.ndarray:
        """Where points [M, 2] of the texture are on the head: the r with r - D(r) = u, to 1e-6 of the face."""
        field = self._all_hills(activation)
        r = points + field.at(points)
        for _ in range(50):
            before, r = r, points + field.at(r)
            if np.abs(r - before).max() < 1e-6:
                break
        return r

    def _all_hills(self, activation: au.Activation) -> au.Hills:
        rows = [self.hills(key).rows * [1, 1, 1, 1, value, value] for key, value in activation.items()]
        return au.Hills(np.concatenate(rows) if rows else np.array([[0.5, 0.5, 1, 1, 0, 0]]))

    def _track(self, pose: Pose) -> np.ndarray:
        """All tracked points on the head; the last pose is remembered."""
        if self._tracked[0] is not pose:
            self._tracked = (pose, self.moved(self._points, pose.activation))
        return self._tracked[1]

    def flow(self, before: Pose, after: Pose) -> np.ndarray:
        """Exact motion of the skin between two frames, float32 [size, size, 2] (u right, v down) in pixels.

        Lids, eyeballs and lips that open have no skin motion of their own there; the field is that of the skin.
        """
        centre = (np.arange(self.size) + 0.5) / self.size
        points = np.stack(np.meshgrid(centre, centre), -1).reshape(-1, 2)
        r = before.to_head(points)
        u = r - self.displacement(r, before.activation)
        there = after.to_frame(self.moved(u, after.activation))
        return ((there - points) * self.size).reshape(self.size, self.size, 2).astype(np.float32)

    def landmarks(self, pose: Pose) -> np.ndarray:
        """Exact landmarks [68, 2] in pixels of the frame (pixel centres are integers)."""
        points = self._track(pose)[:68].copy()
        for side, (upper, lower) in self._openings(pose).items():
            rows = {"right": (37, 38, 41, 40), "left": (43, 44, 47, 46)}[side]
            points[rows[0]], points[rows[1]] = upper[3], upper[6]
            points[rows[2]], points[rows[3]] = lower[3], lower[6]
        gap = au.lip_opening(pose.activation)
        points[[61, 62, 63], 1] -= 0.25 * gap
        points[[65, 66, 67], 1] += 0.75 * gap
        return pose.to_frame(points) * self.size - 0.5

    def _openings(self, pose: Pose) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """(upper, lower) lid margins [10, 2] on the head by side."""
        found = {}
        edges = self._track(pose)[68:].reshape(len(self._sides), 2, -1, 2)
        for side, (up, low) in zip(self._sides, edges, strict=True):
            closed = np.clip(self.who.resting_lids + au.lid_closure(pose.activation, side), -0.5, 1)
            closed = max(closed, pose.blink)
            found[side] = (up + closed * (low + 0.1 * (up - low) - up) if closed > 0 else up + closed * (low - up), low)
        return found

    # -- appearance --------------------------------------------------------------------------------------------------

    def clean(self, pose: Pose) -> np.ndarray:
        """The frame without light, noise and compression: float32 [size, size, 3] in 0..255."""
        n = self.texels
        field = np.zeros((2, n, n), np.float32)
        shade = np.zeros((self.size, self.size), np.float32)
        for key, value in pose.activation.items():
            if key not in self._grids:
                self._grids[key] = self.hills(key).grid(n)
                self._furrows[key] = au.furrow(self.who, *key, self.size)
            cv2.scaleAdd(self._grids[key], value, field, field)
            own = self._furrows[key]
            if own is not None:
                shade += np.float32(min(value, 1.0) * self.who.furrow_gain) * own
        to_head = self._texel_affine(pose)
        centre = np.arange(n, dtype=np.float32)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        source = []
        for f, (a, b, c) in zip(field, to_head.astype(np.float32), strict=True):
            moved: np.ndarray = np.asarray(cv2.warpAffine(f, to_head, (n, n), flags=flags))
            moved *= np.float32(-n)
            moved += a * centre
            moved += (b * centre + c)[:, None]
            source.append(moved)
        image = cv2.remap(self._texture.skin, source[0], source[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        self._paint_eyes(image, pose, to_head)
        self._paint_mouth(image, pose)
        frame = cv2.resize(image.astype(np.float32), (self.size, self.size), interpolation=cv2.INTER_AREA)
        small = to_head.copy()
        small[:, 2] = (to_head[:, 2] + 0.5 * (to_head[:, :2].sum(1) - 1)) / SUPERSAMPLING - 0.5 * (
            to_head[:, :2].sum(1) - 1
        )
        dark = np.asarray(cv2.warpAffine(np.clip(shade, 0, 0.6), small, (self.size, self.size), flags=flags))
        return np.asarray(frame * (1 - dark)[..., None])

    def _texel_affine(self, pose: Pose) -> np.ndarray:
        """[2, 3], texel of the frame -> texel of the head."""
        inverse = np.linalg.inv(pose.linear)
        half = 0.5 / self.texels
        constant = inverse @ (half - CENTRE - np.array(pose.shift)) + CENTRE - half
        return np.concatenate([inverse, constant[:, None] * self.texels], 1).astype(np.float64)

    def _paint_eyes(self, image: np.ndarray, pose: Pose, to_head: np.ndarray) -> None:
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        for upper, lower in self._openings(pose).values():
            up, low = pose.to_frame(upper), pose.to_frame(lower)
            points = np.concatenate([curve(up, 2), curve(low, 2)[::-1]])
            low_corner = np.floor(points.min(0) * self.texels - 2).astype(int).clip(0)
            high_corner = np.ceil(points.max(0) * self.texels + 3).astype(int).clip(max=self.texels)
            if (high_corner <= low_corner).any():
                continue
            (x0, y0), (x1, y1) = low_corner, high_corner
            shifted = to_head.copy()
            shifted[:, 2] += to_head[:, :2] @ low_corner
            eyes = cv2.warpAffine(self._texture.eyes, shifted, (x1 - x0, y1 - y0), flags=flags)
            opening = polygon_mask(points, self.texels, low_corner, (y1 - y0, x1 - x0))[..., None]
            part = image[y0:y1, x0:x1]
            part[:] = np.clip(part + opening * (eyes.astype(np.float32) - part) + 0.5, 0, 255).astype(np.uint8)
            line(image, curve(up, 2), tuple(int(c) for c in self._texture.lash), 1 + self.size // 64)

    def _paint_mouth(self, image: np.ndarray, pose: Pose) -> None:
        gap = au.lip_opening(pose.activation)
        if gap * self.texels < 0.25:
            return
        seam = self._track(pose)[[60, 61, 62, 63, 64]]
        arch = np.array([0.0, 0.8, 1.0, 0.8, 0.0])[:, None] * [0.0, gap]
        upper, lower = curve(seam - 0.25 * arch, 3), curve(seam + 0.75 * arch, 3)
        fill(image, pose.to_frame(np.concatenate([upper, lower[::-1]])), tuple(int(c) for c in self._texture.mouth))
        if gap > 0.012:
            teeth = np.concatenate([upper[3:-3], (upper + 0.35 * (lower - upper))[3:-3][::-1]])
            fill(image, pose.to_frame(teeth), tuple(int(c) for c in self._texture.teeth))


def expose(clean: np.ndarray, light: np.ndarray, noise: float, quality: int, rng: np.random.Generator) -> np.ndarray:
    """Light, sensor noise and compression: float32 [S, S, 3] in 0..255 -> uint8.

    Args:
      clean: the frame.
      light: (gain, x slope, y slope).
      noise: standard deviation in grey levels.
      quality: JPEG quality, 0 = none.
      rng: of the noise.
    """
    size = clean.shape[0]
    centre = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    gain = np.float32(light[0]) + np.float32(light[1]) * centre[None, :] + np.float32(light[2]) * centre[:, None]
    frame = clean * gain[..., None] + rng.standard_normal(clean.shape, np.float32) * np.float32(noise)
    image = np.clip(np.rint(frame), 0, 255).astype(np.uint8)
    if quality:
        coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        image = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))[..., ::-1]
    return image
