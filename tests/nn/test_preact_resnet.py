"""Pre-activation ResNet-10: sizes, Caffe's BatchNorm and pooling, a block against a loop, fillers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.nn import preact_resnet
from mer_jax.nn.preact_resnet import BatchNormScale, PreActivationBlock, PreActivationResNet10


def count(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def test_the_released_network():
    network, image = PreActivationResNet10(), jnp.zeros((2, 224, 224, 1))
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), image, False))
    params = variables["params"]
    assert count(params) == 4_897_794
    assert count(params["conv_1"]) == 3_200
    kernels = [
        sum(count(v) for k, v in params[f"block_{i}"].items() if k.startswith(("conv", "short"))) for i in (1, 2, 3, 4)
    ]
    assert kernels == [73_728, 229_376, 917_504, 3_670_016]
    norms = [x for p, x in jax.tree_util.tree_leaves_with_path(params) if "norm" in p[-2].key]
    assert count(norms) == 3_970
    out = jax.eval_shape(lambda v: network.apply(v, image, False, method="feature_map"), variables)
    assert out.shape == (2, 7, 7, 512)
    assert jax.eval_shape(lambda v: network.apply(v, image, False), variables).shape == (2, 512)


@pytest.mark.parametrize("size", [5, 6, 7, 8, 112])
def test_pooling_rounds_up(size):
    x = np.random.default_rng(size).normal(size=(1, size, size, 2)).astype(np.float32)
    found = np.asarray(preact_resnet.ceil_max_pool(jnp.asarray(x)))
    wanted = int(np.ceil((size - 3) / 2)) + 1
    assert found.shape == (1, wanted, wanted, 2)
    for i, j in ((0, 0), (wanted - 1, wanted - 1), (wanted // 2, 0)):
        np.testing.assert_array_equal(found[0, i, j], x[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((0, 1)))


def test_statistics_are_summed_as_caffe_does():
    """S' = f S + s, w' = f w + 1, used as S / w; the stored variance is m / (m - 1) times that of the batch."""
    norm, rng = BatchNormScale(0.9), np.random.default_rng(0)
    batches = [rng.normal(3, 2, (4, 3, 2)).astype(np.float32) for _ in range(3)]
    variables = norm.init(jax.random.key(0), batches[0], False)
    variables = {**variables, "params": {"scale": jnp.array([2.0, -1.0]), "bias": jnp.array([0.5, 3.0])}}
    mean_sum, var_sum, weight = np.zeros(2), np.zeros(2), 0.0
    train = jax.jit(lambda v, x: norm.apply(v, x, True, mutable=["batch_stats"]))
    for x in batches:
        y, changed = train(variables, x)
        mean, var = x.mean((0, 1)), x.var((0, 1))
        expected = (x - mean) / np.sqrt(var + 1e-5) * [2, -1] + [0.5, 3]
        np.testing.assert_allclose(y, expected, atol=1e-5)
        mean_sum, var_sum, weight = 0.9 * mean_sum + mean, 0.9 * var_sum + var * 12 / 11, 0.9 * weight + 1
        variables = {**variables, **changed}
    x = batches[1]
    expected = (x - mean_sum / weight) / np.sqrt(var_sum / weight + 1e-5) * [2, -1] + [0.5, 3]
    np.testing.assert_allclose(norm.apply(variables, x, False), expected, atol=1e-5)


def test_before_the_first_step_nothing_is_normalised():
    x = jnp.arange(6.0).reshape(3, 2)
    norm = BatchNormScale()
    variables = norm.init(jax.random.key(0), x, True)
    assert not variables["batch_stats"]["weight"]
    np.testing.assert_allclose(norm.apply(variables, x, False), x, rtol=1e-5)


def convolve(x, kernel, stride=1):
    """Loop over places: x [H, W, C], kernel [k, k, C, F], zero padding k // 2."""
    pad = kernel.shape[0] // 2
    padded = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    rows = range(0, x.shape[0], stride)
    k = kernel.shape[0]
    return np.stack(
        [np.stack([np.tensordot(padded[i : i + k, j : j + k], kernel, 3) for j in range(0, x.shape[1], stride)])
         for i in rows]
    )  # fmt: skip


@pytest.mark.parametrize("projected", [True, False])
def test_a_block_against_a_loop(projected, quick, random_variables):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 4, 4, 3 if projected else 5)).astype(np.float32)
    block = PreActivationBlock(5, 2 if projected else 1, projected)
    variables = random_variables(block, x, False)
    params, statistics = variables["params"], jax.tree.map(jnp.abs, variables["batch_stats"])
    found = quick(lambda v, x: block.apply(v, x, False), {"params": params, "batch_stats": statistics}, x)
    kernels = {k: np.asarray(v["kernel"], float) for k, v in params.items() if "kernel" in v}

    def norm_relu(y, name):
        stats = {k: np.asarray(v, float) for k, v in statistics[name].items()}
        mean, var = stats["mean_sum"] / stats["weight"], stats["var_sum"] / stats["weight"]
        scaled = (y - mean) / np.sqrt(var + 1e-5) * np.asarray(params[name]["scale"]) + np.asarray(params[name]["bias"])
        return np.maximum(scaled, 0)

    if projected:
        kernels["shortcut"] = kernels["shortcut"][None, None]  # a matrix: 1x1

    for image, result in zip(x.astype(float), found, strict=True):
        stride = 2 if projected else 1
        y = norm_relu(image, "norm_1") if projected else image
        shortcut = convolve(y, kernels["shortcut"], stride) if projected else y
        y = convolve(norm_relu(convolve(y, kernels["conv_1"], stride), "norm_2"), kernels["conv_2"])
        np.testing.assert_allclose(result, y + shortcut, atol=1e-4)


def test_fillers():
    key = jax.random.key(0)
    stem = np.asarray(preact_resnet.MSRA_FAN_OUT(key, (7, 7, 1, 64)))  # fan out 49 * 64
    assert abs(stem.std() / np.sqrt(2 / (49 * 64)) - 1) < 0.05
    conv = np.asarray(preact_resnet.MSRA(key, (3, 3, 32, 8)))
    assert abs(conv.std() / np.sqrt(2 / (9 * 32)) - 1) < 0.05
    linear = np.asarray(preact_resnet.XAVIER(key, (1024, 3)))
    assert abs(np.abs(linear).max() / np.sqrt(3 / 1024) - 1) < 0.01
