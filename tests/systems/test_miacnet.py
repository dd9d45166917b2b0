"""MIACNet: sizes, decoupling of its branches, variants, heads, compute type."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.errors import UserError
from mer_jax.systems import miacnet

PAIR_BRANCHES = ("M0", "M1", "M2", "M3")


def count(tree: Any) -> int:
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def test_paper_size(make_settings: Callable, shapes: Callable, make_batch: Callable) -> None:
    settings = make_settings(model={"width": 1.0, "position_depth": 2}, data={"size": 224})
    module, batch = miacnet.build_recogniser(settings, 5), make_batch(224, 2)
    variables = shapes(module, batch)
    params = variables["params"]
    assert count(params["encoder"]["action"]) == 2_528_884  # 2.53 M
    assert count(params["encoder"]["position"]) == 6_407_168  # 6.41 M
    assert count(params["head"]) == 501_765  # .50 M
    assert params["head"]["linear"]["kernel"].shape == (100_352, 5)
    out = jax.eval_shape(lambda v, b: module.apply(v, b, False), variables, batch)
    assert out["action"].shape == out["position"].shape == (2, 14, 14, 512)
    assert [out[f"map_{i}"].shape for i in (1, 2, 3, 4)] == [(2, s, s, 1) for s in (112, 56, 28, 14)]
    assert out["logits"].shape == (2, 5)


@pytest.mark.parametrize("size", [64, 112])
@pytest.mark.parametrize("variant", miacnet.VARIANTS)
def test_every_variant_lives_on_the_grid(
    variant: str, size: int, make_settings: Callable, shapes: Callable, make_batch: Callable
) -> None:
    settings = make_settings(model={"variant": variant, "width": 0.25}, data={"size": size})
    for head in miacnet.HEADS if variant == "M0" else ("flatten",):
        module = miacnet.build_recogniser(settings.replace(model=settings.model.replace(head=head)), 3)
        variables = shapes(module, make_batch(size, 1))
        out = jax.eval_shape(lambda v, b, m=module: m.apply(v, b, False), variables, make_batch(size, 1))
        assert out["action"].shape == out["position"].shape == (1, size // 16, size // 16, 128)
        assert out["logits"].shape == (1, 3)


@pytest.mark.parametrize("kind", ["diff", "pair"])
@pytest.mark.parametrize("backbone", miacnet.BACKBONES)
def test_any_backbone_becomes_an_encoder_of_pairs(
    backbone: str, kind: str, make_settings: Callable, shapes: Callable, make_batch: Callable
) -> None:
    settings = make_settings(model={"encoder": backbone, "input": kind, "width": 1.0}, data={"size": 64})
    module = miacnet.build_recogniser(settings, 3)
    variables = shapes(module, make_batch(64, 2))
    out = jax.eval_shape(lambda v, b: module.apply(v, b, False), variables, make_batch(64, 2))
    assert out["action"].shape == out["position"].shape == (2, 4, 4, 512)
    assert count(variables["params"]["encoder"]) > 1e7
    kernels = {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(variables["params"])}
    stem = next(x for p, x in kernels.items() if ("stem" in p or "patches" in p) and x.ndim == 4)
    assert stem.shape[2] == (1 if backbone == "akmnet" else 3) * (1 if kind == "diff" else 2)


def test_no_bias_before_batch_norm(make_settings: Callable, shapes: Callable, make_batch: Callable) -> None:
    """A bias that BatchNorm removes has a gradient of pure round-off, which Adam blows up."""
    for model in ({"variant": "M1"}, {"encoder": "resnet34"}):
        variables = shapes(miacnet.build_recogniser(make_settings(model=model), 3), make_batch(32, 1))

        def normed(tree: Any) -> list[Any]:
            here = [tree["conv"]] if {"conv", "norm"} <= set(tree) else []
            return here + [m for sub in tree.values() if isinstance(sub, dict) for m in normed(sub)]

        convolutions = normed(variables["params"])
        statistics = [p for p, _ in jax.tree_util.tree_leaves_with_path(variables["batch_stats"]) if "var" in str(p)]
        assert len(convolutions) == len(statistics) >= 15
        assert all(set(c) == {"kernel"} for c in convolutions)


@pytest.fixture(scope="module")
def m0(make_settings: Callable, random_variables: Callable, make_batch: Callable) -> tuple[Any, Any, Any, Any]:
    """M0 with random weights: encoder variables, its features as a jitted function, frames."""
    module = miacnet.build_recogniser(make_settings(), 3)
    batch = make_batch(32, 4)
    variables = random_variables(module, batch)
    apply = jax.jit(lambda pair: module.apply(variables, pair, False))

    def encode(first: jax.Array, second: jax.Array) -> Any:
        return apply({"first": first, "second": second})

    return module, variables, encode, batch


def test_position_never_sees_the_second_frame(m0: Any) -> None:
    _, _, encode, batch = m0
    one, other = encode(batch["first"], batch["second"]), encode(batch["first"], batch["before"])
    assert np.asarray(one["position"]).tobytes() == np.asarray(other["position"]).tobytes()
    assert np.abs(one["action"] - other["action"]).max() > 1e-2 * np.abs(one["action"]).max()
    assert np.abs(one["position"] - encode(batch["second"], batch["second"])["position"]).max() > 1e-3


def test_action_sees_only_the_difference(m0: Any) -> None:
    _, _, encode, batch = m0
    constant = jnp.asarray(np.random.default_rng(3).uniform(-1, 1, (1, 32, 32, 3)), jnp.float32)
    one = encode(batch["first"], batch["second"])["action"]
    other = encode(batch["first"] + constant, batch["second"] + constant)["action"]
    size = np.abs(one).max()
    np.testing.assert_allclose(other, one, atol=1e-4 * size)
    assert np.abs(one - encode(batch["first"], batch["second"] + constant)["action"]).max() > 1e-2 * size


def test_attention_maps_shrink_along_the_stages(m0: Any) -> None:
    """Every map is in 0..1 and at most the largest of the previous map's 3x3 neighbourhood."""
    _, _, encode, batch = m0
    out = encode(batch["first"], batch["second"])
    for i in (2, 3, 4):
        before, now = np.asarray(out[f"map_{i - 1}"]), np.asarray(out[f"map_{i}"])
        stride = before.shape[1] // now.shape[1]
        assert (now > 0).all()
        for y in range(now.shape[1]):
            for x in range(now.shape[2]):
                rows, columns = (
                    slice(max(stride * y - 1, 0), stride * y + 2),
                    slice(max(stride * x - 1, 0), stride * x + 2),
                )
                assert (now[:, y, x] <= before[:, rows, columns].max(axis=(1, 2)) + 1e-6).all()


