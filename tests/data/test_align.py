import dataclasses
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from mer_jax.data import align, frames, source
from mer_jax.data.align import Alignment
from mer_jax.data.clips import AU_SLOTS, ClipRecord
from mer_jax.data.pairs import PairSampler, PairSettings
from mer_jax.data.store import build_store
from mer_jax.errors import UserError
from tfds_builders.synthetic_faces.faces import SIDES
from tfds_builders.synthetic_faces.render import Pose, Renderer

SIZE, CROP = 64, 80
LEVELS = (0.0, 0.15, 0.3, 0.45)
HEAD = {"shift": (0.02, -0.01), "rotation": 0.12, "scale": 0.9}
CLIP, RELEASED = Alignment("clip"), Alignment("released")


class Needs(NamedTuple):
    size: int
    channels: int
    landmarks: bool
    modality: str = ""


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer("synthetic_test", "p003", SIZE)


@pytest.fixture(scope="module")
def smile(renderer):
    """A pure AU12 clip of a tilted head that is held still: poses, frames uint8 [T, S, S, 3], exact landmarks."""
    poses = [Pose({(12, side): level for side in SIDES}, **HEAD) for level in LEVELS]
    images = np.stack([np.rint(renderer.clean(pose)).astype(np.uint8) for pose in poses])
    return poses, images, np.stack([renderer.landmarks(pose) for pose in poses])


def cut(images, landmarks, alignment, size=CROP):
    made = align.crop(landmarks, images.shape[1:3], size, "crop", alignment, "a/b/c")
    return np.stack([made.way(t).image(image) for t, image in enumerate(images)]), made.points(landmarks), made


def eye_line(points):
    return points[..., [42, 45], :].mean(-2) - points[..., [36, 39], :].mean(-2)


def seen_flow(a, b, window=11):
    """Motion of grey images by least squares in a window around each pixel (Lucas-Kanade), and how sure it is."""
    a, b = (cv2.GaussianBlur(x.astype(np.float32).mean(-1), (0, 0), 1.5) for x in (a, b))
    gy, gx = np.gradient((a + b) / 2)

    def window_sum(x):
        return cv2.boxFilter(x, -1, (window, window), normalize=False)

    xx, xy, yy = window_sum(gx * gx), window_sum(gx * gy), window_sum(gy * gy)
    tx, ty = window_sum(gx * (a - b)), window_sum(gy * (a - b))
    sure = xx * yy - xy**2
    flow = np.stack([yy * tx - xy * ty, xx * ty - xy * tx], -1) / np.maximum(sure, 1e-6)[..., None]
    return flow, sure


def test_the_eye_line_is_level_and_the_face_fills_the_crop(smile):
    _, images, landmarks = smile
    for alignment in (CLIP, RELEASED):
        _, points, _ = cut(images, landmarks, alignment)
        assert abs(eye_line(points[0])[1]) < (1e-4 if alignment is CLIP else 1.0)
        centres = [points[0, 36:42].mean(0), points[0, 42:48].mean(0)]
        five = np.stack([*centres, points[0, 30], points[0, 48], points[0, 54]])
        low, high = five.min(0), five.max(0)
        middle, side = (low + high) / 2, (high - low).max()
        # `released` says so exactly; `clip` knows the average face only
        np.testing.assert_allclose(middle, (CROP - 1) / 2, atol=1e-3 if alignment is RELEASED else 0.08 * CROP)
        assert CROP / side == pytest.approx(2.5, rel=1e-4 if alignment is RELEASED else 0.2)


