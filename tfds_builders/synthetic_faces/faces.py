"""Identities: shape on the 68-point iBUG layout, skin, texture, age lines, resting face.

Coordinates are *face units*: the square crop is [0, 1] x [0, 1], x to the right, y down, pixel centres at (i + .5) / n.
The image-left half of a face is the subject's right side ("right"), as in FACS.

A person is a pure function of (cohort, subject): the seed of every draw is a hash of both texts, so two cohorts never
share anybody and one cohort shows the same people at every image size.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import cv2
import numpy as np
from scipy import ndimage

from tfds_builders.synthetic_faces.drawing import Canvas, blob, curve, hill, pixel_grid

SUPERSAMPLING = 3  # texels along one pixel: the 1/32 texel of cv2.remap is then 1/96 pixel
SIDES = ("right", "left")  # of the subject; image x grows from the subject's right to the left

# Melanin is beta distributed; cohorts of other than the usual people, by name: a person stays a function of the cohort.
_MELANIN = (1.6, 2.2)
_OTHER_MELANIN = {"synthetic_appearance": (5.0, 1.5)}

_RIGHT_BROW = ((0.170, 0.322), (0.215, 0.293), (0.275, 0.281), (0.340, 0.287), (0.405, 0.305))
_RIGHT_EYE = ((0.275, 0.405), (0.318, 0.383), (0.368, 0.383), (0.415, 0.411), (0.367, 0.425), (0.318, 0.425))
_NOSE = (
    (0.5, 0.392), (0.5, 0.455), (0.5, 0.520), (0.5, 0.578),
    (0.437, 0.612), (0.467, 0.626), (0.500, 0.634), (0.533, 0.626), (0.563, 0.612),
)  # fmt: skip
_MOUTH = (
    (0.368, 0.755), (0.412, 0.734), (0.463, 0.721), (0.500, 0.727), (0.537, 0.721), (0.588, 0.734), (0.632, 0.755),
    (0.590, 0.784), (0.546, 0.801), (0.500, 0.805), (0.454, 0.801), (0.410, 0.784),
    (0.385, 0.756), (0.455, 0.754), (0.500, 0.757), (0.545, 0.754), (0.615, 0.756), (0.545, 0.754), (0.500, 0.757),
    (0.455, 0.754),
)  # fmt: skip
_MIRROR = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
     41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Person:
    """One identity; all arrays in face units or linear colour [0, 1].

    Attributes:
      landmarks: float64 [68, 2], the face before its resting expression.
      age: years, drives the depth of lines.
      skin: float [3] rgb.
      iris: float [3] rgb.
      lip: float [3] rgb.
      hair: float [3] rgb.
      brow: float [3] rgb.
      brow_thickness: half thickness of the brows.
      resting: resting activation by (action unit, side), constant over all clips of the person.
      resting_lids: closure of both lids at rest (drooping positive).
      furrow_gain: how strongly furrows show, from age.
      texture_seed: seed of skin noise, freckles, moles, lines, background.
    """

    landmarks: np.ndarray
    age: float
    skin: np.ndarray
    iris: np.ndarray
    lip: np.ndarray
    hair: np.ndarray
    brow: np.ndarray
    brow_thickness: float
    resting: dict[tuple[int, str], float]
    resting_lids: float
    furrow_gain: float
    texture_seed: int


@dataclasses.dataclass(frozen=True)
class Texture:
    """A person's drawn layers.

    Attributes:
      skin: uint8 [S, S, 3], everything but what lies behind lids and lips.
      eyes: uint8 [S, S, 3], eyeballs, seen through the lids' opening.
      mouth: uint8 [3], inside of the mouth.
      teeth: uint8 [3].
      lash: uint8 [3], lid margin.
    """

    skin: np.ndarray
    eyes: np.ndarray
    mouth: np.ndarray
    teeth: np.ndarray
    lash: np.ndarray


def text_seed(*parts: str) -> int:
    """A 64-bit seed from texts (SHA-256), the same on every machine."""
    return int.from_bytes(hashlib.sha256("\x1f".join(parts).encode()).digest()[:8], "little")


def mean_landmarks() -> np.ndarray:
    """float64 [68, 2]: the symmetric average face in face units; eyes' outer corners are .45 apart."""
    angle = np.linspace(0.0, np.pi, 17)
    jaw = np.stack([0.5 - 0.385 * np.cos(angle), 0.40 + 0.555 * np.sin(angle) ** 0.95], 1)
    right = np.array([*_RIGHT_BROW, *_RIGHT_EYE])
    left = right * [-1, 1] + [1, 0]
    points = np.concatenate([jaw, right[:5], left[4::-1], _NOSE, right[5:], left[[8, 7, 6, 5, 10, 9]], _MOUTH])
    return points.astype(np.float64)


