"""The flow grid of ATNet: window, interpolation, reduction, place of missing steps, cache."""

import dataclasses

import cv2
import numpy as np
import pytest

from mer_jax.data import flow_grid, motion
from mer_jax.data.flow_grid import FlowGrid
from mer_jax.data.motion import DecodedClip, MotionSpec
from mer_jax.data.motion_cache import MotionCache
from mer_jax.data.store import ClipStore
from mer_jax.data.tvl1 import TVL1Settings
from mer_jax.errors import UserError

SIZE = 32
FAST = TVL1Settings(nscales=1, warps=2)


def moving(length, speed=0.5, seed=0):
    """uint8 [T, H, W, 1]: a texture that moves down by `speed` pixels a frame."""
    rng = np.random.default_rng(seed)
    tall = cv2.GaussianBlur(rng.uniform(0, 255, (SIZE + 16, SIZE)).astype(np.float32), (0, 0), 2)
    tall = (tall - tall.min()) / np.ptp(tall) * 255
    still = [cv2.warpAffine(tall, np.float32([[1, 0, 0], [0, 1, speed * t - 8]]), (SIZE, SIZE)) for t in range(length)]
    return np.rint(np.stack(still)).astype(np.uint8)[..., None]


def test_the_window_of_the_paper():
    """Row i of 64 is the flow from frame apex - 32 + i to apex - 31 + i, clipped to onset .. offset."""
    at, valid = flow_grid.moments(FlowGrid(), 7, 20, 47, np.nan)  # EP02_01f of CASME II: apex - 13 .. apex + 27
    np.testing.assert_array_equal(at, 20 + np.arange(-32, 33))
    assert valid.sum() == 40
    np.testing.assert_array_equal(np.flatnonzero(valid), np.arange(19, 59))
    assert FlowGrid().features == 128


@pytest.mark.parametrize("fps", [50.0, 100.0, 200.0])
def test_a_window_in_seconds_spans_the_same_time_at_every_rate(fps):
    spec = FlowGrid("seconds", side=4, step_ms=20)
    apex = int(0.1 * fps)
    at, valid = flow_grid.moments(spec, 0, apex, int(0.16 * fps), fps)
    np.testing.assert_allclose(at / fps, 0.1 + 0.02 * np.arange(-4, 5))
    np.testing.assert_array_equal(valid, [1, 1, 1, 1, 1, 1, 1, 0])


def test_moments_between_frames_are_interpolated():
    frames = np.arange(5)[:, None, None] ** 2 * np.ones((1, 2, 2))
    found = flow_grid.frames_at(frames, np.array([0.0, 1.25, 3.9999999999, 4.0]))
    np.testing.assert_allclose(found[:, 0, 0], [0, 1 + 0.25 * 3, 16, 16], atol=1e-5)


def test_reduction_against_a_loop_over_pixels():
    rng = np.random.default_rng(0)
    flow = rng.normal(0.3, 0.2, (3, 8, 12, 2)).astype(np.float32)
    found = flow_grid.reduce(flow, 4)
    assert found.shape == (3, 32)
    for p, row, column in ((0, 0, 0), (2, 3, 1), (1, 2, 3)):
        cell = flow[p, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3].reshape(-1, 2).astype(float)
        direction = np.mean([np.arctan2(v, u) for u, v in cell])
        magnitude = np.mean([np.sqrt(u * u + v * v) for u, v in cell])
        k = 2 * (4 * row + column)
        np.testing.assert_allclose(found[p, k : k + 2], (direction, magnitude), rtol=1e-5)
    assert (np.abs(found[:, ::2]) <= np.pi).all()
    assert (found[:, 1::2] >= 0).all()


def test_only_the_circular_mean_holds_at_the_cut():
    """Directions just above and just below pi: to the left."""
    flow = np.ones((1, 2, 2, 2), np.float32) * [-1, 0]
    flow[0, :, 0, 1], flow[0, :, 1, 1] = 0.1, -0.1
    assert abs(flow_grid.reduce(flow, 1, "plain")[0, 0]) < 1e-6
    np.testing.assert_allclose(abs(flow_grid.reduce(flow, 1, "circular")[0, 0]), np.pi, rtol=1e-6)
    turned = flow[..., ::-1] * [-1, 1]  # a quarter turn away from the cut both agree
    plain, circular = (flow_grid.reduce(turned, 1, angle)[0, 0] for angle in ("plain", "circular"))
    np.testing.assert_allclose(plain, circular, rtol=1e-6)


def test_pixels_that_do_not_move_have_direction_zero():
    still = np.full((1, 4, 4, 2), -0.0, np.float32)
    for angle in ("plain", "circular"):
        np.testing.assert_array_equal(flow_grid.reduce(still, 2, angle), 0)


def test_blocks_must_divide_the_field():
    with pytest.raises(ValueError, match=r"30x32 pixels does not divide into 8x8"):
        flow_grid.reduce(np.zeros((1, 30, 32, 2)), 8)
    for wrong in ({"side": 0}, {"window": "minutes"}, {"angle": "mean"}, {"step_ms": -1.0}):
        with pytest.raises(ValueError, match="flow grid"):
            FlowGrid(**wrong)


