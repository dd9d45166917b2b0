import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.data import tvl1
from mer_jax.data.tvl1 import TVL1Settings, pyramid_sizes, tvl1_flow

SIZE = 48
Y, X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64)
CENTRE = (SIZE - 1) / 2


def texture(x, y, seed=0):
    """A smooth random surface on 0..255 that can be evaluated anywhere, so that motion is exact."""
    rng = np.random.default_rng(seed)
    total = np.zeros_like(x)
    for wavelength, amplitude in ((5.5, 8), (9, 14), (15, 22), (26, 28), (45, 30)):
        for _ in range(4):
            angle, phase = rng.uniform(0, 2 * np.pi, 2)
            total += amplitude / 2 * np.sin(2 * np.pi / wavelength * (np.cos(angle) * x + np.sin(angle) * y) + phase)
    return np.clip(127 + total, 0, 255)


def moved(matrix, shift, seed=0):
    """(previous, next, exact flow [H, W, 2]) of an affine motion x -> x + matrix (x - centre) + shift."""
    matrix, shift = np.asarray(matrix, float), np.asarray(shift, float)
    points = np.stack([X, Y], axis=-1) - CENTRE
    flow = points @ matrix.T + shift
    source = (points - shift) @ np.linalg.inv(np.eye(2) + matrix).T + CENTRE
    return texture(X, Y, seed), texture(source[..., 0], source[..., 1], seed), flow


STILL = moved(np.zeros((2, 2)), (0, 0))
SHIFT = moved(np.zeros((2, 2)), (0.43, -0.27), 1)
STRETCH = moved([[0.02, -0.015], [0.025, -0.01]], (0.3, 0.5), 2)
TURN = moved([[0, -0.05], [0.05, 0]], (-0.2, 0.1), 3)
LARGE = moved(np.zeros((2, 2)), (2.6, 1.7), 4)
CASES = (STILL, SHIFT, STRETCH, TURN, LARGE)


def opencv(previous, following):
    solver = cv2.optflow.DualTVL1OpticalFlow_create()
    return np.stack(
        [
            solver.calc(a.astype(np.float32) / 255, b.astype(np.float32) / 255, None)
            for a, b in zip(previous, following, strict=True)
        ]
    )


def error(a, b, border=0):
    """End-point error per field [B]."""
    inner = slice(border, SIZE - border)
    return np.linalg.norm(np.asarray(a) - np.asarray(b), axis=-1)[:, inner, inner].mean(axis=(1, 2))


@pytest.fixture(scope="module")
def batch():
    """Images of the cases, then of STRETCH transposed and mirrored across and down: all tests share one program."""
    a, b = (np.stack([case[k] for case in CASES]) for k in (0, 1))
    extra = [[image.T, image[:, ::-1], image[::-1]] for image in STRETCH[:2]]
    return np.concatenate([a, extra[0]]).astype(np.float32), np.concatenate([b, extra[1]]).astype(np.float32)


@pytest.fixture(scope="module")
def flow(batch):
    return np.asarray(tvl1_flow(*batch))


def test_identical_frames_have_exactly_no_flow(flow):
    np.testing.assert_array_equal(flow[0], 0.0)


def test_agrees_with_opencv(batch, flow):
    reference = opencv(*batch)
    found = error(flow, reference)
    print("end-point error to OpenCV", found)
    assert (found < 0.02).all()
    assert np.linalg.norm(reference[1:], axis=-1).mean() > 0.4  # the agreement is not that of two still fields


def test_finds_the_exact_motion_as_well_as_opencv(batch, flow):
    exact = np.stack([case[2] for case in CASES])
    ours, theirs = error(flow[:5], exact, 6), error(opencv(*batch)[:5], exact, 6)
    print("end-point error to the truth: ours", ours, "OpenCV's", theirs)
    assert (ours < 0.1).all()
    assert (ours <= theirs + 0.01).all()