def outer_eye_distance(landmarks: np.ndarray) -> float:
    """Distance of the outer eye corners (iBUG 36 and 45), the "inter-ocular" unit of 300-W."""
    return float(np.linalg.norm(landmarks[45] - landmarks[36]))


def _shape(rng: np.random.Generator) -> np.ndarray:
    """A random face shape: proportions drawn one by one around the average, then slight asymmetry."""
    points = mean_landmarks()
    offset = points - [0.5, 0.0]

    def scale_x(rows: slice | list[int], factor: float) -> None:
        offset[rows, 0] *= factor

    def scale_about(rows: list[int], fx: float, fy: float) -> None:
        centre = offset[rows].mean(0)
        offset[rows] = centre + (offset[rows] - centre) * [fx, fy]

    right_eye, left_eye = list(range(36, 42)), list(range(42, 48))
    right_brow, left_brow = list(range(17, 22)), list(range(22, 27))
    mouth = list(range(48, 68))
    jaw_width, chin_width, chin_y = rng.normal(1, 0.045), rng.normal(1, 0.09), rng.normal(0, 0.018)
    depth = np.clip((offset[:17, 1] - 0.40) / 0.555, 0, 1)
    offset[:17, 0] *= jaw_width * (1 + (chin_width - 1) * depth)
    offset[:17, 1] += chin_y * depth
    separation = rng.normal(0, 0.010)
    eye_width, eye_height, eye_tilt = rng.normal(1, 0.06), np.clip(rng.normal(1, 0.16), 0.65, 1.4), rng.normal(0, 0.05)
    brow_y, brow_arch, brow_tilt = rng.normal(0, 0.011), rng.normal(1, 0.3), rng.normal(0, 0.06)
    for sign, eye, brow in ((-1, right_eye, right_brow), (1, left_eye, left_brow)):
        offset[eye, 0] += sign * separation
        offset[brow, 0] += sign * separation
        scale_about(eye, eye_width, eye_height)
        scale_about(brow, rng.normal(1, 0.01) * eye_width, brow_arch)
        for rows, tilt in ((eye, eye_tilt), (brow, brow_tilt)):
            offset[rows, 1] -= sign * tilt * (offset[rows, 0] - offset[rows, 0].mean())
        offset[brow, 1] += brow_y
    scale_x(list(range(31, 36)), rng.normal(1, 0.11))
    offset[28:36, 1] += rng.normal(0, 0.013) * np.array([0.3, 0.6, 1, 1, 1, 1, 1, 1])
    scale_x(mouth, rng.normal(1, 0.09))
    offset[mouth, 1] += rng.normal(0, 0.011)
    seam = offset[[62, 66], 1].mean()
    upper, lower = [49, 50, 51, 52, 53], [55, 56, 57, 58, 59]
    offset[upper, 1] = seam + (offset[upper, 1] - seam) * np.clip(rng.normal(1, 0.22), 0.5, 1.6)
    offset[lower, 1] = seam + (offset[lower, 1] - seam) * np.clip(rng.normal(1, 0.2), 0.5, 1.6)
    bow = rng.normal(0, 0.006)  # corners higher or lower than the middle of the seam
    offset[mouth, 1] += bow * (np.abs(offset[mouth, 0]) / 0.13) ** 2
    asymmetry = rng.normal(0, 0.0022, points.shape)
    asymmetry[60:68] = asymmetry[62]  # the closed seam stays closed
    asymmetry[36:48] *= 0.5
    return offset + [0.5, 0.0] + asymmetry


