"""Latents: the block DCT against scipy, tokens, standardisation, the frozen autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from mer_jax.nn import latent
from mer_jax.nn.autoencoder import ConvAutoencoder, reconstruction_loss


def frames(seed: int = 0, size: int = 16, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(2, size, size, channels)).astype(np.float32)


def test_dct_terms_are_those_of_scipy() -> None:
    x = frames(channels=1)
    z = np.asarray(latent.dct_encode(jnp.asarray(x)))
    for i in range(2):
        for j in range(2):
            block = scipy.fft.dctn(x[0, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8, 0], norm="ortho")
            np.testing.assert_allclose(z[0, i, j], [block[0, 0], block[0, 1], block[1, 0], block[1, 1]], atol=1e-5)


def test_dct_reads_luma_and_a_flat_frame_has_only_dc() -> None:
    colour = np.broadcast_to(np.float32([0.2, 0.5, 0.9]), (1, 16, 16, 3))
    z = np.asarray(latent.dct_encode(jnp.asarray(colour)))
    np.testing.assert_allclose(z[..., 0], 8 * (0.299 * 0.2 + 0.587 * 0.5 + 0.114 * 0.9), rtol=1e-5)
    np.testing.assert_allclose(z[..., 1:], 0, atol=1e-5)


def test_dct_decoding_is_the_orthogonal_projection() -> None:
    x = jnp.asarray(frames(channels=1))
    z = latent.dct_encode(x)
    image = latent.dct_decode(z)
    np.testing.assert_allclose(latent.dct_encode(image), z, atol=1e-5)
    np.testing.assert_allclose(((x - image) * image).sum(), 0, atol=1e-3)


def test_flipping_the_frame_mirrors_the_latent_and_negates_odd_terms() -> None:
    x = jnp.asarray(frames())
    flipped = latent.dct_encode(x[:, :, ::-1])
    expected = latent.dct_encode(x)[:, :, ::-1] * jnp.array([1.0, -1.0, 1.0, -1.0])
    np.testing.assert_allclose(flipped, expected, atol=1e-5)


def test_tokens_cover_their_own_place_and_come_back() -> None:
    z = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 4, 3)), jnp.float32)
    tokens = latent.patchify(z, (3, 2))
    assert tokens.shape == (2, 3, 2, 12)
    np.testing.assert_array_equal(tokens[1, 2, 1].reshape(2, 2, 3), z[1, 4:6, 2:4])
    np.testing.assert_array_equal(latent.unpatchify(tokens, z.shape), z)
    with pytest.raises(ValueError, match="no whole patches"):
        latent.patchify(z, (4, 2))


@pytest.mark.parametrize(("kind", "shape"), [("dct", (2, 2, 2, 4)), ("ae", (2, 2, 2, 4)), ("pixel", (2, 16, 16, 3))])
def test_latents_are_standardised_by_frozen_constants(kind: str, shape: tuple[int, ...], quick: Callable) -> None:
    module, x = latent.Latent(kind, features=(4, 4, 4)), jnp.asarray(frames())
    variables = quick(module.init, {"params": jax.random.key(0)}, x)
    assert set(variables) == {"constants"}  # nothing to train
    raw = quick(module.apply, variables, x)
    assert raw.shape == shape
    n = shape[-1]
    constants = dict(variables["constants"]) | {"mean": jnp.arange(n, dtype=jnp.float32), "std": jnp.full(n, 2.0)}
    z = quick(module.apply, {"constants": constants}, x)
    np.testing.assert_allclose(z, (raw - jnp.arange(n)) / 2, atol=1e-6)

    def decode(variables: Any, z: jax.Array) -> Any:
        return module.apply(variables, z, method="decode")

    decoded = quick(decode, {"constants": constants}, z)
    np.testing.assert_allclose(decoded, quick(decode, variables, raw), atol=1e-5)
    gradient = quick(jax.grad(lambda x: module.apply({"constants": constants}, x).sum()), x)
    np.testing.assert_array_equal(gradient, 0)


def test_unknown_latent_is_refused() -> None:
    with pytest.raises(ValueError, match="dct"):
        latent.Latent("vae").init({"params": jax.random.key(0)}, jnp.asarray(frames()))


def test_autoencoder_loss_in_closed_form() -> None:
    x = jnp.zeros((1, 4, 4, 1))
    ramp = jnp.broadcast_to(0.1 * jnp.arange(4.0)[None, None, :, None], (1, 4, 4, 1))
    # L1 = mean(0, .1, .2, .3) = .15; neighbours differ by .1 along columns, by 0 along rows
    np.testing.assert_allclose(reconstruction_loss(x, ramp), [0.15 + 0.1 * 0.1], rtol=1e-5)


def test_autoencoder_reduces_eight_times_to_four_channels() -> None:
    module = ConvAutoencoder()
    x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), x)
    z = jax.eval_shape(lambda p, x: module.apply(p, x, method="encode"), params, x)
    assert z.shape == (2, 28, 28, 4)
    assert jax.eval_shape(module.apply, params, x).shape == (2, 224, 224, 3)
