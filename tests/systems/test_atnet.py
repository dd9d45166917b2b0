"""ATNet: sizes of the released network, features, places of missing steps, views, rates, stages, mistakes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax import systems
from mer_jax.data.store import ClipStore
from mer_jax.errors import UserError
from mer_jax.settings import Settings
from mer_jax.systems import atnet
from mer_jax.training import optimizer

SIZE, SIDE, CELLS = 16, 3, 2
AUGMENT = {"flip_p": 0.0, "rotate_deg": 5.0, "shift_px": 0, "brightness": 10 / 255, "contrast": 0.0}
STAGE = {"augment": AUGMENT, "augment_p": 0.5, "bias_rate": 2.0, "optimizer": {"name": "sgd", "learning_rate": 0.1}}
FIELDS = {
    "system": "atnet",
    "task": "emotion",
    "engine": {"dtype": "float32"},
    "data": {"size": SIZE, "normalise": "unit", "action_units": ()},
    "model": {
        "streams": "fusion", "width": 1 / 64, "fraction": 0.9, "window": "frames", "side": SIDE, "step_ms": 5.0,
        "cells": CELLS, "angle": "plain", "padding": "centred", "pooling": "all", "unit_length": True,
        "epsilon": 1e-10, "dropout": 0.0,
    },
    "pre": {"objective": "none", **STAGE},
    "ft": STAGE,
}  # fmt: skip
FULL = {"width": 1.0, "side": 32, "cells": 8, "dropout": 0.5}


def make(**changes):
    """Settings with changes like model={"streams": "spatial"} or task="au"."""
    fields = {k: {**FIELDS[k], **v} if isinstance(v, dict) else v for k, v in changes.items()}
    return Settings(FIELDS | fields)


def batch_of(n=3, size=SIZE, steps=2 * SIDE, features=2 * CELLS**2, seed=0):
    rng = np.random.default_rng(seed)
    valid = np.arange(steps) >= rng.integers(0, steps - 1, n)[:, None]
    valid[0] = np.arange(steps) == 2  # gaps on both sides
    rows = rng.normal(size=(n, steps, features)) * valid[..., None]
    arrays = {"apex": rng.uniform(size=(n, size, size, 1)), "flow": rows}
    return {k: jnp.float32(v) for k, v in arrays.items()} | {
        "valid": jnp.asarray(valid),
        "label": jnp.arange(n, dtype=jnp.int32) % 3,
    }


def count(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def test_parameters_and_shapes_of_the_released_network(shapes):
    settings = make(model=FULL, data={"size": 224})
    module, batch = systems.build(settings, 3).finetune.module, batch_of(2, 224, 64, 128)
    variables = shapes(module, batch)
    params = variables["params"]
    totals = {name: count(tree) for name, tree in params.items()}
    assert totals == {"spatial": 4_897_794, "temporal": 3_411_968, "classifier": 3_075}
    assert count(params) == 8_312_837
    assert count(params["temporal"]["lstm"]["layer_0_forward"]) == 1_312_768
    out = jax.eval_shape(lambda v: module.apply(v, batch, False), variables)
    assert {k: v.shape for k, v in out.items()} == {"logits": (2, 3), "spatial": (2, 512), "temporal": (2, 512)}


@pytest.mark.parametrize("streams", ["spatial", "temporal"])
def test_single_streams_have_their_own_head(streams, shapes):
    settings = make(model={**FULL, "streams": streams})
    variables = shapes(systems.build(settings, 3).finetune.module, batch_of(2, 32, 64, 128))
    assert set(variables["params"]) == {streams, "classifier"}
    assert variables["params"]["classifier"]["kernel"].shape == (512, 3)


def test_features_have_unit_length_and_both_streams_learn(quick, random_variables):
    stage, batch = systems.build(make(), 3).finetune, batch_of(4)
    variables = random_variables(stage.module, batch)
    statistics = jax.tree.map(jnp.abs, variables["batch_stats"])

    def loss(params):
        collections = {"params": params, "batch_stats": statistics}
        out, changed = stage.module.apply(collections, batch, True, mutable=["batch_stats"])
        each, terms = stage.objective(out, batch)
        return each.mean(), (out, terms, changed["batch_stats"])

    gradient, (out, terms, changed) = quick(jax.grad(loss, has_aux=True), variables["params"])
    for name in ("spatial", "temporal"):
        np.testing.assert_allclose(np.linalg.norm(out[name], axis=-1), 1, rtol=1e-4)
    together = np.concatenate([out["spatial"], out["temporal"]], axis=-1)
    kernel, bias = (np.asarray(variables["params"]["classifier"][k]) for k in ("kernel", "bias"))
    np.testing.assert_allclose(out["logits"], together @ kernel + bias, atol=1e-5)
    log_p = np.asarray(out["logits"], float)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    np.testing.assert_allclose(terms["cross_entropy"], -log_p[np.arange(4), batch["label"]], rtol=1e-4)
    paths = jax.tree_util.tree_leaves_with_path(gradient)
    assert not [jax.tree_util.keystr(p) for p, x in paths if not np.abs(x).max() > 0]
    weights = statistics["spatial"]["norm_1"]["weight"], changed["spatial"]["norm_1"]["weight"]
    np.testing.assert_allclose(weights[1], 0.9 * weights[0] + 1, rtol=1e-6)
    np.testing.assert_allclose(atnet.unit_length(jnp.array([3.0, 4.0]), 0.0), [0.6, 0.8], rtol=1e-6)
    assert not np.isnan(jax.grad(lambda x: atnet.unit_length(x, 1e-10).sum())(jnp.zeros(3))).any()


def test_valid_rows_move_to_the_end_in_their_order():
    rows = jnp.arange(1.0, 11).reshape(2, 5, 1)
    valid = jnp.array([[0, 1, 1, 0, 0], [1, 1, 1, 1, 0]], bool)
    found = atnet.right_align(rows, valid)[..., 0]
    np.testing.assert_array_equal(found, [[0, 0, 0, 2, 3], [0, 6, 7, 8, 9]])


def lstm(rows, weights):
    """One layer, one clip, step by step: rows [T, F] -> outputs [T, H]."""
    w, u, b = (np.asarray(weights[k], float) for k in ("input_kernel", "hidden_kernel", "input_bias"))
    h = c = np.zeros(u.shape[0])
    found = []
    for x in rows:
        i, f, g, o = np.split(x @ w + h @ u + b, 4)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        found.append(h)
    return np.array(found)


@pytest.mark.parametrize("padding", atnet.PADDINGS)
def test_missing_steps_against_one_clip_at_a_time(padding, quick):
    batch = batch_of(4)
    batch["valid"] = batch["valid"].at[3].set(False)
    garbage = jnp.where(batch["valid"][..., None], batch["flow"], 7.0)  # what stands in missing rows does not matter
    streams = {p: atnet.TemporalStream(8, padding, p) for p in atnet.POOLINGS}
    drawn = jax.eval_shape(lambda: streams["all"].init(jax.random.key(0), batch["flow"], batch["valid"]))
    rng = np.random.default_rng(5)
    variables = jax.tree.map(lambda x: jnp.float32(0.5 * rng.normal(size=x.shape)), drawn)
    assert count(variables) == 4 * 8 * (8 + 8 + 1) * 2
    found = quick(lambda v, *a: {p: s.apply(v, *a) for p, s in streams.items()}, variables, garbage, batch["valid"])
    layers = [variables["params"]["lstm"][f"layer_{i}_forward"] for i in (0, 1)]
    for k, valid in enumerate(np.asarray(batch["valid"])):
        rows, steps = np.asarray(batch["flow"][k], float)[valid], valid.sum()
        if padding == "centred":
            seen, where = np.asarray(batch["flow"][k], float) * valid[:, None], valid
        elif padding == "right_aligned":
            seen = np.concatenate([np.zeros((len(valid) - steps, rows.shape[1])), rows])
            where = np.arange(len(valid)) >= len(valid) - steps
        else:
            seen, where = rows, np.ones(steps, bool)
        outputs = lstm(lstm(seen, layers[0]), layers[1]) if len(seen) else np.zeros((0, 8))
        np.testing.assert_allclose(found["all"][k], outputs.sum(0) / len(valid), atol=1e-5)
        mean = outputs[where].mean(0) if steps else np.zeros(8)
        np.testing.assert_allclose(found["valid"][k], mean, atol=1e-5)


@pytest.mark.parametrize("streams", atnet.STREAMS)
def test_every_bias_outside_the_lstm_learns_at_twice_the_rate(streams, shapes):
    params = shapes(systems.build(make(model={"streams": streams}), 3).finetune.module, batch_of())["params"]
    paths = ["/".join(k.key for k in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert sorted(atnet.bias_paths(streams)) == sorted(p for p in paths if p.endswith("/bias"))
    stage = systems.build(make(model={"streams": streams}), 3).finetune
    tx = optimizer.build(stage.optimizer, 10, 10)
    params = jax.tree.map(lambda x: jnp.zeros(x.shape), params)
    moved, _ = jax.jit(lambda p: tx.update(jax.tree.map(jnp.ones_like, p), tx.init(p), p))(params)
    for path, x in jax.tree_util.tree_leaves_with_path(moved):
        doubled = path[-1].key == "bias"
        np.testing.assert_allclose(x, -0.2 if doubled else -0.1, rtol=1e-6)


def small_store(n=3, frames=6):
    """Clips whose frame t of clip k has the grey level 20 k + t; flow rows of clip k are k + 1 where they are valid."""
    levels = (20 * np.arange(n)[:, None] + np.arange(frames)).reshape(-1, 1, 1, 1)
    motion = np.zeros((n, 2 * SIDE, 2 * CELLS**2 + 1), np.float32)
    motion[:, 2:5] = np.arange(1, n + 1)[:, None, None]
    motion[:, 2:5, -1] = 1
    whole = dict.fromkeys((f.name for f in dataclasses.fields(ClipStore)), np.zeros(n, np.int32))
    store = ClipStore(
        **whole
        | {
            "frames": np.broadcast_to(levels, (n * frames, SIZE + 2, SIZE + 2, 1)).astype(np.uint8),
            "start": np.arange(n, dtype=np.int32) * frames,
            "apex": np.array([2, -1, 4], np.int32),
            "offset": np.full(n, frames - 1, np.int32),
            "label": np.arange(n, dtype=np.int32),
            "motion": {"flow_grid": motion},
        }
    )
    return jax.device_put(store)


def test_views_hold_the_apex_frame_and_its_flow():
    system, store = systems.build(make(), 3), small_store()
    view = jax.jit(lambda i: system.view(store, i, jnp.int32(0), False))
    for k, apex in ((0, 2), (1, 2), (2, 4)):  # the middle stands in for the unknown apex of clip 1
        example = view(jnp.int32(k))
        assert example["apex"].shape == (SIZE, SIZE, 1)
        np.testing.assert_allclose(example["apex"], (20 * k + apex) / 255, rtol=1e-6)
        np.testing.assert_array_equal(example["valid"], [0, 0, 1, 1, 1, 0])
        np.testing.assert_array_equal(example["flow"][2:5], k + 1)
        assert example["label"] == k
    measured = system.measures({}, {"valid": example["valid"][None]})
    np.testing.assert_array_equal(measured["flow_steps"], [3])
    assert system.oracle_inputs == "boundaries+apex"


def test_augmentation_touches_the_frame_half_of_the_time_and_never_the_flow():
    system, store = systems.build(make(), 3), small_store()
    draw = jax.jit(jax.vmap(lambda key: system.view(store, jnp.int32(2), key, True)))
    found = draw(jax.random.split(jax.random.key(0), 200))
    np.testing.assert_array_equal(found["flow"], np.broadcast_to(store.motion["flow_grid"][2, :, :-1], (200, 6, 8)))
    change = np.asarray(found["apex"])[:, 8, 8, 0] - 44 / 255
    assert 0.35 < np.mean(np.abs(change) > 1e-6) < 0.65
    assert 8 / 255 < np.abs(change).max() <= 10 / 255 + 1e-6
    never = systems.build(make(ft={"augment_p": 0.0}), 3)  # as the released code runs
    still = jax.jit(lambda key: never.view(store, jnp.int32(2), key, True))(jax.random.key(3))
    np.testing.assert_allclose(still["apex"], 44 / 255, rtol=1e-6)


def test_single_streams_read_only_what_they_need():
    store = small_store()
    spatial, temporal = (systems.build(make(model={"streams": s}), 3) for s in ("spatial", "temporal"))
    assert spatial.needs.motion == ()
    assert spatial.needs.channels == 1
    (spec,) = temporal.needs.motion
    assert (spec.kind, spec.grid.side, spec.grid.cells) == ("flow_grid", SIDE, CELLS)
    names = [set(s.view(store, jnp.int32(0), jnp.int32(0), False)) for s in (spatial, temporal)]
    assert names == [{"apex", "label"}, {"flow", "valid", "label"}]


def test_action_units_are_a_task(shapes):
    units = systems.build(make(task="au", data={"action_units": (4, 12)}), 2)
    store = small_store().replace(action_units=jnp.tile(jnp.arange(50, dtype=jnp.int8) % 2, (3, 1)))
    example = units.view(store, jnp.int32(0), jnp.int32(0), False)
    np.testing.assert_array_equal(example["action_units"], [0, 0])
    np.testing.assert_allclose(units.combine(jnp.zeros((1, 1, 2))), 0.5)
    assert shapes(units.finetune.module, batch_of())["params"]["classifier"]["bias"].shape == (2,)


def test_macro_expressions_train_the_spatial_stream(shapes):
    system = systems.build(make(pre={"objective": "macro_cls"}), 3, 7)
    stage = system.pretrain
    example = {"first": jnp.zeros((18, 18, 3)), "second": jnp.ones((18, 18, 3)) * jnp.array([0.2, 0.4, 0.6])}
    seen = system.pretrain_view({**example, "label": jnp.int32(4)}, jax.random.key(0), False)
    assert set(seen) == {"apex", "label"}
    np.testing.assert_allclose(seen["apex"], 0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.6, rtol=1e-5)
    params = shapes(stage.module, {"apex": seen["apex"][None]})["params"]
    assert set(params) == {"spatial", "classifier"}
    assert params["classifier"]["bias"].shape == (7,)
    assert system.finetune.carry == ("spatial",)
    alone = systems.build(make(), 3)
    assert alone.pretrain is None
    assert alone.finetune.carry == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"streams": "both"}}, "model.streams: found 'both'; expected one of spatial, temporal, fusion"),
        ({"model": {"padding": "left"}}, "model.padding"),
        ({"model": {"pooling": "max"}}, "model.pooling"),
        ({"model": {"window": "minutes"}}, "model: flow grid window: found 'minutes'"),
        ({"model": {"cells": 5}}, "data.size: found 16; expected a multiple of model.cells = 5"),
        ({"task": "valence"}, "task: found 'valence'"),
        ({"task": "au"}, "found 0 action units; expected 3"),
        ({"ft": {"augment": {**AUGMENT, "flip_p": 0.5}}}, "ft.augment.flip_p: found 0.5; expected 0"),
        ({"pre": {"objective": "reconstruct"}}, "pre.objective"),
        ({"pre": {"objective": "macro_cls"}}, "found 0 macro classes"),
        ({"pre": {"objective": "macro_cls"}, "model": {"streams": "temporal"}}, "does not have; set pre.objective"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        systems.build(make(**changes), 3)