def test_a_pure_smile_keeps_its_motion_by_one_transform_a_clip(renderer, smile):
    """The exact flow, carried through the transform, is the flow of the crops; landmarks move by the same."""
    poses, images, landmarks = smile
    crops, points, made = cut(images, landmarks, CLIP)
    way = made.ways[0]
    moved = (points - points[0])[-1]
    np.testing.assert_allclose(moved, (landmarks - landmarks[0])[-1] @ way.linear.T, atol=1e-4)

    exact = renderer.flow(poses[0], poses[-1]) @ way.linear.T  # on the pixels of the frame
    inverse = np.linalg.inv(way.linear)
    y, x = np.mgrid[:CROP, :CROP]
    source = (np.stack([x, y], -1) - way.shift) @ inverse.T
    expected = cv2.remap(exact.astype(np.float32), source.astype(np.float32), None, cv2.INTER_LINEAR)
    strong = np.linalg.norm(expected, axis=-1) > 0.3
    assert strong.sum() > 200
    found, sure = seen_flow(crops[0], crops[-1])
    textured = strong & (sure > np.quantile(sure, 0.4))
    gain = (found * expected)[textured].sum() / (expected[textured] ** 2).sum()
    assert 0.85 < gain < 1.2
    back = cv2.remap(crops[-1], *(np.float32([x, y]) + expected.transpose(2, 0, 1)), cv2.INTER_CUBIC)
    left, change = (np.abs(image.astype(float) - crops[0])[strong].mean() for image in (back, crops[-1]))
    assert left < 0.7 * change  # the rest is shading, and what bilinear sampling blurs
    # the parts that a smile does not reach stand still to the bit
    brows = slice(0, int(points[0, 36:48, 1].min() - 0.1 * CROP))
    assert np.array_equal(crops[0][brows], crops[-1][brows])


def test_boxes_of_single_frames_scale_a_smile_away(smile):
    """Why `released` is not the default: a smile that widens the mouth makes the still eyes move instead."""
    _, images, landmarks = smile
    wide = landmarks.copy()
    wide[:, [48, 54], 0] += np.array([-1, 1]) * np.linspace(0, 6, len(LEVELS))[:, None]  # now the mouth is the widest
    _, kept, _ = cut(images, wide, CLIP)
    _, lost, _ = cut(images, wide, RELEASED)
    mouth = [np.ptp(points[:, 54, 0] - points[:, 48, 0]) for points in (kept, lost)]
    assert mouth[1] < 0.65 * mouth[0]
    eyes = [np.abs(points[:, [36, 45]] - points[0, [36, 45]]).max() for points in (kept, lost)]
    assert eyes[0] < 0.05 < 1.0 < eyes[1]


def test_jitter_of_the_landmarks_adds_no_motion_to_a_still_clip(smile):
    _, images, landmarks = smile
    still = np.repeat(images[:1], 6, axis=0)
    noise = 0.01 * np.linalg.norm(eye_line(landmarks[0]))
    jittered = landmarks[:1] + np.random.default_rng(1).normal(0, noise, (6, 68, 2))
    crops, _, _ = cut(still, jittered, CLIP)
    assert (crops == crops[0]).all()
    crops, _, made = cut(still, jittered, RELEASED)
    assert (crops != crops[0]).any()
    assert len(made.ways) == 6


def test_the_first_frame_decides_alone_and_its_mouth_has_no_say(smile):
    _, images, landmarks = smile
    made = align.crop(landmarks, images.shape[1:3], CROP, "crop", CLIP, "x").ways[0]
    smiling = landmarks.copy()
    smiling[0, 48:68] *= 1.1
    smiling[1:] += 7
    again = align.crop(smiling, images.shape[1:3], CROP, "crop", CLIP, "x").ways[0]
    np.testing.assert_array_equal(made.linear, again.linear)
    np.testing.assert_array_equal(made.shift, again.shift)


