"""Relational aggregators: released sizes, a reference in numpy, what attention and convolution can and cannot reach.

Sizes are traced in the direct form, which traces fastest; the parameters are the same in every form.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.nn import relational
from mer_jax.nn.relational import GlobalAggregator, LocalAggregator, ReducedAttention, RelationalEncoder

WIDTHS = (96, 192, 384, 768)


def sizes(module, shape):
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, False), jnp.zeros(shape))
    return {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in variables["params"].items()}


@pytest.mark.parametrize("width", WIDTHS)
def test_released_local_aggregator_has_15_c2_plus_6_c(width):
    found = sum(sizes(LocalAggregator(width, kind="dense", form="direct"), (1, 2, 2, width)).values())
    assert found == 15 * width**2 + 6 * width


@pytest.mark.parametrize(
    ("width", "side", "reduction", "expected"),
    [(96, 16, 8, 116_160), (192, 8, 4, 461_696), (384, 4, 2, 1_840_896), (768, 2, 1, 7_350_272)],
)
def test_released_global_aggregator(width, side, reduction, expected):
    module = GlobalAggregator(width, reduction, kind="dense", form="direct")
    assert sum(sizes(module, (1, side, side, width)).values()) == expected
    out = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x, False)[0], jnp.zeros((1, 4, 4, width)))
    assert out.shape == (1, 4, 4, width * 4 // 3)


def test_released_encoder_and_the_one_that_was_meant():
    """54,952,448 parameters without attention; with it the blocks have 61,624,384 and the head's layer 4,198,400."""
    found = sizes(RelationalEncoder(attention=False, kind="dense", form="direct"), (1, 64, 64, 1))
    blocks = {k: v for k, v in found.items() if k.startswith("stage")}
    assert (len(blocks), sum(blocks.values()), sum(found.values())) == (20, 51_726_336, 54_952_448)
    assert (found["stem"], found["norm"], found["head"]) == (74_752, 1_536, 3_149_824)
    meant = sizes(RelationalEncoder(kind="dense", form="direct"), (1, 64, 64, 1))
    assert sum(v for k, v in meant.items() if k.startswith("stage")) == 61_624_384
    assert meant["head"] == 4_198_400


def test_stages_have_the_released_shapes():
    module = RelationalEncoder(attention=False, kind="dense", form="direct")
    x = jnp.zeros((2, 64, 64, 1))
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, False), x)
    out, seen = jax.eval_shape(lambda v, x: module.apply(v, x, False, mutable="intermediates"), variables, x)
    shapes = {k: v[0].shape for k, v in seen["intermediates"].items()}
    assert shapes == {f"stage_{i + 1}": (2, 16 >> i, 16 >> i, WIDTHS[i]) for i in range(4)}
    assert out.shape == (2, 64, 64)


def test_average_pool_leaves_out_what_is_not_there():
    x = np.random.default_rng(0).normal(size=(1, 3, 5, 2)).astype(np.float32)
    found = relational.average_pool(jnp.asarray(x), 2)
    expected = [[x[0, i : i + 2, j : j + 2].mean((0, 1)) for j in (0, 2, 4)] for i in (0, 2)]
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


def test_attention_is_the_textbook_sum_over_pooled_tokens(random_variables, quick):
    module = ReducedAttention(head_dim=3, reduction=2)
    x = np.random.default_rng(1).normal(size=(2, 4, 4, 6)).astype(np.float32)
    variables = random_variables(module, jnp.asarray(x), False)
    found = quick(lambda v, x: module.apply(v, x, False), variables, jnp.asarray(x))

    p, s = jax.tree.map(np.asarray, (variables["params"], variables["batch_stats"]["norm"]))
    pooled = x.reshape(2, 2, 2, 2, 2, 6).mean((2, 4)).reshape(2, 4, 6)
    pooled = (pooled - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["norm"]["scale"] + p["norm"]["bias"]
    dense = lambda name, t: t @ p[name]["kernel"] + p[name]["bias"]  # noqa: E731
    q, k, v = dense("q", x.reshape(2, 16, 6)), dense("k", pooled), dense("v", pooled)
    out = np.zeros_like(q)
    for head in (slice(0, 3), slice(3, 6)):
        logits = q[..., head] @ k[..., head].transpose(0, 2, 1) / np.sqrt(3)
        weight = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        out[..., head] = weight @ v[..., head]
    np.testing.assert_allclose(found, dense("proj", out).reshape(2, 4, 4, 6), atol=1e-5)


def test_attention_reaches_the_far_corner_and_convolution_does_not(random_variables, quick):
    x = jnp.asarray(np.random.default_rng(3).normal(size=(1, 8, 8, 24)), jnp.float32)
    moved = x.at[:, 7, 7].add(5.0)
    for module, reaches in (
        (LocalAggregator(24, form="direct"), False),
        (GlobalAggregator(24, 4, form="direct"), True),
    ):
        variables = random_variables(module, x, False)
        run = lambda v, y, m=module: m.apply(v, y, False)  # noqa: E731
        change = np.abs(quick(run, variables, moved) - quick(run, variables, x))[0, 0, 0].max()
        assert (change > 1e-5) == reaches


def test_a_small_encoder_runs_with_everything(random_variables, quick):
    module = RelationalEncoder((1, 1), (24, 48), stem=8, map_size=4, form="direct")
    x = jnp.asarray(np.random.default_rng(4).normal(size=(3, 16, 16, 1)), jnp.float32)
    variables = random_variables(module, x, False)
    run = lambda v, x: module.apply(v, x, True, rngs={"dropout": jax.random.key(0)}, mutable="batch_stats")  # noqa: E731
    maps, changed = quick(run, variables, x)
    assert maps.shape == (3, 4, 4)
    assert bool(jnp.isfinite(maps).all())
    pairs = zip(*(jax.tree.leaves(t["batch_stats"]) for t in (variables, changed)), strict=True)
    assert all(bool((a != b).any()) for a, b in pairs)


def test_places_make_their_own_part_of_the_map(random_variables, quick):
    """A last grid of 2 x 2 and a map of 4 x 4: block (i, j) is the linear layer at place (i, j), and no other."""
    module = RelationalEncoder(
        (1,), (6,), stem=4, patch=4, attention=False, kind="dense", head_dim=3, map_size=4, head="places", form="direct"
    )
    x = jnp.asarray(np.random.default_rng(5).normal(size=(2, 8, 8, 1)), jnp.float32)
    variables = random_variables(module, x, False)
    maps, seen = quick(lambda v, x: module.apply(v, x, False, mutable="intermediates"), variables, x)
    (last,) = seen["intermediates"]["stage_1"]
    norm = jax.tree.map(np.asarray, {**variables["params"]["norm"], **variables["batch_stats"]["norm"]})
    normed = (np.asarray(last) - norm["mean"]) / np.sqrt(norm["var"] + 1e-5) * norm["scale"] + norm["bias"]
    head = variables["params"]["head"]
    for i, j in np.ndindex(2, 2):
        block = (normed[:, i, j] @ head["kernel"] + head["bias"]).reshape(2, 2, 2)
        np.testing.assert_allclose(maps[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2], block, atol=1e-5)
