import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.data import motion
from mer_jax.data.clips import AU_SLOTS, MODALITIES
from mer_jax.data.motion import DecodedClip, MotionSpec
from mer_jax.data.motion_cache import MotionCache
from mer_jax.data.store import ClipStore
from mer_jax.data.tvl1 import TVL1Settings, tvl1_flow
from mer_jax.errors import UserError

SIZE = 32
FAST = TVL1Settings(nscales=1, warps=2)  # one small program for all tests


def frames(length, seed=0, channels=1, speed=0.3):
    """uint8 [T, H, W, C]: a texture that moves to the right by `speed` pixels a frame."""
    rng = np.random.default_rng(seed)
    wide = cv2.GaussianBlur(rng.uniform(0, 255, (SIZE, SIZE + 16)).astype(np.float32), (0, 0), 2)
    wide = (wide - wide.min()) / np.ptp(wide) * 255
    still = [cv2.warpAffine(wide, np.float32([[1, 0, speed * t - 8], [0, 1, 0]]), (SIZE, SIZE)) for t in range(length)]
    return np.repeat(np.rint(np.stack(still)).astype(np.uint8)[..., None], channels, axis=-1)


# --- strain ---------------------------------------------------------------------------------------------------------


def test_strain_of_affine_motion_is_exact_everywhere():
    y, x = np.mgrid[0:9, 0:11].astype(np.float32)
    a, b, c, d = 0.03, -0.02, 0.05, 0.04
    flow = np.stack([a * x + b * y + 1, c * x + d * y - 2], axis=-1)
    expected = np.sqrt(a**2 + d**2 + (b + c) ** 2 / 2)
    np.testing.assert_allclose(
        motion.strain(np.stack([flow, 2 * flow])), [[[expected]], [[2 * expected]]] * np.ones((2, 9, 11)), rtol=1e-5
    )


def test_rigid_motion_has_no_strain():
    y, x = np.mgrid[0:8, 0:8].astype(np.float32)
    turn = np.stack([-0.1 * y + 3, 0.1 * x - 1], axis=-1)
    np.testing.assert_allclose(motion.strain(turn), 0, atol=1e-6)


def test_strain_does_not_change_with_the_observer():
    """Turned by a quarter, the strain map turns along."""
    flow = np.random.default_rng(0).normal(size=(7, 7, 2)).astype(np.float32)
    turned = np.rot90(np.stack([flow[..., 1], -flow[..., 0]], axis=-1))  # x' = y, y' = -x
    np.testing.assert_allclose(motion.strain(turned), np.rot90(motion.strain(flow)), rtol=1e-5)


# --- dynamic images -------------------------------------------------------------------------------------------------


def test_harmonic_weights_are_the_published_ones():
    weights = jax.jit(motion.rank_pooling_weights)
    expected = [-8.4607, -1.4607, 1.0393, 2.0393, 2.2893, 2.0893, 1.5893, 0.8750]
    np.testing.assert_allclose(weights(np.arange(33) < 8)[:8], expected, atol=1e-4)
    for total in (1, 2, 5, 33):
        brute = [sum((2 * i - total - 1) / i for i in range(t, total + 1)) for t in range(1, total + 1)]
        found = weights(np.arange(33) < total)
        np.testing.assert_allclose(found[:total], brute, atol=3e-5)
        np.testing.assert_array_equal(found[total:], 0.0)
        assert abs(float(np.sum(found))) < 1e-4 * total


def test_linear_weights():
    np.testing.assert_array_equal(motion.rank_pooling_weights(np.ones(5, bool), "linear"), [-4, -2, 0, 2, 4])