@functools.lru_cache(maxsize=256)
def person(cohort: str, subject: str) -> Person:
    """The identity behind `cohort/subject` (the same object for every dataset, size and process)."""
    rng = np.random.default_rng(text_seed("synthetic_faces person", cohort, subject))
    landmarks = _shape(rng)
    age = float(rng.uniform(18, 70))
    melanin = float(rng.beta(*_OTHER_MELANIN.get(cohort, _MELANIN)))
    light, dark = np.array([0.90, 0.73, 0.64]), np.array([0.34, 0.22, 0.16])
    skin = light * (1 - melanin) + dark * melanin + rng.normal(0, 0.018, 3) * [1, 0.6, 0.6]
    lip = np.clip(skin * [0.86, 0.62, 0.64] + rng.normal(0, 0.02, 3), 0.05, 1)
    tones = np.array(
        [[0.06, 0.05, 0.05], [0.16, 0.10, 0.07], [0.33, 0.22, 0.13], [0.62, 0.49, 0.30], [0.55, 0.54, 0.53]]
    )
    weights = np.array([3.0, 2.5, 1.2, 0.6 * (1 - melanin), 0.02 * max(age - 35, 0)])
    hair = tones[rng.choice(5, p=weights / weights.sum())] * rng.uniform(0.85, 1.15)
    irises = np.array([[0.20, 0.12, 0.07], [0.30, 0.20, 0.11], [0.33, 0.36, 0.26], [0.35, 0.45, 0.55]])
    iris_weights = np.array([3.0, 2.0, 1.0 - melanin, 1.2 * (1 - melanin)])
    resting: dict[tuple[int, str], float] = {}
    # A face at rest is not a neutral mask: a few muscles carry some tone, mostly on both sides.
    for unit, spread in (
        (1, 0.10),
        (2, 0.10),
        (4, 0.22),
        (6, 0.12),
        (10, 0.10),
        (12, 0.16),
        (15, 0.20),
        (17, 0.18),
        (24, 0.25),
    ):
        both = max(0.0, rng.normal(0, spread))
        for side in SIDES:
            value = max(0.0, both * (1 + rng.normal(0, 0.25)))
            if value > 0.01:
                resting[unit, side] = float(value)
    return Person(
        landmarks=landmarks,
        age=age,
        skin=np.clip(skin, 0.08, 0.97),
        iris=irises[rng.choice(4, p=iris_weights / iris_weights.sum())],
        lip=lip,
        hair=hair,
        brow=np.clip(hair * 0.75 + 0.02, 0, 0.6),
        brow_thickness=float(np.clip(rng.normal(0.0135, 0.003), 0.007, 0.022)),
        resting=resting,
        resting_lids=float(np.clip(rng.normal(0.05, 0.07), -0.08, 0.25)),
        furrow_gain=float(0.45 + 1.1 * (age - 18) / 52),
        texture_seed=int(rng.integers(2**62)),
    )