def test_targets_hold_the_flow_of_their_steps_and_zeros_elsewhere():
    spec = MotionSpec("flow_grid", grid=FlowGrid(side=4, cells=2), tvl1=FAST)
    clips = [DecodedClip(moving(7), 1, 3, 6), DecodedClip(moving(3, -0.4), 0, -1, 2), DecodedClip(moving(2), 1, 1, 1)]
    found = motion.clip_targets(clips, spec)
    assert [f.shape for f in found] == [(8, 9)] * 3
    np.testing.assert_array_equal(
        [f[:, -1] for f in found], [[0, 0, 1, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 0, 0, 0], [0] * 8]
    )
    for table in found:
        assert not table[table[:, -1] == 0].any()
    images = clips[0].frames[..., 0].astype(np.float32)
    fields = motion.flow_fields(images[1:6], images[2:7], FAST)
    np.testing.assert_allclose(found[0][2:7, :-1], flow_grid.reduce(fields, 2), atol=1e-6)
    down, up = found[0][2:7], found[1][3:5]  # v down: the first clip moves down, the second up
    assert (np.abs(down[:, 0:8:2].mean() - np.pi / 2) < 0.3) & (np.abs(up[:, 0:8:2].mean() + np.pi / 2) < 0.3)
    assert 0.3 < down[:, 1:8:2].mean() < 0.7


def test_a_window_in_seconds_does_not_mind_the_frame_rate():
    """The same movement, filmed at 100 and at 200 frames a second."""
    fast, slow = moving(17, 0.25), moving(17, 0.25)[::2]
    spec = MotionSpec("flow_grid", grid=FlowGrid("seconds", side=3, step_ms=20, cells=2), tvl1=FAST)
    clips = [DecodedClip(fast, 0, 8, 16, 200.0), DecodedClip(slow, 0, 4, 8, 100.0)]
    one, other = motion.clip_targets(clips, spec)
    assert one[:, -1].sum() == 4
    np.testing.assert_allclose(one, other, atol=1e-5)
    by_frames = MotionSpec("flow_grid", grid=FlowGrid(side=3, cells=2), tvl1=FAST)
    frames = motion.clip_targets(clips, by_frames)
    ratio = frames[1][2:4, 1:8:2].mean() / frames[0][2:4, 1:8:2].mean()
    assert 1.6 < ratio < 2.4  # by frames, half the rate is twice the flow


def test_what_the_cache_tells_apart(tmp_path):
    def key(**changes):
        return MotionSpec("flow_grid", grid=FlowGrid(**changes)).key()

    assert len({key(), key(side=8), key(cells=4), key(angle="circular"), key(window="seconds")}) == 5
    assert key(step_ms=9.0) == key()
    assert key(window="seconds", step_ms=9.0) != key(window="seconds")
    clip = DecodedClip(moving(3), 0, 1, 2)
    timed = [DecodedClip(moving(3), 0, 1, 2, fps) for fps in (100.0, 200.0)]
    moved = DecodedClip(moving(3), 0, 2, 2)
    assert len({motion.fingerprint(c) for c in (clip, moved, *timed)}) == 4  # another apex is another target


def small_store(clips, apex, fps):
    lengths = np.array([len(c) for c in clips], np.int32)
    whole = dict.fromkeys((f.name for f in dataclasses.fields(ClipStore)), np.zeros(len(clips), np.int32))
    positions = {"start": np.cumsum(lengths) - lengths, "apex": np.full(len(clips), apex), "offset": lengths - 1}
    whole |= {name: value.astype(np.int32) for name, value in positions.items()}
    return ClipStore(**whole | {"frames": np.concatenate(clips), "length": lengths, "fps": np.full(len(clips), fps)})


def test_systems_ask_by_specification_and_time_needs_a_rate(tmp_path):
    spec = MotionSpec("flow_grid", grid=FlowGrid("seconds", side=2, step_ms=10, cells=2), tvl1=FAST)
    specs = motion.named((spec, "dynamic_image"))
    assert specs == {"flow_grid": spec, "dynamic_image": MotionSpec("dynamic_image")}
    store = small_store([moving(5), moving(5, -0.5)], apex=2, fps=100.0)
    found = motion.store_targets(store, {"flow_grid": spec}, MotionCache(tmp_path))
    assert found["flow_grid"].shape == (2, 4, 9)
    later = store.replace(apex=np.array([3, 3], np.int32))
    moved = motion.store_targets(later, {"flow_grid": spec}, MotionCache(tmp_path))["flow_grid"]
    np.testing.assert_allclose(moved[:, 0], found["flow_grid"][:, 1], atol=1e-6)  # a frame later: one row earlier
    unknown = store.replace(fps=np.array([100.0, np.nan], np.float32))
    with pytest.raises(UserError, match="window in seconds counts in milliseconds"):
        motion.store_targets(unknown, {"flow_grid": spec}, MotionCache(tmp_path))