def test_recovers_a_sub_pixel_translation(flow):
    inside = flow[1, 6:-6, 6:-6]
    np.testing.assert_allclose(np.median(inside, axis=(0, 1)), (0.43, -0.27), atol=0.04)  # smoothness costs a little


def test_transposed_images_have_the_transposed_flow(flow):
    np.testing.assert_allclose(flow[5].transpose(1, 0, 2)[..., ::-1], flow[2], atol=0.02)


def test_mirrored_images_have_the_mirrored_flow(flow):
    """Not to rounding: the method's gradients look forwards."""
    across = flow[6][:, ::-1] * [-1, 1]
    down = flow[7][::-1] * [1, -1]
    inside = slice(4, -4)
    for mirrored in (across, down):
        assert np.linalg.norm(mirrored - flow[2], axis=-1)[inside, inside].mean() < 0.02


def test_a_field_does_not_depend_on_its_neighbours(batch, flow):
    previous, following = batch
    alone = previous.copy(), np.where(np.arange(8)[:, None, None] == 3, following, previous)
    np.testing.assert_array_equal(np.asarray(tvl1_flow(*alone))[3], flow[3])
    rolled = np.asarray(tvl1_flow(np.roll(previous, 3, axis=0), np.roll(following, 3, axis=0)))
    np.testing.assert_array_equal(np.roll(rolled, -3, axis=0), flow)


def test_small_images_have_fewer_levels_and_agree_with_opencv():
    assert pyramid_sizes(128, 128, TVL1Settings()) == [(128, 128), (102, 102), (82, 82), (66, 66), (53, 53)]
    assert pyramid_sizes(28, 32, TVL1Settings()) == [(28, 32), (22, 26), (18, 21)]
    assert pyramid_sizes(12, 40, TVL1Settings()) == [(12, 40)]
    a, b, _ = (x[None, :24, :19] for x in SHIFT)
    found = np.asarray(tvl1_flow(np.rint(a).astype(np.uint8), np.rint(b).astype(np.uint8)))
    reference = cv2.optflow.DualTVL1OpticalFlow_create().calc(*(np.rint(x[0]).astype(np.uint8) for x in (a, b)), None)
    assert np.linalg.norm(found[0] - reference, axis=-1).mean() < 0.02
    assert np.linalg.norm(reference, axis=-1).mean() > 0.2


def test_resize_and_warp_are_those_of_opencv():
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (25, 37)).astype(np.float32)
    smaller = np.asarray(tvl1._resize(jnp.asarray(image[None]), (20, 30), (1.25, 1.25)))[0]
    np.testing.assert_allclose(smaller, cv2.resize(image, None, fx=0.8, fy=0.8), atol=2e-3)
    larger = np.asarray(tvl1._resize(jnp.asarray(image[None]), (31, 46), (25 / 31, 37 / 46)))[0]
    np.testing.assert_allclose(larger, cv2.resize(image, (46, 31)), atol=2e-3)
    # OpenCV rounds positions to 1/32 pixel; offsets on that grid compare exactly. Some point far outside.
    u, v = (np.round(rng.normal(0, 3, (25, 37)) * 32).astype(np.float32) / 32 for _ in range(2))
    u[0, :4], v[3, 3:6] = (-500, 500, 38, -39), (1e6, -27.5, 27.5)
    planes = jnp.asarray(np.stack([image, image[::-1]], axis=-1)[None])
    found = np.asarray(jax.jit(tvl1._warp)(planes, u[None], v[None]))[0]
    y, x = np.mgrid[0:25, 0:37].astype(np.float32)
    for c, plane in enumerate((image, np.ascontiguousarray(image[::-1]))):
        np.testing.assert_allclose(found[..., c], cv2.remap(plane, x + u, y + v, cv2.INTER_CUBIC), atol=0.02)


