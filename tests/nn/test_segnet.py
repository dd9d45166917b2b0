"""SegNet: pooling indices against a loop, unpooling as their inverse, the released network's size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.nn.segnet import SegNet, max_pool_indices, max_unpool


def test_pooling_and_unpooling_are_those_of_a_loop(quick):
    x = np.random.default_rng(0).integers(0, 5, (2, 4, 6, 3)).astype(np.float32)  # with ties
    pooled, index = quick(max_pool_indices, jnp.asarray(x))
    back = np.asarray(quick(max_unpool, pooled, index))
    expected = np.zeros_like(x)
    for b, i, j, c in np.ndindex(2, 2, 3, 3):
        window = x[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c].ravel()
        assert index[b, i, j, c] == window.argmax()
        assert pooled[b, i, j, c] == window.max()
        expected[b, 2 * i + window.argmax() // 2, 2 * j + window.argmax() % 2, c] = window.max()
    np.testing.assert_array_equal(back, expected)


def test_gradients_go_to_the_maximum_alone(quick):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 4, 4, 2)), jnp.float32)
    weight = jnp.asarray(np.random.default_rng(2).normal(size=(1, 2, 2, 2)), jnp.float32)
    gradient = quick(jax.grad(lambda x, w: (max_pool_indices(x)[0] * w).sum()), x, weight)
    np.testing.assert_allclose(gradient, quick(lambda x, w: max_unpool(w, max_pool_indices(x)[1]), x, weight))


@pytest.mark.parametrize(("use_bias", "expected"), [(True, 29_446_465), (False, 29_446_465 - 7_936)])
def test_released_size(use_bias, expected):
    """The released network has biases before BatchNorm: 25 convolutions with 7936 channels in all."""
    module = SegNet(use_bias=use_bias, form="direct")  # traced only, and this form in no time
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, False), jnp.zeros((1, 64, 64, 8)))
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == expected
    shapes = {k: v["kernel"].shape[2:] for k, v in variables["params"].items() if k.startswith("conv")}
    assert len(shapes) == 26
    expected_shapes = {"conv11": (8, 64), "conv41d": (512, 256), "conv31d": (256, 128), "conv21d": (128, 64)}
    assert {k: shapes[k] for k in expected_shapes} == expected_shapes
    assert shapes["conv11d"] == (64, 1)


def test_sides_come_back_and_others_are_refused():
    module = SegNet((4, 6), (1, 2), n_outputs=2, form="direct")
    x = jnp.zeros((2, 8, 12, 3))
    out = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x, False)[0], x)
    assert out.shape == (2, 8, 12, 2)
    with pytest.raises(ValueError, match="multiples of 4"):
        jax.eval_shape(lambda x: module.init(jax.random.key(0), x, False), x[:, :6])


def test_it_is_the_composition_of_its_layers(random_variables, quick):
    """One stage with two convolutions, in evaluation mode, against numpy."""
    module = SegNet((3,), (2,), form="direct")
    x = np.random.default_rng(3).normal(size=(1, 4, 4, 2)).astype(np.float32)
    variables = random_variables(module, jnp.asarray(x), False)
    found = quick(lambda v, x: module.apply(v, x, False), variables, jnp.asarray(x))
    p, s = jax.tree.map(np.asarray, (variables["params"], variables["batch_stats"]))

    def layer(y, name):
        y = reference(y, p[f"conv{name}"]["kernel"])
        y = (y - s[f"bn{name}"]["mean"]) / np.sqrt(s[f"bn{name}"]["var"] + 1e-5)
        return np.maximum(y * p[f"bn{name}"]["scale"] + p[f"bn{name}"]["bias"], 0)

    y = layer(layer(x, "11"), "12")
    sparse = np.zeros_like(y)
    for i, j, c in np.ndindex(2, 2, 3):
        window = y[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        a, b = divmod(int(window.argmax()), 2)
        sparse[0, 2 * i + a, 2 * j + b, c] = window.max()
    expected = reference(layer(sparse, "12d"), p["conv11d"]["kernel"]) + p["conv11d"]["bias"]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def reference(x, kernel):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    taps = [padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)]
    return np.sum(taps, axis=0)