@pytest.mark.parametrize("kind", ["clip", "released"])
@pytest.mark.parametrize("size", [32, 80, 224])
def test_image_and_landmarks_go_through_the_same_transform(kind, size):
    """Bright dots on landmarks of a turned, shifted and scaled face are found again where the points say."""
    rng = np.random.default_rng(0)
    face = Renderer("synthetic_test", "p001", 240).landmarks(Pose({}, rotation=-0.3, shift=(0.05, 0.02)))
    image = np.zeros((240, 260, 1), np.float32)
    dots = [36, 45, 30, 48, 54, 19]
    y, x = np.mgrid[:240, :260]
    for k in dots:
        image[..., 0] += 255 * np.exp(-((x - face[k, 0]) ** 2 + (y - face[k, 1]) ** 2) / (2 * 5.0**2))
    frame = np.clip(image + rng.uniform(0, 1, image.shape), 0, 255).astype(np.uint8)
    way = align.crop(face[None], (240, 260), size, "crop", Alignment(kind), "x").ways[0]
    seen, points = way.image(frame)[..., 0].astype(float), way.points(face)
    assert seen.shape == (size, size)
    radius = 12 * way.scale
    y, x = np.mgrid[:size, :size]
    for k in dots:
        near = seen * (np.hypot(x - points[k, 0], y - points[k, 1]) < radius) * (seen > 64)
        centre = np.array([(near * x).sum(), (near * y).sum()]) / near.sum()
        np.testing.assert_allclose(centre, points[k], atol=0.12 if kind == "clip" else 0.3)


def test_turned_shifted_and_scaled_faces_give_the_same_crop(renderer):
    """Equivariance: whatever similarity the head has been through, landmarks of the crop are the same."""

    def points(**pose):
        landmarks = renderer.landmarks(Pose({}, **pose))[None]
        return align.crop(landmarks, (SIZE, SIZE), CROP, "crop", CLIP, "x").points(landmarks)

    still = points()
    for pose in ({"rotation": 0.4}, {"shift": (0.2, -0.1)}, {"scale": 0.5}, HEAD):
        np.testing.assert_allclose(points(**pose), still, atol=1e-3)


def test_one_frame_as_in_the_released_code():
    """Against the recipe of MOL and FDP written out: eyes level, box of 2.5 times the larger side, grey 128 outside."""
    face = Renderer("synthetic_test", "p002", 200).landmarks(Pose({}, rotation=0.2, scale=1.3))
    way = align.by_frame(face, 144, 2.5)
    right, left = face[36:42].mean(0), face[42:48].mean(0)
    angle = np.degrees(np.arctan2(*(left - right)[::-1]))
    matrix = cv2.getRotationMatrix2D((0, 0), angle, 1.0)[:, :2]
    five = np.stack([right, left, face[30], face[48], face[54]]) @ matrix.T
    side = 2.5 * np.ptp(five, axis=0).max()
    np.testing.assert_allclose(way.linear, 144 / side * matrix, atol=1e-9)
    np.testing.assert_allclose(way.points(five @ matrix).mean(0), way.points(five.mean(0) @ matrix), atol=1e-3)
    corner = way.image(np.zeros((200, 200, 1), np.uint8))
    assert {0, 128} <= set(np.unique(corner).tolist())


def test_the_margin_is_a_setting(smile):
    _, images, landmarks = smile
    for kind in ("clip", "released"):
        tight, wide = (cut(images, landmarks, Alignment(kind, margin))[2].ways[0].scale for margin in (1.5, 3.0))
        assert tight == pytest.approx(2 * wide)


def test_without_alignment_frames_are_squared_as_before():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    made = align.crop(np.full((2, 68, 2), np.nan), (20, 30), 10, "pad", align.NONE, "x")
    np.testing.assert_array_equal(made.way(1).image(image), frames.square(20, 30, 10, "pad").image(image))


def test_a_face_that_is_not_found_in_the_first_frames(smile):
    _, images, landmarks = smile
    lost = landmarks.copy()
    lost[0] = np.nan
    made = align.crop(lost, images.shape[1:3], CROP, "crop", CLIP, "x")
    np.testing.assert_array_equal(made.ways[0].linear, align.by_stable_points(landmarks[1], CROP, 2.5).linear)
    ways = align.crop(lost, images.shape[1:3], CROP, "crop", RELEASED, "x").ways
    assert ways[0] is ways[1] is not ways[2]


