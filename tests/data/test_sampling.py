import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.data import sampling
from mer_jax.errors import UserError

tim = jax.jit(sampling.tim, static_argnames="count")


@pytest.mark.parametrize("count", [1, 2, 5, 8, 13])
def test_tim_of_a_ramp_is_the_ramp(count: int):
    # x(t) = a + b t is reproduced exactly by linear interpolation at t_j = j (n - 1) / (L - 1)
    slope = np.array([[1.0, -2.0], [0.5, 0.0]])
    ramp = 3.0 + np.arange(20)[:, None, None] * slope
    out = tim(ramp.astype(np.float32), jnp.asarray(8), count=count, first=jnp.asarray(5))
    times = 5 + (np.arange(count) * 7 / (count - 1) if count > 1 else np.array([3.5]))
    np.testing.assert_allclose(out, 3.0 + times[:, None, None] * slope, rtol=1e-6)


def test_tim_agrees_with_piecewise_linear_interpolation_and_ignores_other_frames():
    series = np.random.default_rng(0).normal(size=40).astype(np.float32)
    series[:10] = series[23:] = np.nan  # other clips of a packed store, their landmarks unknown
    for length in (13, 6, 2, 1):
        series[10 + length :] = np.nan
        out = tim(series, jnp.asarray(length), count=11, first=jnp.asarray(10))
        expected = np.interp(np.linspace(0, length - 1, 11), np.arange(length), series[10 : 10 + length])
        np.testing.assert_allclose(out, expected, atol=1e-5)


def test_tim_to_the_own_length_changes_nothing():
    frames = np.random.default_rng(1).integers(0, 256, (9, 4, 4, 3), np.uint8)
    assert np.array_equal(tim(frames, 9, count=9), frames)
    ends = tim(frames, 9, count=4)
    assert np.array_equal(ends[0], frames[0])
    assert np.array_equal(ends[-1], frames[-1])


def test_tim_is_exact_far_into_a_packed_store():
    # float32 positions above 2^23 have no fraction left
    assert float(tim(jnp.arange(4.0), jnp.asarray(2), count=3)[1]) == 0.5
    rows = np.zeros((2**23 + 4, 1), np.uint8)
    rows[-1] = 10
    out = tim(jnp.asarray(rows), jnp.asarray(2), count=3, first=jnp.asarray(2**23 + 2))
    assert out[:, 0].tolist() == [0, 5, 10]


def test_extents():
    numbers = [jnp.asarray(n, jnp.int32) for n in (3, 7, 12, 20)]
    assert [int(n) for n in sampling.extent("whole", *numbers)] == [0, 19]
    assert [int(n) for n in sampling.extent("onset_offset", *numbers)] == [3, 12]
    assert [int(n) for n in sampling.extent("onset_apex", *numbers)] == [3, 7]
    numbers[1] = jnp.asarray(-1)
    assert [int(n) for n in sampling.extent("onset_apex", *numbers)] == [3, 7]  # (3 + 12) // 2
    with pytest.raises(ValueError, match="'apex' is none of"):
        sampling.extent("apex", *numbers)  # type: ignore[arg-type]


def test_key_frames_move_inwards_over_their_whole_range():
    draw = jax.jit(jax.vmap(lambda k: jnp.stack(sampling.jitter_key_frames(k, 10, 90, 131, 0.0375))))
    onset, apex, offset = np.asarray(draw(jax.random.split(jax.random.key(0), 500))).T
    # int(0.0375 * 80) = 3 and int(0.0375 * 41) = 1
    assert set(onset) == {10, 11, 12, 13}
    assert set(apex) == {87, 88, 89, 90}
    assert set(offset) == {130, 131}
    assert 0.2 < (onset == 12).mean() < 0.3


@jax.jit
def jitter_by_half(keys: jax.Array, onset: jax.Array, apex: jax.Array, offset: jax.Array) -> jax.Array:
    return jax.vmap(lambda key: jnp.stack(sampling.jitter_key_frames(key, onset, apex, offset, 0.5)))(keys)


@pytest.mark.parametrize(("onset", "apex", "offset"), [(4, 4, 4), (0, 2, 3), (5, 6, 40)])
def test_key_frames_keep_their_order(onset: int, apex: int, offset: int):
    keys = jax.random.split(jax.random.key(1), 200)
    out = np.asarray(jitter_by_half(keys, onset, apex, offset))
    assert (np.diff(out, axis=1) >= 0).all()
    assert out.min() >= onset
    assert out.max() <= offset
    still = [int(n) for n in sampling.jitter_key_frames(keys[0], onset, apex, offset, 0.0)]
    assert still == [onset, apex, offset]


def test_boundary_jitter_goes_both_ways_and_stays_in_the_clip():
    draw = jax.jit(jax.vmap(lambda k: jnp.stack(sampling.jitter_extent(k, 1, 21, 23, 0.1))))
    first, last = np.asarray(draw(jax.random.split(jax.random.key(2), 500))).T
    assert set(first) == {0, 1, 2, 3}  # -1 is clipped to 0
    assert set(last) == {19, 20, 21, 22}
    with pytest.raises(ValueError, match="ends could cross"):
        sampling.jitter_extent(jax.random.key(0), 0, 5, 9, 0.5)


def test_the_same_time_at_any_frame_rate():
    times = np.array([-100.0, 0.0, 50.0, 100.0])
    at = jax.vmap(lambda fps: sampling.positions_by_time(30, times, fps, 61))(jnp.array([25.0, 100.0, 200.0]))
    assert at.tolist() == [[28, 30, 31, 32], [20, 30, 35, 40], [10, 30, 40, 50]]
    assert sampling.positions_by_time(30, np.array([-1e4, 1e4]), 200.0, 61).tolist() == [0, 60]


def test_even_positions():
    assert sampling.positions_even(2, 10, 5).tolist() == [2, 4, 6, 8, 10]
    assert sampling.positions_even(2, 5, 1).tolist() == [3.5]


def test_a_view_by_time_refuses_an_unknown_rate_by_name():
    sampling.require_fps("MA2MI pair sampler", ["a", "b"], np.array([25.0, 200.0]))
    with pytest.raises(UserError, match=r"MA2MI pair sampler .*'d/s/2' \(and 1 more\) has no known frame rate"):
        sampling.require_fps("MA2MI pair sampler", ["d/s/1", "d/s/2", "d/s/3"], np.array([25.0, np.nan, 0.0]))
