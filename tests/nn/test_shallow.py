import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.nn import shallow

SIZE, BATCH, CHANNELS, FEATURES = 10, 6, 3, 5
WINDOWS = shallow.pooled_size(SIZE)


def inputs(seed=0):
    """Few grey levels, so that places of a window are often equally large; both signs of the scale."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, (BATCH, SIZE, SIZE, CHANNELS)).astype(np.float32)
    scale = np.array([1.0, 0.5, -1.0, 2.0, -0.3], np.float32)
    kernel = rng.normal(size=(3, 3, CHANNELS, FEATURES)).astype(np.float32)
    return (x, kernel, *rng.normal(size=(1, FEATURES)).astype(np.float32), scale, rng.normal(size=FEATURES))


def flat(pooled):
    """[B / b, F, n, n, b] -> [B, n, n, F]."""
    return np.asarray(pooled).transpose(0, 4, 2, 3, 1).reshape(BATCH, WINDOWS, WINDOWS, FEATURES)


def rectified(x, kernel, bias):
    """relu(conv), position by position."""
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    out = np.empty((BATCH, SIZE + 2, SIZE + 2, FEATURES), np.float64)
    for i in range(SIZE + 2):
        for j in range(SIZE + 2):
            out[:, i, j] = np.einsum("bijc,ijcf->bf", padded[:, i : i + 3, j : j + 3], kernel) + bias
    return np.maximum(out, 0)


def pooled(normalised):
    """3x3 windows, stride 3, padding 1, of [B, S + 2, S + 2, F]: the values, and (row, column) of the first largest."""
    values = np.empty((BATCH, WINDOWS, WINDOWS, FEATURES))
    places = np.empty((*values.shape, 2), int)
    for index in np.ndindex(values.shape):
        b, i, j, f = index
        seen = [
            (normalised[b, y, x, f], y, x)
            for y in range(max(3 * i - 1, 0), 3 * i + 2)
            for x in range(max(3 * j - 1, 0), 3 * j + 2)
        ]
        best = max(range(len(seen)), key=lambda k: (seen[k][0], -k))
        values[index], places[index] = seen[best][0], seen[best][1:]
    return values, places


def test_the_layer_is_convolution_relu_batchnorm_and_pooling_in_this_order(quick):
    x, kernel, bias, scale, shift = inputs()
    y = rectified(x, kernel, bias)
    mean, variance = y.mean((0, 1, 2)), y.var((0, 1, 2))
    expected, _ = pooled(scale * (y - mean) / np.sqrt(variance + 1e-5) + shift)

    found, *statistics = quick(shallow.conv_norm_pool, x, kernel, bias, scale, shift)

    np.testing.assert_allclose(flat(found), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(statistics, (mean, variance), rtol=1e-5)


def test_given_statistics_replace_those_of_the_batch(quick):
    x, kernel, bias, scale, shift = inputs()
    mean, variance = np.linspace(0, 2, FEATURES, dtype=np.float32), np.linspace(1, 4, FEATURES, dtype=np.float32)
    expected, _ = pooled(scale * (rectified(x, kernel, bias) - mean) / np.sqrt(variance + 1e-5) + shift)

    found, *used = quick(shallow.conv_norm_pool, x, kernel, bias, scale, shift, (mean, variance))

    np.testing.assert_allclose(flat(found), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(used, (mean, variance))


def test_gradients_are_those_of_the_layer_written_out(quick):
    x, kernel, bias, scale, shift = inputs()
    places = pooled(scale * rectified(x, kernel, bias))[1]
    b, _, _, f = np.indices(places.shape[:-1])
    weights = np.random.default_rng(1).normal(size=places.shape[:-1])

    def plainly(kernel, bias, scale, shift):
        """The chosen places are fixed: pooling is a gather, so this needs no rule for ties."""
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), ((2, 2), (2, 2)), dimension_numbers=layout)
        y = jax.nn.relu(y + bias)
        y = (y - y.mean((0, 1, 2))) / jnp.sqrt(y.var((0, 1, 2)) + 1e-5) * scale + shift
        return (y[b, places[..., 0], places[..., 1], f] * weights).sum()

    def at_once(kernel, bias, scale, shift):
        found = shallow.conv_norm_pool(x, kernel, bias, scale, shift)[0]
        return (found.transpose(0, 4, 2, 3, 1).reshape(weights.shape) * weights).sum()

    parameters = kernel, bias, scale, shift.astype(np.float32)
    expected = quick(jax.value_and_grad(plainly, (0, 1, 2, 3)), *parameters)
    found = quick(jax.value_and_grad(at_once, (0, 1, 2, 3)), *parameters)

    for a, c in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, c, rtol=2e-4, atol=2e-5 * np.abs(c).max())


def test_blocks_change_nothing(quick, monkeypatch):
    x, *parameters = inputs()
    whole = flat(quick(shallow.conv_norm_pool, x, *parameters)[0])
    monkeypatch.setattr(shallow, "LANES", 3)
    blocks = quick(lambda *a: shallow.conv_norm_pool(*a)[0], x, *parameters)
    assert blocks.shape[0] == 2
    np.testing.assert_allclose(flat(blocks), whole, rtol=1e-5, atol=1e-6)


def test_networks_side_by_side_are_those_one_by_one(quick):
    x, *first = inputs()
    sets = [first, inputs(1)[1:]]
    stacked = [np.stack(p).astype(np.float32) for p in zip(*sets, strict=True)]

    def loss(kernel, bias, scale, shift):
        return (shallow.conv_norm_pool(x, kernel, bias, scale, shift)[0] ** 2).sum()

    gradient = jax.grad(loss, (0, 1, 2, 3))
    together, alone = quick(lambda p: (jax.vmap(gradient)(*p), [gradient(*(q[k] for q in p)) for k in (0, 1)]), stacked)
    for k, expected in enumerate(alone):
        for a, b in zip(together, expected, strict=True):
            np.testing.assert_allclose(a[k], b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="such as 28"):
        shallow.conv_norm_pool(jnp.zeros((2, 27, 27, 3)), *inputs()[1:])
    with pytest.raises(ValueError, match="square images"):
        shallow.conv_norm_pool(jnp.zeros((2, 28, 25, 3)), *inputs()[1:])
    assert shallow.pooled_size(28) == 10
