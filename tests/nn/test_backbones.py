"""Networks whose size and stride are published: ResNet-18/34, ViT-S/16, the DiT-style decoder, MMNet's CA block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from mer_jax.nn import latent
from mer_jax.nn.attention import sincos_2d
from mer_jax.nn.continuous_attention import ContinuousAttentionBlock, channel_max
from mer_jax.nn.decoder import CONDITIONS, LatentDecoder
from mer_jax.nn.resnet import RESNET18, RESNET34, ResNet
from mer_jax.nn.vit import VisionTransformer


def shapes(module: nn.Module, *args: Any) -> Any:
    return jax.eval_shape(lambda: module.init({"params": jax.random.key(0)}, *args))


def count(tree: Any) -> int:
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("stages", "total"),
    # torchvision's published 11,689,512 and 21,797,672, less the classifier's 513,000
    [(RESNET18, 11_176_512), (RESNET34, 21_284_672)],
)
def test_resnet_has_the_published_size(stages: tuple[int, ...], total: int) -> None:
    assert count(shapes(ResNet(stages), jnp.zeros((1, 224, 224, 3)), False)["params"]) == total


@pytest.mark.parametrize("size", [64, 112, 224])
@pytest.mark.parametrize(("stages", "channels"), [(RESNET18, 512), (RESNET34, 512), (RESNET18[:3], 256)])
def test_resnet_ends_at_stride_16(size: int, stages: tuple[int, ...], channels: int) -> None:
    module, x = ResNet(stages), jnp.zeros((1, size, size, 3))
    out = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), x, False)[0])
    assert out.shape == (1, size // 16, size // 16, channels)


def test_resnet_moves_its_map_with_the_image(quick: Callable, random_params: Callable) -> None:
    module = ResNet((1, 1, 1), 4)
    x = np.zeros((2, 96, 96, 1), np.float32)
    x[0, 40:52, 40:52] = np.random.default_rng(0).normal(size=(12, 12, 1))
    x[1] = np.roll(x[0], 16, axis=(0, 1))
    # without biases an empty image stays empty, so the border has no say
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0 * leaf if path[-1].key == "bias" else leaf, random_params(module, x, False)
    )
    statistics = jax.eval_shape(lambda: module.init(jax.random.key(0), x, False))["batch_stats"]
    statistics = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full(leaf.shape, float(path[-1].key == "var")), statistics
    )
    variables = {"params": params, "batch_stats": statistics}
    here, there = quick(lambda v, x: module.apply(v, x, False), variables, x)
    size = float(jnp.abs(here[2:4, 2:4]).max())
    assert size > 0
    np.testing.assert_allclose(there[3:5, 3:5], here[2:4, 2:4], atol=1e-5 * size)
    assert float(jnp.abs(there[2:4, 2:4] - here[2:4, 2:4]).max()) > 0.1 * size


def test_vit_small_has_the_published_size() -> None:
    # DeiT-S: 22,050,664, less the classifier (385,000), the class token (384) and its position (384)
    variables = shapes(VisionTransformer(), jnp.zeros((1, 224, 224, 3)), False)
    assert count(variables["params"]) == 21_664_896


def test_decoder_has_the_computed_size() -> None:
    tokens, condition = jnp.zeros((1, 14, 14, 16)), jnp.zeros((1, 14, 14, 64 + 512))
    total = count(shapes(LatentDecoder(384, 6, 6), tokens, condition)["params"])
    # blocks 6 x 2,659,968; last modulation 295,680; tokens 6,528; condition 221,568; last layer 6,160
    assert total == 6 * 2_659_968 + 295_680 + 6_528 + 221_568 + 6_160
    # with the bottleneck (512 x 64) and the fixed table of positions (196 x 384): the 16.6 M of the DiT-style decoder
    assert round((total + 512 * 64 + sincos_2d(14, 14, 384).size) / 1e6, 1) == 16.6


@pytest.mark.parametrize("how", CONDITIONS)
def test_decoder_changes_nothing_at_the_start(how: str, quick: Callable) -> None:
    module = LatentDecoder(8, 1, 2, condition_by=how)
    tokens, condition = (jax.random.normal(jax.random.key(i), (2, 2, 2, 3 + i)) for i in range(2))
    change, _ = quick(module.init_with_output, jax.random.key(2), tokens, condition)
    np.testing.assert_array_equal(change, 0)


@pytest.mark.parametrize("how", CONDITIONS)
def test_decoder_reads_where_the_condition_is_unless_it_is_global(
    how: str, quick: Callable, random_params: Callable
) -> None:
    module = LatentDecoder(8, 1, 2, condition_by=how)
    tokens, condition = (jax.random.normal(jax.random.key(i), (1, 2, 2, 3 + i)) for i in range(2))
    variables = {"params": random_params(module, tokens, condition)}
    both = jnp.concatenate([condition, condition[:, ::-1]])
    own, mirrored = quick(module.apply, variables, jnp.repeat(tokens, 2, axis=0), both)
    difference = float(jnp.abs(own - mirrored).max())
    assert difference < 1e-4 if how == "global" else difference > 1e-2


def test_decoder_refuses_other_grids_and_words() -> None:
    tokens, condition = jnp.zeros((1, 2, 2, 3)), jnp.zeros((1, 4, 4, 3))
    with pytest.raises(ValueError, match="different grids"):
        shapes(LatentDecoder(8, 1, 2), tokens, condition)
    with pytest.raises(ValueError, match="condition_by"):
        shapes(LatentDecoder(8, 1, 2, condition_by="film"), tokens, tokens)


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """x [H, W, C], kernel [k, k, C, F] -> [H/s, W/s, F], zeros around, by scipy."""
    pad = kernel.shape[0] // 2
    x = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    planes = [
        sum(scipy.signal.correlate2d(x[..., c], kernel[..., c, f], "valid") for c in range(x.shape[-1]))
        for f in range(kernel.shape[-1])
    ]
    return np.stack(planes, axis=-1)[::stride, ::stride]


def test_continuous_attention_block_follows_the_formula(quick: Callable) -> None:
    block = ContinuousAttentionBlock(4, stride=2)
    rng = np.random.default_rng(0)
    x, previous = rng.normal(size=(1, 8, 8, 3)), rng.uniform(size=(1, 8, 8, 1))
    args = (jnp.asarray(x, jnp.float32), jnp.asarray(previous, jnp.float32))
    variables = jax.eval_shape(lambda: block.init(jax.random.key(0), *args))
    draw = {"params": rng.normal, "batch_stats": rng.uniform}  # variances are positive
    variables = {
        name: jax.tree.map(lambda leaf, d=draw[name]: jnp.asarray(d(size=leaf.shape), jnp.float32), tree)
        for name, tree in variables.items()
    }

    def conv_norm(name: str, x: np.ndarray, stride: int = 1) -> np.ndarray:
        p, s = variables["params"][name], variables["batch_stats"][name]["norm"]
        y = convolve(x, np.asarray(p["conv"]["kernel"], np.float64), stride)
        scale = np.asarray(p["norm"]["scale"]) / np.sqrt(np.asarray(s["var"]) + 1e-5)
        return (y - np.asarray(s["mean"])) * scale + np.asarray(p["norm"]["bias"])

    y = np.maximum(conv_norm("conv_1", x[0], 2), 0)
    y = np.maximum(conv_norm("conv_2", y) + conv_norm("shortcut", x[0], 2), 0)
    a = 1 / (1 + np.exp(-conv_norm("map", np.stack([y.mean(-1), y.max(-1)], -1))))
    padded = np.pad(previous[0, ..., 0], 1, constant_values=-np.inf)
    pooled = [[padded[i : i + 3, j : j + 3].max() for j in range(0, 8, 2)] for i in range(0, 8, 2)]
    a = a * np.array(pooled)[..., None]
    got, attention = quick(block.apply, variables, *args)
    np.testing.assert_allclose(attention[0], a, atol=1e-4)
    np.testing.assert_allclose(got[0], y * a, atol=1e-3, rtol=1e-4)


def test_channel_max_and_its_gradient() -> None:
    x = jnp.array([[1.0, 3.0, 2.0], [5.0, 5.0, -1.0], [-2.0, -4.0, -3.0]])
    np.testing.assert_array_equal(channel_max(x), [[3.0], [5.0], [-2.0]])
    gradient = jax.grad(lambda x: (channel_max(x)[:, 0] * jnp.array([1.0, 10.0, 100.0])).sum())(x)
    np.testing.assert_array_equal(gradient, [[0, 1, 0], [10, 0, 0], [100, 0, 0]])


def test_the_default_token_grid_fits_the_latent() -> None:
    z = latent.dct_encode(jnp.zeros((1, 64, 64, 3)))
    assert latent.patchify(z, (4, 4)).shape == (1, 4, 4, 16)
