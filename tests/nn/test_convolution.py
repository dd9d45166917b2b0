"""3x3 convolutions: every form is the same sum as a numpy loop over taps, forwards and backwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.nn.convolution import FORMS, Conv3x3, conv3x3


def reference(x, kernel, groups=1, stride=1):
    batch, height, width, channels = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    d, f = channels // groups, kernel.shape[-1] // groups
    y = np.zeros((batch, -(-height // stride), -(-width // stride), kernel.shape[-1]))
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            window = padded[:, i * stride : i * stride + 3, j * stride : j * stride + 3]
            for g in range(groups):
                part, own = window[..., g * d : (g + 1) * d], kernel[..., g * f : (g + 1) * f]
                y[:, i, j, g * f : (g + 1) * f] = np.einsum("bijc,ijcf->bf", part, own)
    return y


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 4, 6, 4)).astype(np.float32), rng.normal(size=(3, 3, 4, 6)).astype(np.float32)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (2, 1), (1, 2)])
def test_every_form_is_the_sum_over_taps(form, groups, stride, data, quick):
    x, kernel = data[0], data[1][:, :, : 4 // groups]
    if (form, stride) == ("winograd", 2):
        with pytest.raises(ValueError, match="stride 2"):
            conv3x3(x, kernel, form, groups, stride)
        return
    found = quick(lambda x, k: conv3x3(x, k, form, groups, stride), jnp.asarray(x), jnp.asarray(kernel))
    np.testing.assert_allclose(found, reference(x, kernel, groups, stride), atol=2e-5)


@pytest.mark.parametrize("form", ["patches", "winograd"])
def test_gradients_are_those_of_the_convolution(form, data, quick):
    x, kernel = jnp.asarray(data[0]), jnp.asarray(data[1])
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 6, 6)), jnp.float32)

    def gradients(form):
        return quick(jax.grad(lambda x, k: (conv3x3(x, k, form) * weight).sum(), (0, 1)), x, kernel)

    for found, expected in zip(gradients(form), gradients("direct"), strict=True):
        np.testing.assert_allclose(found, expected, atol=3e-5)


def test_odd_sides_take_patches_and_refuse_winograd(quick):
    x, kernel = jnp.ones((1, 3, 4, 2)), jnp.ones((3, 3, 2, 2))
    np.testing.assert_allclose(quick(conv3x3, x, kernel)[0, :, 0, 0], [8, 12, 8])
    with pytest.raises(ValueError, match="even"):
        conv3x3(x, kernel, "winograd")


def test_module_counts_and_types():
    shapes = jax.eval_shape(Conv3x3(6, 2, True).init, jax.random.key(0), jnp.zeros((1, 4, 4, 4)))["params"]
    assert shapes["kernel"].shape == (3, 3, 2, 6)
    assert shapes["bias"].shape == (6,)
    module = Conv3x3(6, dtype=jnp.bfloat16)
    out = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, 4, 4, 4)))
    assert out.dtype == jnp.bfloat16