def test_classify_gives_the_logits_of_the_whole(m0: Any, quick: Callable) -> None:
    module, variables, encode, batch = m0
    out = encode(batch["first"], batch["second"])
    logits = quick(lambda a, p: module.apply(variables, a, p, method="classify"), out["action"], out["position"])
    np.testing.assert_allclose(logits, out["logits"], rtol=1e-4, atol=1e-5)
    kernel, bias = (np.asarray(variables["params"]["head"]["linear"][k]) for k in ("kernel", "bias"))
    tokens = np.asarray(out["action"] + out["position"]).reshape(4, -1)
    np.testing.assert_allclose(logits, tokens @ kernel + bias, rtol=1e-4, atol=1e-4)


def features(seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(2, 2, 2, 16)), jnp.float32)


def test_fusions_at_the_start(quick: Callable) -> None:
    """M2 starts as the action alone, M3 as its normalisation: position enters by zero-initialised layers."""
    a, p = features(0), features(1)
    norm = (a - a.mean(-1, keepdims=True)) / jnp.sqrt(a.var(-1, keepdims=True) + 1e-6)
    expected = {"sum": a + p, "action": a, "position": p, "cross_attention": a, "modulation": norm}
    for kind, value in expected.items():
        out, _ = quick(miacnet.Fusion(kind).init_with_output, jax.random.key(0), a, p)
        np.testing.assert_allclose(out, value, atol=1e-5, err_msg=kind)
    assert {miacnet.FUSIONS[v] for v in miacnet.VARIANTS} == set(expected)


@pytest.mark.parametrize("kind", ["cross_attention", "modulation"])
def test_trained_fusions_read_the_position(kind: str, quick: Callable) -> None:
    a, p = features(0), features(1)
    module = miacnet.Fusion(kind)
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), a, p))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
    run = functools.partial(quick, lambda p: module.apply({"params": params}, a, p))
    one, moved, other = run(p), run(p[:, ::-1]), run(features(2))
    assert np.abs(one - other).max() > 1e-2
    # attention asks by content, modulation by place: only the latter minds where a position vector lies
    assert (np.abs(one - moved).max() > 1e-2) == (kind == "modulation")


def test_heads(quick: Callable) -> None:
    x = features(0)
    for kind, reference in (("gap", x.mean(axis=(1, 2))), ("gap_ln_dropout", None)):
        head = miacnet.Head(3, kind)
        out, variables = quick(lambda k, h=head: h.init_with_output(k, x, False), jax.random.key(0))
        if reference is None:
            m = x.mean(axis=(1, 2))
            reference = (m - m.mean(-1, keepdims=True)) / jnp.sqrt(m.var(-1, keepdims=True) + 1e-6)
        np.testing.assert_allclose(out, reference @ variables["params"]["linear"]["kernel"], atol=1e-5)
    dropped = quick(lambda v, k: head.apply(v, x, True, rngs={"dropout": k}), variables, jax.random.key(1))
    assert np.abs(dropped - out).max() > 1e-3


def test_bfloat16_computes_small_and_keeps_float32_parameters(
    m0: Any, make_settings: Callable, shapes: Callable, quick: Callable
) -> None:
    _, variables, encode, batch = m0
    module = miacnet.build_recogniser(make_settings(engine={"dtype": "bfloat16"}), 3)
    assert {x.dtype for x in jax.tree.leaves(shapes(module, batch))} == {jnp.dtype("float32")}
    out = quick(lambda b: module.apply(variables, b, False), batch)
    reference = encode(batch["first"], batch["second"])
    assert out["logits"].dtype == out["action"].dtype == jnp.float32
    error = np.abs(out["logits"] - reference["logits"]).max() / np.abs(reference["logits"]).max()
    assert 1e-6 < error < 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"size": 60}}, "data.size: found 60; expected a multiple of 16"),
        ({"model": {"variant": "M5"}}, "model.variant: found 'M5'; expected one of M0"),
        ({"model": {"encoder": "vgg"}}, "model.encoder: found 'vgg'"),
        ({"model": {"encoder": "resnet18", "input": "both"}}, "model.input"),
        ({"model": {"head": "mean"}}, "model.head"),
    ],
)
def test_mistakes_are_named(changes: Any, message: str, make_settings: Callable) -> None:
    with pytest.raises(UserError, match=message):
        miacnet.build_recogniser(make_settings(**changes), 3)
