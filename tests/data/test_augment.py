import types

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.data import augment
from mer_jax.data.clips import MODALITIES

FLOW = MODALITIES.index("flow_strain")
STRONG = types.SimpleNamespace(flip_p=0.5, rotate_deg=8.0, shift_px=4, brightness=0.2, contrast=0.3)
SIZE = 24

apply = jax.jit(augment.apply, static_argnames="size")


def given(**fields: object) -> augment.Augmentation:
    return augment.identity().replace(**{name: jnp.asarray(value) for name, value in fields.items()})


def frames(length: int = 2, height: int = 32, width: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.2, 0.8, (length, height, width, 3)).astype(np.float32)


def smooth(height: int, width: int) -> np.ndarray:
    return cv2.GaussianBlur(frames(1, height, width)[0], (0, 0), 3.0)


def test_identical_frames_stay_identical_under_every_augmentation():
    clip = jnp.repeat(frames(1), 2, axis=0)
    both = jax.jit(jax.vmap(lambda k, m: augment.apply(clip, augment.draw(k, STRONG), SIZE, m)))
    for modality in range(len(MODALITIES)):
        out = both(jax.random.split(jax.random.key(modality), 32), jnp.full(32, modality))
        assert np.array_equal(out[:, 0], out[:, 1])
        assert np.ptp(np.asarray(out).mean(axis=(1, 2, 3, 4))) > 0.0  # the draws do differ


def test_settings_of_zero_are_the_identity():
    off = types.SimpleNamespace(flip_p=0.0, rotate_deg=0.0, shift_px=0, brightness=0.0, contrast=0.0)
    clip = frames()
    for seed in range(4):
        out = apply(clip, augment.draw(jax.random.key(seed), off), size=SIZE)
        assert np.array_equal(out, clip[:, 4:28, 3:27])
        assert np.array_equal(out, augment.center(clip, SIZE))


@pytest.mark.parametrize("shift", [(3, 0), (-2, 4), (0, -9)])
def test_shift_is_an_exact_copy_with_repeated_border(shift: tuple[int, int]):
    clip = frames(3)
    padded = np.pad(clip, ((0, 0), (9, 9), (9, 9), (0, 0)), mode="edge")
    y, x = 9 + 4 - shift[1], 9 + 3 - shift[0]
    out = apply(clip, given(shift=np.array(shift)), size=SIZE)
    assert np.array_equal(out, padded[:, y : y + SIZE, x : x + SIZE])


def test_flip_is_an_exact_mirror_of_the_crop():
    clip = frames()
    assert np.array_equal(apply(clip, given(flip=True), size=SIZE), augment.center(clip, SIZE)[:, :, ::-1])