@pytest.mark.parametrize("form", ["harmonic", "linear"])
def test_absent_frames_do_not_count(form):
    rng = np.random.default_rng(1)
    clip = rng.uniform(0, 255, (7, 4, 5)).astype(np.float32)
    mask = np.array([0, 1, 1, 0, 1, 1, 0], bool)
    found = jax.jit(motion.dynamic_image, static_argnames="form")(
        np.where(mask[:, None, None], clip, np.nan), mask, form=form
    )
    np.testing.assert_allclose(found, motion.dynamic_image(clip[mask], form=form), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("form", ["harmonic", "linear"])
def test_a_static_clip_gives_exactly_nothing(form):
    still = np.repeat(np.random.default_rng(2).uniform(0, 255, (1, 6, 6)), 11, axis=0).astype(np.float32)
    np.testing.assert_array_equal(motion.dynamic_image(still, form=form), 0.0)
    np.testing.assert_array_equal(motion.minmax(motion.dynamic_image(still, form=form)), 0.0)


def test_dynamic_image_is_the_weighted_sum_without_the_persons_looks():
    rng = np.random.default_rng(3)
    clip = rng.integers(0, 256, (8, 6, 6)).astype(np.uint8)
    weights = [sum((2 * i - 9) / i for i in range(t, 9)) for t in range(1, 9)]
    np.testing.assert_allclose(motion.dynamic_image(clip), np.tensordot(weights, clip.astype(float), 1), atol=2e-3)
    identity = rng.uniform(0, 100, (6, 6))
    np.testing.assert_allclose(motion.dynamic_image(clip + identity), motion.dynamic_image(clip), atol=2e-2)
    np.testing.assert_allclose(
        motion.dynamic_image(clip[::-1], form="linear"), -motion.dynamic_image(clip, form="linear"), atol=1e-2
    )


def test_minmax_scales_each_map_by_its_own_range():
    maps = np.array([[[0.0, 2], [4, 8]], [[-1, -1], [-1, 1]]], np.float32)
    np.testing.assert_allclose(motion.minmax(maps), [[[0, 0.25], [0.5, 1]], [[0, 0], [0, 1]]])


# --- positions ------------------------------------------------------------------------------------------------------


def test_phases_and_pairs_are_those_of_the_papers():
    np.testing.assert_array_equal(motion.phase_positions(27, 8), [0, 3, 6, 9, 12, 15, 18, 21])
    pairs = motion.pair_positions(27, 8)
    assert len(pairs) == 7 * 3
    for j in range(3):  # sequence j, pair i: frames i r + j and (i + 1) r + j
        for i in range(7):
            np.testing.assert_array_equal(pairs[i * 3 + j], [i * 3 + j, (i + 1) * 3 + j])
    assert pairs.max() < 24
    few = motion.pair_positions(27, 8, sequences=2)  # of the sequences 0, 1, 2 the first and the second
    np.testing.assert_array_equal(few, pairs.reshape(7, 3, 2)[:, [0, 1]].reshape(14, 2))
    np.testing.assert_array_equal(motion.pair_positions(27, 8, sequences=5), pairs)
    assert motion.pair_positions(80, 8, sequences=4)[:4, 0].tolist() == [0, 2, 5, 7]


def test_short_clips_are_spread_evenly():
    np.testing.assert_array_equal(motion.phase_positions(3, 5), [0, 0, 1, 2, 2])
    np.testing.assert_array_equal(motion.pair_positions(3, 5), [[0, 0], [0, 1], [1, 2], [2, 2]])
    np.testing.assert_array_equal(motion.phase_positions(1, 4), [0, 0, 0, 0])


# --- targets of clips -----------------------------------------------------------------------------------------------


def test_flow_from_onset_to_apex_is_that_of_its_two_frames():
    images = frames(9)
    found = motion.clip_target(images, 1, 5, 8, MotionSpec("flow_onset_apex", tvl1=FAST))
    expected = motion.flow_fields(images[1:2, ..., 0], images[5:6, ..., 0], FAST)[0]
    assert found.shape == (SIZE, SIZE, 2)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    assert 0.5 < np.median(found[..., 0]) < 1.5  # 4 frames at .3 pixels to the right, in two warps
    strain = motion.clip_target(images, 1, 5, 8, MotionSpec("strain_onset_apex", tvl1=FAST))
    np.testing.assert_allclose(strain, motion.strain(jnp.asarray(found)), atol=1e-6)


def test_an_unknown_apex_is_the_middle_of_the_event():
    images, spec = frames(9), MotionSpec("flow_onset_apex", tvl1=FAST)
    np.testing.assert_array_equal(motion.clip_target(images, 2, -1, 7, spec), motion.clip_target(images, 2, 4, 7, spec))


def test_colour_is_seen_as_grey():
    images, spec = frames(5), MotionSpec("flow_onset_apex", tvl1=FAST)
    rgb = np.repeat(images, 3, axis=-1)
    np.testing.assert_array_equal(motion.clip_target(rgb, 0, 4, 4, spec), motion.clip_target(images, 0, 4, 4, spec))


def test_pairs_of_many_clips_come_back_in_their_order():
    """More pairs than a batch holds, sorted inside by their difference."""
    spec = MotionSpec("flow_pairs", phases=4, tvl1=FAST)
    clips = [DecodedClip(frames(n, seed=n, speed=s), 0, -1, n - 1) for n, s in ((12, 0.5), (3, 0.1), (9, -0.3))]
    found = motion.clip_targets(clips, spec)
    assert [f.shape for f in found] == [(9, SIZE, SIZE, 2), (3, SIZE, SIZE, 2), (6, SIZE, SIZE, 2)]
    assert all(f.dtype == np.float16 for f in found)
    for clip, fields in zip(clips, found, strict=True):
        pairs = motion.pair_positions(len(clip.frames), 4)
        for k in (0, len(pairs) - 1):
            expected = motion.flow_fields(*(clip.frames[p : p + 1, ..., 0] for p in pairs[k]), FAST)[0]
            np.testing.assert_array_equal(fields[k], expected.astype(np.float16))
    np.testing.assert_array_equal(found[1][0], motion.clip_target(clips[1].frames, 0, -1, 2, spec)[0])


def test_batches_do_not_depend_on_the_batch_size():
    images = frames(4)[..., 0]
    direct = np.asarray(tvl1_flow(jnp.asarray(images[:3]), jnp.asarray(images[1:]), FAST))
    np.testing.assert_allclose(motion.flow_fields(images[:3], images[1:], FAST), direct, atol=1e-4)


def test_dynamic_image_looks_at_the_phases_of_its_extent():
    images = frames(20, channels=3)
    spec = MotionSpec("dynamic_image", phases=8, extent="onset_offset")
    found = motion.clip_target(images, 2, 9, 18, spec)
    np.testing.assert_allclose(found, motion.dynamic_image(images[2 + 2 * np.arange(8), ..., 0]), atol=1e-2)
    everything = motion.clip_target(
        images, 2, 9, 18, MotionSpec("dynamic_image", phases=0, extent="onset_apex", weights="linear")
    )
    np.testing.assert_allclose(everything, motion.dynamic_image(images[2:10, ..., 0], form="linear"), atol=1e-2)
    still = np.repeat(images[:1], 13, axis=0)
    np.testing.assert_array_equal(motion.clip_target(still, 0, -1, 12, MotionSpec("dynamic_image", phases=0)), 0.0)


def test_impossible_key_frames_are_named():
    for onset, apex, offset in ((3, 2, 4), (-1, 2, 4), (0, 9, 9)):
        with pytest.raises(ValueError, match=f"clip 0: found onset {onset}, apex {apex}"):
            motion.clip_target(frames(5), onset, apex, offset, MotionSpec("flow_onset_apex"))


def test_values_of_this_code_version():
    """Numbers of CODE_VERSION 1. A change here must raise CODE_VERSION, or stale targets are read from caches."""
    assert motion.CODE_VERSION == 1
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    images = [127 + 60 * np.sin(0.5 * x - 0.1 * t + 0.2 * y) + 60 * np.sin(0.4 * y + 0.05 * t) for t in range(9)]
    images = np.rint(images).astype(np.uint8)[..., None]
    flow = motion.clip_target(images, 0, 8, 8, MotionSpec("flow_onset_apex", tvl1=FAST))
    picture = motion.clip_target(images, 0, 8, 8, MotionSpec("dynamic_image"))
    found = [flow[..., 0].mean(), np.abs(flow[..., 1]).mean(), flow[7, 21, 0], picture.std(), picture[7, 21]]
    np.testing.assert_allclose(found[:3], (1.9824, 0.9888, 1.9672), atol=5e-3)
    np.testing.assert_allclose(found[3:], (197.25, -275.05), atol=0.02)


# --- specification, fingerprints, stores ----------------------------------------------------------------------------


def test_key_holds_what_the_kind_depends_on_and_nothing_else():
    def key(kind, **changes):
        return MotionSpec(kind, **changes).key()

    other = TVL1Settings(lambda_=0.2)
    assert key("flow_onset_apex", tvl1=other) != key("flow_onset_apex")
    assert key("flow_onset_apex", phases=4) == key("flow_onset_apex")
    assert key("flow_pairs", phases=4) != key("flow_pairs")
    assert key("flow_pairs", extent="whole") != key("flow_pairs")
    assert key("flow_pairs", sequences=2) != key("flow_pairs")
    assert key("dynamic_image", tvl1=other) == key("dynamic_image")
    assert key("dynamic_image", weights="linear") != key("dynamic_image")
    assert key("dynamic_image", code_version=0) != key("dynamic_image")
    assert json.loads(key("flow_pairs"))["tvl1"]["median_filtering"] == 5


@pytest.mark.parametrize(
    "bad", [{"kind": "flow"}, {"kind": "flow_pairs", "phases": 1}, {"kind": "flow_pairs", "extent": "all"}]
)
def test_wrong_specifications_are_refused(bad):
    with pytest.raises(ValueError, match="motion target"):
        MotionSpec(**bad)


def test_systems_name_their_targets():
    assert motion.named(("dynamic_image",)) == {"dynamic_image": MotionSpec("dynamic_image")}
    with pytest.raises(ValueError, match="flow_of_time"):
        motion.named(("flow_pairs", "flow_of_time"))


def test_fingerprint_sees_frames_and_key_frames():
    images = frames(4)
    base = DecodedClip(images, 0, 2, 3)
    changed = images.copy()
    changed[2, 5, 5, 0] ^= 1
    others = [
        DecodedClip(changed, 0, 2, 3), DecodedClip(images, 1, 2, 3), DecodedClip(images, 0, -1, 3),
        DecodedClip(images, 0, 2, 2), DecodedClip(images.reshape(4, SIZE * 2, SIZE // 2, 1), 0, 2, 3),
    ]  # fmt: skip
    prints = [motion.fingerprint(c) for c in (base, *others)]
    assert len(set(prints)) == len(prints)
    assert motion.fingerprint(DecodedClip(images[:, ::-1][:, ::-1], 0, 2, 3)) == prints[0]


def small_store(modality="grey"):
    clips = [frames(n, seed=n) for n in (6, 4, 7)]
    lengths = np.array([len(c) for c in clips], np.int32)
    return ClipStore(
        frames=jnp.asarray(np.concatenate(clips)),
        start=jnp.asarray(np.cumsum([0, *lengths[:-1]]).astype(np.int32)),
        length=jnp.asarray(lengths),
        fps=jnp.full(3, 100.0),
        onset=jnp.asarray([1, 0, 2], jnp.int32),
        apex=jnp.asarray([4, -1, 5], jnp.int32),
        offset=jnp.asarray(lengths - 1),
        true_onset=jnp.full(3, -1, jnp.int32),
        true_apex=jnp.full(3, -1, jnp.int32),
        true_offset=jnp.full(3, -1, jnp.int32),
        modality=jnp.full(3, MODALITIES.index(modality), jnp.int32),
        label=jnp.zeros(3, jnp.int32),
        action_units=jnp.zeros((3, AU_SLOTS), jnp.int8),
        landmarks=jnp.zeros((0, 68, 2)),
        motion={},
    )


def test_targets_of_a_store_are_computed_once(tmp_path, monkeypatch):
    store = small_store()
    specs = {
        "flow": MotionSpec("flow_onset_apex", tvl1=FAST),
        "pairs": MotionSpec("flow_pairs", phases=3, tvl1=FAST),
        "image": MotionSpec("dynamic_image", phases=3),
    }
    found = motion.store_targets(store, specs, MotionCache(tmp_path))
    assert {name: a.shape for name, a in found.items()} == {
        "flow": (3, SIZE, SIZE, 2), "pairs": (2 + 2 + 2, SIZE, SIZE, 2), "pairs_start": (3,), "image": (3, SIZE, SIZE),
    }  # fmt: skip
    clip = np.asarray(store.frames)[10:17]
    np.testing.assert_array_equal(found["flow"][2], motion.clip_target(clip, 2, 5, 6, specs["flow"]))
    np.testing.assert_array_equal(found["pairs_start"], [0, 2, 4])
    np.testing.assert_array_equal(found["pairs"][4:], motion.clip_target(clip, 2, 5, 6, specs["pairs"]))
    monkeypatch.setattr(motion, "clip_targets", lambda *_: pytest.fail("computed again"))
    again = motion.store_targets(store, specs, MotionCache(tmp_path))
    for name in found:
        np.testing.assert_array_equal(again[name], found[name])
    store.replace(motion=jax.device_put(found))


def test_clips_of_flow_are_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="clip a/b/c holds flow"):
        motion.store_targets(
            small_store("flow_strain"),
            {"image": MotionSpec("dynamic_image")},
            MotionCache(tmp_path),
            ["a/b/c", "d", "e"],
        )


def test_a_flow_image_scales_each_map_by_its_own_range():
    y, x = np.mgrid[:28, :28].astype(np.float32)
    flow = np.stack([0.1 * x, -0.002 * y**2], axis=-1)  # u grows to the right; v falls, so v_y is -0.004 y

    image = motion.flow_image(flow, 28)

    assert image.dtype == np.uint8
    assert image.shape == (28, 28, 3)
    np.testing.assert_array_equal(image[..., 0], np.rint(255 * x / 27))
    np.testing.assert_array_equal(image[..., 1], np.rint(255 * (1 - y**2 / 27**2)))
    strain = np.sqrt(0.1**2 + (0.004 * y[1:-1]) ** 2)  # central differences inside
    low, high = np.hypot(0.1, 0.002), np.hypot(0.1, 0.002 * (27**2 - 26**2))  # one-sided ones at the border
    np.testing.assert_allclose(image[1:-1, :, 2], 255 * (strain - low) / (high - low), atol=0.501)
    assert motion.flow_image(np.zeros((9, 9, 2)), 4).max() == 0  # a clip without motion


def test_a_flow_image_is_brought_to_its_size_by_area_averages():
    flow = np.random.default_rng(0).normal(size=(56, 56, 2)).astype(np.float32)
    whole, half = (motion.flow_image(flow, side).astype(np.float32) for side in (56, 28))
    np.testing.assert_allclose(half, whole.reshape(28, 2, 28, 2, 3).mean((1, 3)), atol=1.0)


def test_a_flow_image_can_leave_out_the_edge_of_the_frame():
    flow = np.random.default_rng(0).normal(size=(32, 32, 2)).astype(np.float32)
    flow[0], flow[:, -1] = 50, -50
    inner = motion.flow_image(flow, 24, border=1 / 8)
    np.testing.assert_array_equal(inner[..., :2], motion.flow_image(flow[4:-4, 4:-4], 24)[..., :2])
    strain = np.asarray(motion.strain(flow))[4:-4, 4:-4]
    np.testing.assert_array_equal(inner[..., 2], np.rint(255 * np.asarray(motion.minmax(strain))))