def lid_curves(landmarks: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(upper, lower) lid margins [10, 2] by side, both from image left to right, with matching rows.

    Rows 0, 3, 6, 9 are the iBUG points of the lid.
    """
    orders = {"right": ((36, 37, 38, 39), (36, 41, 40, 39)), "left": ((42, 43, 44, 45), (42, 47, 46, 45))}
    return {
        side: (curve(landmarks[list(upper)], 3), curve(landmarks[list(lower)], 3))
        for side, (upper, lower) in orders.items()
    }


def _noise(rng: np.random.Generator, size: int, scale: float) -> np.ndarray:
    """Smooth noise [size, size] of unit variance; `scale` is the correlation length in face units."""
    base = 256  # drawn at one size whatever the texture, so that a person looks the same at every size
    field = ndimage.gaussian_filter(rng.standard_normal((base, base)), scale * base, mode="wrap")
    field = (field - field.mean()) / field.std()
    return cv2.resize(
        field.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA if size < base else cv2.INTER_CUBIC
    )


def _head(canvas: Canvas, who: Person, rng: np.random.Generator) -> None:
    """Background, shoulders, hair, neck and the skin of the face with its shading."""
    x, y, marks = canvas.x, canvas.y, who.landmarks
    tone = rng.uniform(0.25, 0.75) + rng.normal(0, 0.03, 3)
    canvas.image[:] = tone * (1 + rng.uniform(-0.25, 0.25) * (y - 0.5) + rng.uniform(-0.2, 0.2) * (x - 0.5))[..., None]
    half = (marks[16, 0] - marks[0, 0]) / 2
    middle = (marks[16, 0] + marks[0, 0]) / 2
    strands = 1 + 0.16 * _noise(rng, canvas.size, 0.006) + 0.10 * _noise(rng, canvas.size, 0.03)
    skull = ((x - middle) / (half * rng.uniform(1.10, 1.22))) ** 2 + ((y - 0.42) / 0.50) ** 2 < 1
    long_hair = rng.random() < 0.5
    if long_hair:
        skull |= (np.abs(x - middle) < half * 1.18) & (y > 0.4)
    canvas.paint(canvas.soft(skull, 0.006), who.hair * strands[..., None])
    neck = (np.abs(x - middle) < half * 0.62) & (y > 0.80)
    canvas.paint(canvas.soft(neck, 0.01), who.skin * 0.72)
    top = 0.075 + rng.normal(0, 0.012)
    crown = np.linspace(np.pi, 0, 15)[1:-1]
    forehead = np.stack([middle - half * 0.97 * -np.cos(crown), 0.40 - (0.40 - top) * np.sin(crown) ** 0.75], 1)[::-1]
    outline = np.concatenate([curve(marks[:17], 3), forehead])
    face = canvas.polygon(outline, 0.006)
    # Pseudo-relief: an ellipsoid with a nose ridge, cheek bones, eye sockets and a chin, lit from above and one side.
    height = np.sqrt(np.clip(1 - ((x - middle) / (half * 1.12)) ** 2 - ((y - 0.48) / 0.62) ** 2, 0.02, 1)) * 0.34
    height += 0.055 * blob(x, y, 0.5, 0.50, 0.030, 0.085) + 0.045 * hill(x, y, marks[30], 0.045, 0.035)
    for side in (-1, 1):
        height += 0.030 * blob(x, y, 0.5 + side * 0.20, 0.53, 0.085, 0.06)
        height -= 0.040 * blob(x, y, 0.5 + side * 0.145, 0.395, 0.075, 0.04)
        height += 0.018 * blob(x, y, 0.5 + side * 0.16, 0.30, 0.09, 0.025)
    height += 0.025 * hill(x, y, (marks[8] - [0, 0.055]), 0.06, 0.04) - 0.018 * blob(x, y, 0.5, 0.675, 0.015, 0.03)
    gy, gx = np.gradient(height, 1 / canvas.size)
    normal = np.stack([-gx, -gy, np.ones_like(gx)], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    lamp = np.array([rng.uniform(-0.30, 0.30), -0.35, 0.9])
    lamp /= np.linalg.norm(lamp)
    shading = 0.58 + 0.50 * np.clip(normal @ lamp, 0, 1) + 0.10 * np.clip(normal @ lamp, 0, 1) ** 12
    mottled = 1 + 0.028 * _noise(rng, canvas.size, 0.05) + 0.030 * _noise(rng, canvas.size, 0.010)
    mottled += 0.034 * _noise(rng, canvas.size, 0.0045)
    skin = who.skin * (shading * mottled)[..., None]
    blush = 0.8 * hill(x, y, marks[30], 0.05, 0.04)
    for side in (-1, 1):
        blush = blush + blob(x, y, 0.5 + side * 0.20, 0.60, 0.08, 0.06)
    skin *= 1 + np.array([0.05, -0.05, -0.04]) * (blush * rng.uniform(0.3, 1.2))[..., None]
    canvas.paint(face, skin)


def _spots(canvas: Canvas, who: Person, rng: np.random.Generator) -> None:
    """Freckles, moles and beard shadow."""
    for _ in range(int(rng.integers(10, 46))):
        cx, cy = rng.uniform(0.2, 0.8), rng.uniform(0.36, 0.92)
        canvas.darken(blob(canvas.x, canvas.y, cx, cy, *rng.uniform(0.003, 0.006, 2)), rng.uniform(0.04, 0.16))
    for _ in range(int(rng.integers(0, 4))):
        cx, cy = rng.uniform(0.22, 0.78), rng.uniform(0.45, 0.9)
        canvas.darken(blob(canvas.x, canvas.y, cx, cy, 0.006, 0.006), rng.uniform(0.3, 0.6))
    if rng.random() < 0.3:
        jaw = blob(canvas.x, canvas.y, 0.5, 0.86, 0.22, 0.10) + 0.7 * blob(canvas.x, canvas.y, 0.5, 0.685, 0.10, 0.022)
        grain = 0.6 + 0.4 * np.clip(_noise(rng, canvas.size, 0.004), -1, 1)
        canvas.darken(np.clip(jaw, 0, 1) * grain, rng.uniform(0.1, 0.3))


def _age_lines(canvas: Canvas, who: Person, rng: np.random.Generator) -> None:
    """Static lines: forehead, crow's feet, bags, nasolabial and marionette folds, deeper with age."""
    marks, depth = who.landmarks, 0.02 + 0.20 * ((who.age - 18) / 52) ** 1.5
    for k in range(int(rng.integers(1, 4))):
        y = 0.155 + 0.038 * k + rng.normal(0, 0.006)
        canvas.stroke(
            [(0.30, y + 0.012), (0.42, y), (0.58, y + rng.normal(0, 0.004)), (0.70, y + 0.012)], 0.003, depth * 0.8
        )
    for sign, eye, wing, corner in ((-1, 36, 31, 48), (1, 45, 35, 54)):
        for angle in (-0.35, 0.05, 0.45):
            start = marks[eye] + [sign * 0.018, 0.002]
            end = start + 0.045 * np.array([sign * np.cos(angle), np.sin(angle)])
            canvas.stroke([start, end], 0.003, depth * 0.7)
        under = marks[41 if sign < 0 else 46] + [0, 0.022]
        canvas.stroke([under - [0.045, 0.004], under + [0, 0.006], under + [0.045, -0.004]], 0.005, 0.05 + depth * 0.6)
        fold = [marks[wing] + [sign * 0.012, -0.012], (marks[wing] + marks[corner]) / 2 + [sign * 0.045, -0.02],
                marks[corner] + [sign * 0.032, 0.0]]  # fmt: skip
        canvas.stroke(fold, 0.006, 0.05 + depth * 0.8)
        canvas.stroke([marks[corner] + [sign * 0.012, 0.02], marks[corner] + [sign * 0.02, 0.07]], 0.004, depth * 0.6)


def _features(canvas: Canvas, who: Person, rng: np.random.Generator) -> None:
    """Brows, lid creases, nose and lips."""
    marks = who.landmarks
    for side, (upper, lower) in lid_curves(marks).items():
        sign = -1 if side == "right" else 1
        socket = canvas.polygon(np.concatenate([upper, lower[::-1]]), 0.004)
        canvas.paint(socket, who.skin * 0.86)
        height = np.linalg.norm(upper[5] - lower[5])
        crease = upper + np.array([0, -0.35]) * height - [0, 0.004]
        canvas.stroke(crease, 0.0035, 0.30)
        canvas.darken(hill(canvas.x, canvas.y, upper[4:6].mean(0) - [0, 0.012], 0.06, 0.016), 0.10)
        brow = marks[17:22] if side == "right" else marks[26:21:-1]
        line = curve(brow, 4)
        along = np.linspace(0, 1, len(line))
        half = who.brow_thickness * np.interp(along, [0, 0.25, 0.8, 1], [0.25, 0.85, 1.05, 0.75])
        shape = np.concatenate([line - np.stack([0 * half, half], 1), (line + np.stack([0 * half, half], 1))[::-1]])
        hairs = np.clip(0.80 + 0.28 * _noise(rng, canvas.size, 0.0045), 0, 1)
        canvas.paint(canvas.polygon(shape, 0.004) * hairs * 0.9, who.brow)
        wing = marks[31 if sign < 0 else 35]
        canvas.stroke([wing + [sign * 0.004, -0.035], wing + [sign * 0.014, -0.012], wing + [0, 0.004]], 0.005, 0.24)
        canvas.darken(blob(canvas.x, canvas.y, 0.5 + sign * 0.033, marks[32, 1] - 0.003, 0.014, 0.007), 0.72)
    canvas.stroke([marks[31] + [0, 0.006], marks[33] + [0, 0.008], marks[35] + [0, 0.006]], 0.006, 0.22)
    canvas.darken(-hill(canvas.x, canvas.y, marks[30] - [0, 0.006], 0.012, 0.012), 0.16)  # highlight on the tip
    upper = np.concatenate([curve(marks[48:55], 3), curve(marks[[64, 63, 62, 61, 60]], 3)])
    lower = np.concatenate([curve(marks[[54, 55, 56, 57, 58, 59, 48]], 3), curve(marks[[60, 67, 66, 65, 64]], 3)])
    grain = 1 + 0.05 * _noise(rng, canvas.size, 0.005)
    canvas.paint(canvas.polygon(upper, 0.005) * 0.9, who.lip * 0.90 * grain[..., None])
    canvas.paint(canvas.polygon(lower, 0.005) * 0.9, who.lip * 1.08 * grain[..., None])
    seam = np.concatenate([marks[48:49], curve(marks[[60, 61, 62, 63, 64]], 3), marks[54:55]])
    canvas.stroke(seam, 0.0035, 0.55)
    canvas.darken(hill(canvas.x, canvas.y, marks[57] + [0, 0.016], 0.05, 0.010), 0.14)
    canvas.darken(-hill(canvas.x, canvas.y, marks[57] - [0, 0.022], 0.035, 0.008), 0.10)


def _eyeballs(size: int, who: Person) -> np.ndarray:
    """uint8 [S, S, 3]: sclera and iris of both eyes on a sclera-coloured ground."""
    canvas = Canvas(size)
    canvas.image[:] = np.array([0.86, 0.84, 0.82]) * (0.55 + 0.45 * float(who.skin.mean() > 0.3))
    for rows in (slice(36, 42), slice(42, 48)):
        eye = who.landmarks[rows]
        cx, cy = eye.mean(0) + [0, -0.002]
        radius = 0.0265  # iris 11.7 mm against 89 mm between the outer corners (Farkas 1994)
        r = np.hypot(canvas.x - cx, canvas.y - cy)
        canvas.darken(np.clip(np.abs(canvas.x - cx) / 0.07, 0, 1) ** 2, 0.30)
        canvas.paint(canvas.step(radius - r), who.iris * (0.75 + 0.5 * r / radius)[..., None])
        canvas.darken(np.exp(-(((r - radius) / 0.004) ** 2)), 0.45)
        canvas.paint(canvas.step(0.010 - r), np.array([0.03, 0.03, 0.03]))
        canvas.paint(blob(canvas.x, canvas.y, cx + 0.008, cy - 0.008, 0.004, 0.004), np.array([0.95, 0.95, 0.95]))
        canvas.darken(blob(canvas.x, canvas.y, cx, eye[1:3, 1].mean() - 0.004, 0.08, 0.010), 0.45)  # shadow of the lid
    return canvas.to_uint8()


@functools.lru_cache(maxsize=8)
def texture(cohort: str, subject: str, size: int) -> Texture:
    """Draws a person's layers for images of `size` pixels (textures have SUPERSAMPLING times as many texels)."""
    who = person(cohort, subject)
    rng = np.random.default_rng(who.texture_seed)
    canvas = Canvas(size * SUPERSAMPLING)
    for draw in (_head, _spots, _age_lines, _features):
        draw(canvas, who, rng)

    def colour(rgb: np.ndarray) -> np.ndarray:
        return np.clip(np.asarray(rgb) * 255 + 0.5, 0, 255).astype(np.uint8)

    return Texture(
        skin=canvas.to_uint8(),
        eyes=_eyeballs(size * SUPERSAMPLING, who),
        mouth=colour(np.array([0.22, 0.08, 0.08])),
        teeth=colour(np.array([0.82, 0.79, 0.72])),
        lash=colour(who.skin * 0.35),
    )


__all__ = [
    "SIDES", "SUPERSAMPLING", "Person", "Texture", "lid_curves", "mean_landmarks", "outer_eye_distance", "person",
    "pixel_grid", "text_seed", "texture",
]  # fmt: skip