def test_rotation_agrees_with_opencv():
    image, angle = smooth(32, 30), np.deg2rad(7.0)
    cos, sin = np.cos(angle), np.sin(angle)
    # output -> input about the centre of the crop, which begins at (3, 4)
    inverse = np.array([[cos, sin, 0.0], [-sin, cos, 0.0]])
    centre = np.array([11.5, 11.5])
    inverse[:, 2] = centre + np.array([3, 4]) - inverse[:, :2] @ centre
    expected = cv2.warpAffine(
        image, inverse, (SIZE, SIZE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )
    out = apply(image[None], given(angle=np.float32(angle)), size=SIZE)[0]
    # OpenCV rounds coordinates to 1/32 pixel
    np.testing.assert_allclose(out, expected, atol=np.abs(np.diff(image, axis=1)).max() / 16)


def test_brightness_and_contrast_change_colour_only():
    clip = frames()
    crop = np.asarray(augment.center(clip, SIZE))
    jitter = given(brightness=0.1, contrast=0.5)
    expected = np.clip((crop - 0.5) * 0.5 + 0.5 + 0.1, 0, 1)
    for name in ("rgb", "grey"):
        np.testing.assert_allclose(apply(clip, jitter, SIZE, MODALITIES.index(name)), expected, atol=1e-6)
    assert np.array_equal(apply(clip, jitter, SIZE, MODALITIES.index("nir")), crop)
    np.testing.assert_allclose(apply(clip, jitter, SIZE, FLOW), crop, atol=1e-6)


def test_result_stays_within_range():
    out = apply(frames(), given(brightness=0.9, contrast=1.9), size=SIZE)
    assert out.min() >= 0
    assert out.max() <= 1


def test_flip_of_flow_frames_negates_u():
    clip = frames()
    out = np.asarray(apply(clip, given(flip=True), SIZE, FLOW))
    crop = np.asarray(augment.center(clip, SIZE))[:, :, ::-1]
    np.testing.assert_allclose(out[..., 0], 2 * augment.FLOW_ZERO - crop[..., 0], atol=1e-6)
    np.testing.assert_allclose(out[..., 1:], crop[..., 1:], atol=1e-6)


def test_flow_is_the_motion_of_transformed_points():
    # of two landmark sets that differ by a constant flow, the transformed sets differ by the transformed flow
    vector = np.array([1.5, -0.5], np.float32)
    flow = np.broadcast_to(vector, (1, 32, 30, 2))
    points = np.random.default_rng(1).uniform(8, 20, (68, 2)).astype(np.float32)
    for seed in range(4):
        drawn = augment.draw(jax.random.key(seed), STRONG)
        moved = [augment.apply_to_landmarks(p, drawn, 32, 30, SIZE) for p in (points, points + vector)]
        out = augment.apply_to_flow(flow, drawn, SIZE)
        np.testing.assert_allclose(moved[1] - moved[0], np.broadcast_to(out[0, 5, 5], (68, 2)), atol=1e-5)


def blob(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """One channel a point, a Gaussian spot at it: [1, height, width, n]."""
    y, x = np.mgrid[:height, :width]
    square = (x[..., None] - points[:, 0]) ** 2 + (y[..., None] - points[:, 1]) ** 2
    return np.exp(-square / (2 * 1.5**2))[None].astype(np.float32)


def test_landmarks_move_with_the_frames():
    points = np.random.default_rng(2).uniform(11, 19, (68, 2)).astype(np.float32)
    spots = blob(points, 32, 30)
    settings = types.SimpleNamespace(flip_p=0.5, rotate_deg=8.0, shift_px=3, brightness=0.0, contrast=0.0)
    y, x = np.mgrid[:SIZE, :SIZE]
    flips = set()
    for seed in range(6):
        drawn = augment.draw(jax.random.key(seed), settings)
        flips.add(bool(drawn.flip))
        mass = np.asarray(apply(spots, drawn, size=SIZE))[0]
        found = np.stack([(mass * grid[..., None]).sum((0, 1)) for grid in (x, y)], -1) / mass.sum((0, 1))[:, None]
        if drawn.flip:  # the spot of a left point is now that of a right one
            found = found[augment.MIRROR_IBUG]
        moved = augment.apply_to_landmarks(points, drawn, 32, 30, SIZE)
        np.testing.assert_allclose(moved, found, atol=0.05)
    assert flips == {False, True}


def test_mirror_of_the_landmark_order():
    mirror = augment.MIRROR_IBUG
    assert sorted(mirror) == list(range(68))
    assert np.array_equal(mirror[mirror], np.arange(68))
    middle = [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]
    assert np.array_equal(np.flatnonzero(mirror == np.arange(68)), middle)
    assert (mirror[36], mirror[39], mirror[41], mirror[48], mirror[60], mirror[17]) == (45, 42, 46, 54, 64, 26)


def test_missing_landmarks_stay_missing():
    points = np.full((2, 68, 2), np.nan, np.float32)
    assert np.isnan(augment.apply_to_landmarks(points, given(flip=True), 32, 30, SIZE)).all()


def test_draws_reach_their_bounds_and_no_further():
    drawn = jax.vmap(lambda k: augment.draw(k, STRONG))(jax.random.split(jax.random.key(0), 2000))
    assert set(np.unique(drawn.shift)) == set(range(-4, 5))
    angle = np.rad2deg(drawn.angle)
    assert -8 <= angle.min() < -7.5
    assert 7.5 < angle.max() <= 8
    assert 0.45 < drawn.flip.mean() < 0.55
    assert 0.7 <= drawn.contrast.min() < 0.72
    assert 0.18 < drawn.brightness.max() <= 0.2


def test_normalisation_by_formula():
    clip = frames()
    expected = (clip - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(augment.normalise(clip, "imagenet"), expected, atol=1e-6)
    grey = augment.normalise(clip[..., :1], "imagenet")
    np.testing.assert_allclose(grey, (clip[..., :1] - 0.449) / 0.226, atol=1e-5)
    np.testing.assert_allclose(augment.normalise(np.array([[0.0], [0.5], [1.0]]), "signed")[:, 0], [-1, 0, 1])
    with pytest.raises(ValueError, match="'sRGB' is none of"):
        augment.normalise(clip, "sRGB")


def test_frames_smaller_than_the_view_are_refused():
    with pytest.raises(ValueError, match="32x30 pixels are smaller than the view of 31x31"):
        augment.apply(frames(), augment.identity(), 31)