def test_mistakes_end_in_one_message(smile):
    _, images, landmarks = smile
    with pytest.raises(UserError, match=r"data\.align: found 'face'; expected one of none, clip, released"):
        Alignment("face")
    with pytest.raises(UserError, match=r"data\.align_margin"):
        Alignment("clip", 0.0)
    for alignment in (CLIP, RELEASED):
        with pytest.raises(UserError, match=r"clip a/b/c: no landmarks found; .* choose data\.align = 'none'"):
            cut(images, np.full_like(landmarks, np.nan), alignment)
        with pytest.raises(UserError, match=r"a/b/c: the landmarks of a frame are all in one place"):
            cut(images, np.full_like(landmarks, 3.0), alignment)


def record(name, images, landmarks):
    return ClipRecord(
        clip=f"toy/{name}/a", dataset="toy", subject=name, cohort="toy", frames=[frames.encode_png(i) for i in images],
        modality="rgb", fps=100.0, onset=1, apex=2, offset=len(images) - 1, apex_source="annotated",
        emotion="happiness", expression_type="macro", action_units=np.full(AU_SLOTS, -1, np.int8),
        action_unit_sides=np.zeros(AU_SLOTS, np.int8), action_unit_intensity=np.zeros(AU_SLOTS, np.int8),
        landmarks=landmarks.astype(np.float32),
    )  # fmt: skip


@pytest.fixture(scope="module")
def clips(smile):
    _, images, landmarks = smile
    return source.memory_source([record("1", images, landmarks), record("2", images, np.full_like(landmarks, np.nan))])


@pytest.mark.parametrize("kind", ["none", "clip", "released"])
def test_store_and_stream_cut_the_same_faces(clips, smile, kind):
    """Also where the store holds a part of a clip: the transform is that of the whole clip's first frame."""
    _, images, landmarks = smile
    expected, points, _ = cut(images, landmarks.astype(np.float32), Alignment(kind), size=24)
    needs = Needs(24, 3, True)
    store, table = build_store(
        clips, np.array([0]), needs, np.array([0]), align=Alignment(kind), extent="onset_offset", threads=1
    )
    assert table["length"][0] == 3
    np.testing.assert_array_equal(store.frames, expected[1:])
    np.testing.assert_array_equal(store.landmarks, points[1:])

    options = PairSettings(dt_ms=(10.0, 30.0), min_change=0.0, max_change=1.0, reverse_p=0.0, threads=0)
    options = dataclasses.replace(options, align=Alignment(kind), max_rotation_deg=np.inf, max_scale=np.inf)
    sampler = PairSampler(clips, options, 24, 3)
    for seed in range(4):
        pair = sampler.sample(0, np.random.default_rng(seed))
        for t, frame in zip(pair.positions, pair.frames, strict=True):
            np.testing.assert_array_equal(frame, expected[t])


def test_clips_without_landmarks_are_named(clips):
    needs = Needs(24, 3, False)
    with pytest.raises(UserError, match="clip toy/2/a: no landmarks found"):
        build_store(clips, np.arange(2), needs, np.zeros(2), align=CLIP, threads=1)
    with pytest.raises(UserError, match="clip toy/2/a: no landmarks found"):
        PairSampler(clips, PairSettings(dt_ms=(10.0, 30.0), align=CLIP), 24, 3).sample(1, np.random.default_rng(0))


def test_flow_is_not_turned(smile):
    _, images, landmarks = smile
    flow = dataclasses.replace(record("3", images, landmarks), modality="flow_strain")
    with pytest.raises(UserError, match=r"toy/3/a holds flow and strain.* data\.align must be 'none'"):
        build_store(source.memory_source([flow]), np.array([0]), Needs(24, 3, False), np.array([0]), align=CLIP)