def reference_flow(previous, following, s):
    """One level in float64, written from the formulas of IPOL 2013 with the three cases of the thresholding step."""
    height, width = previous.shape
    y, x = np.mgrid[0:height, 0:width].astype(float)
    edge = np.pad(following, 1, mode="edge")
    gradient = (edge[1:-1, 2:] - edge[1:-1, :-2]) / 2, (edge[2:, 1:-1] - edge[:-2, 1:-1]) / 2

    def kernel(d):
        a, d = -0.75, np.abs(d)
        return np.where(
            d <= 1, (a + 2) * d**3 - (a + 3) * d**2 + 1, np.where(d < 2, a * (d**3 - 5 * d**2 + 8 * d - 4), 0)
        )

    def sample(plane, px, py):
        out = np.zeros_like(plane)
        for i in range(-1, 3):
            for j in range(-1, 3):
                row, column = np.floor(py).astype(int) + i, np.floor(px).astype(int) + j
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                value = plane[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
                out += np.where(inside, value * kernel(py - row) * kernel(px - column), 0)
        return out

    u = [np.zeros((height, width)), np.zeros((height, width))]
    p = [[np.zeros((height, width)), np.zeros((height, width))] for _ in range(2)]
    iterations = 0
    for _ in range(s.warps):
        warped, gx, gy = (sample(plane, x + u[0], y + u[1]) for plane in (following, *gradient))
        u0 = [c.copy() for c in u]
        square = gx**2 + gy**2
        change, outer = np.inf, 0
        while change > s.epsilon**2 and outer < s.outer_iterations:
            outer += 1
            for _ in range(s.inner_iterations):
                iterations += 1
                rho = warped + gx * (u[0] - u0[0]) + gy * (u[1] - u0[1]) - previous
                bound = s.lambda_ * s.theta
                new = []
                for c, g in enumerate((gx, gy)):
                    step = np.where(
                        rho < -bound * square, bound * g,
                        np.where(rho > bound * square, -bound * g, -rho * g / np.maximum(square, 1e-30)),
                    )  # fmt: skip
                    px, py = p[c]
                    divergence = px + py
                    divergence[:, 1:] -= px[:, :-1]
                    divergence[1:] -= py[:-1]
                    new.append(u[c] + step + s.theta * divergence)
                change = sum((a - b) ** 2 for a, b in zip(new, u, strict=True)).mean()
                u = new
                for c in range(2):
                    across, down = np.zeros((height, width)), np.zeros((height, width))
                    across[:, :-1], down[:-1] = np.diff(u[c], axis=1), np.diff(u[c], axis=0)
                    scale = 1 + s.tau / s.theta * np.hypot(across, down)
                    p[c] = [(q + s.tau / s.theta * d) / scale for q, d in zip(p[c], (across, down), strict=True)]
                if change <= s.epsilon**2:
                    break
    return np.stack(u, axis=-1), iterations


def test_equals_the_formulas_and_stops_when_they_stop():
    s = TVL1Settings(nscales=1, warps=3, inner_iterations=10, outer_iterations=4, median_filtering=1, epsilon=0.02)
    pairs = [tuple(x[10:34, 5:33] for x in case[:2]) for case in (SHIFT, TURN)]
    expected, iterations = zip(*(reference_flow(*pair, s) for pair in pairs), strict=True)
    assert all(3 < i < 120 for i in iterations)  # stopped early, and not at once
    assert iterations[0] != iterations[1]
    a, b = (np.stack([pair[k] for pair in pairs]).astype(np.float32) for k in (0, 1))
    np.testing.assert_allclose(np.asarray(tvl1_flow(a, b, s)), np.stack(expected), atol=2e-4)


def test_no_convolutions():
    """Inside loops they are slow on CPU."""
    text = tvl1_flow.lower(*(jnp.zeros((2, 40, 40)),) * 2, TVL1Settings(nscales=2)).as_text()
    assert "while" in text
    assert "convolution" not in text


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match=r"expected two equal \[B, H, W\]"):
        tvl1_flow(np.zeros((1, 20, 20)), np.zeros((1, 20, 21)))
    for bad in ({"tau": 0}, {"warps": 0}, {"epsilon": -1}, {"scale_step": 1.0}, {"median_filtering": 4}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            TVL1Settings(**bad)
