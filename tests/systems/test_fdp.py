"""FDP: released size and index map, what a view holds, statistics of a fold, loss, measures, mistakes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import fdp as config
from mer_jax import systems
from mer_jax.data import motion, sampling
from mer_jax.data.clips import AU_SLOTS
from mer_jax.data.store import ClipStore
from mer_jax.errors import UserError
from mer_jax.settings import Settings
from mer_jax.systems import fdp
from mer_jax.training.step import initial_variables

LENGTHS = (9, 21, 3, 16)
SMALL = "tiny,model.form=direct"


def settings_of(words: str, **fields: Any) -> Settings:
    found = config.get_config(words)
    for name, value in fields.items():
        found[name.replace("__", ".")] = value
    return Settings({k: v for k, v in found.to_dict().items() if k not in ("ablation", "rows", "row_names")})


def changed(settings: Settings, node: str, **fields: Any) -> Settings:
    return settings.replace(**{node: getattr(settings, node).replace(**fields)})


@functools.cache
def clip_store(size: int = 32) -> ClipStore:
    rng = np.random.default_rng(0)
    n, total = len(LENGTHS), sum(LENGTHS)
    length = np.array(LENGTHS, np.int32)
    onset, offset = np.ones(n, np.int32), length - 1
    apex = np.array([5, 9, 2, -1], np.int32)
    return ClipStore(
        frames=jnp.asarray(rng.integers(0, 256, (total, size, size, 1)), jnp.uint8),
        start=jnp.asarray(np.cumsum([0, *LENGTHS[:-1]]), jnp.int32),
        length=jnp.asarray(length),
        fps=jnp.full(n, 100.0),
        onset=jnp.asarray(onset),
        apex=jnp.asarray(apex),
        offset=jnp.asarray(offset),
        true_onset=jnp.asarray([-1, 2, -1, -1], jnp.int32),
        true_apex=jnp.asarray([-1, 8, -1, -1], jnp.int32),
        true_offset=jnp.asarray([-1, 18, -1, -1], jnp.int32),
        modality=jnp.full(n, 1, jnp.int32),
        label=jnp.arange(n, dtype=jnp.int32) % 3,
        action_units=jnp.zeros((n, AU_SLOTS), jnp.int8),
        landmarks=jnp.zeros((0, 68, 2)),
        motion={},
    )


def frames_batch(settings: Settings, n: int = 2, seed: int = 0) -> dict[str, jax.Array]:
    data, rng = settings.data, np.random.default_rng(seed)
    frames = rng.uniform(size=(n, data.frames, data.size, data.size, 1)).astype(np.float32)
    position = np.tile(np.arange(data.frames, dtype=np.int32), (n, 1))
    return {"frames": jnp.asarray(frames), "position": jnp.asarray(position), "label": jnp.arange(n) % 3}


def count(tree: Any) -> int:
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


# -- the released network ----------------------------------------------------------------------------------------------


def test_released_network_has_85_304_206_parameters(shapes) -> None:
    settings = settings_of("released,model.form=direct")
    module = systems.build(settings, 5).finetune.module
    batch = frames_batch(settings, 1)
    variables = shapes(module, batch)
    parts = {k: count(v) for k, v in variables["params"].items()}
    assert parts["encoder"] == 54_952_448
    assert parts["mix"] + parts["hidden"] + parts["classifier"] == 905_293
    assert parts["segnet"] == 29_446_465
    assert sum(parts.values()) == 85_304_206
    assert variables["params"]["mix"]["kernel"].shape == (3, 3, 8, 8)
    assert variables["params"]["hidden"]["kernel"].shape == (3528, 256)
    outputs = jax.eval_shape(lambda v, b: module.apply(v, b, False), variables, batch)
    assert outputs["maps"].shape == (1, 8, 64, 64)
    assert outputs["pooled"].shape == (1, 64, 64, 8)
    assert outputs["image"].shape == (1, 64, 64)
    assert outputs["logits"].shape == (1, 5)


def test_released_index_map_mixes_features_instead_of_frames() -> None:
    """Place (h, w, t) of the released map is feature (h mod 8) 512 + 8 w + t of frame h // 8."""
    module = fdp.FDPNetwork(None, None, None, 5, pool="conv3d_mixed", map_size=64)
    maps = jnp.arange(8 * 64 * 64).reshape(1, 8, 64, 64)
    mixed = np.asarray(module._pool(maps, {}, False))[0]
    h, w, t = np.mgrid[:64, :64, :8]
    np.testing.assert_array_equal(mixed, h // 8 * 4096 + h % 8 * 512 + 8 * w + t)
    straight = np.asarray(dataclasses.replace(module, pool="conv3d")._pool(maps, {}, False))[0]
    np.testing.assert_array_equal(straight, t * 4096 + h * 64 + w)


def test_weights_of_the_dynamic_image_are_the_published_ones() -> None:
    expected = [-8.4607, -1.4607, 1.0393, 2.0393, 2.2893, 2.0893, 1.5893, 0.8750]
    np.testing.assert_allclose(motion.rank_pooling_weights(jnp.ones(8, bool)), expected, atol=1e-4)
    frames = np.random.default_rng(1).uniform(size=(1, 8, 4, 4, 1)).astype(np.float32)
    found = fdp.dynamic_images(jnp.asarray(frames), 2)
    whole = np.tensordot(expected, frames[0, ..., 0], axes=1)
    np.testing.assert_allclose(found[0], whole.reshape(2, 2, 2, 2).mean((1, 3)), atol=2e-4)


# -- the described network ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(quick) -> Any:
    """(settings, module, variables, apply) of a small network with all its parts."""
    settings = changed(settings_of(SMALL), "model", norm_pooled=False, reference="none")
    module = systems.build(settings, 3).finetune.module
    batch = frames_batch(settings)
    key = jax.random.key(0)
    variables = quick(lambda b, k: module.init(k, b, False), batch, key)
    return settings, module, variables, jax.jit(lambda v, b: module.apply(v, b, False))


def test_a_static_clip_gives_exactly_nothing(network) -> None:
    settings, _, variables, apply = network
    batch = frames_batch(settings)
    still = {**batch, "frames": jnp.broadcast_to(batch["frames"][:, :1], batch["frames"].shape)}
    out = apply(variables, still)
    for name in ("pooled", "change"):
        np.testing.assert_array_equal(out[name], 0)
        assert np.abs(apply(variables, batch)[name]).max() > 1e-3
    np.testing.assert_array_equal(fdp.scaled(out["change"], "minmax", jnp.ones(()), 4.0), 0)
    np.testing.assert_array_equal(fdp.scaled(out["change"], "fixed", jnp.ones(()), 4.0), 0.5)


def test_reversed_frames_have_reversed_scores_and_the_same_class(network) -> None:
    """By construction: each frame is scored alone, so order on the way up and down of an expression is not evidence."""
    settings, _, variables, apply = network
    batch = frames_batch(settings)
    out, back = (apply(variables, b) for b in (batch, {**batch, "frames": batch["frames"][:, ::-1]}))
    np.testing.assert_allclose(back["scores"], out["scores"][:, ::-1], atol=1e-5)
    np.testing.assert_allclose(back["logits"], out["logits"], atol=1e-4)
    assert np.abs(out["scores"][0] - out["scores"][0, ::-1]).max() > 1e-3
    # the pooled sum knows no order but that of the scores: the image is the same, while the true one is another
    np.testing.assert_allclose(back["image"], out["image"], atol=1e-4)
    assert np.abs(back["target"] - out["target"]).max() > 0.1


def test_every_pooling_and_task_builds(shapes) -> None:
    for pool in fdp.POOLS:
        for fields in ({}, {"rank_weight": 0.0, "dynamic_weight": 0.0}):
            settings = changed(changed(settings_of(SMALL), "model", pool=pool), "ft", **fields)
            stage = systems.build(settings, 3).finetune
            batch = frames_batch(settings)
            variables = shapes(stage.module, batch)
            out = jax.eval_shape(lambda v, b, m=stage.module: m.apply(v, b, False), variables, batch)
            loss, terms = jax.eval_shape(stage.objective, out, batch)
            assert loss.shape == (2,)
            assert set(terms) == {"cross_entropy"} | (set() if fields else {"dynamic_mse", "rank"})
            assert ("scorer" in variables["params"]) == (not fields or pool == "rank_score")
            assert ("segnet" in variables["params"]) == (not fields)


def test_the_loss_is_the_weighted_sum_of_its_terms(network) -> None:
    settings, _, variables, apply = network
    batch = frames_batch(settings)
    out = apply(variables, batch)
    loss, terms = fdp.objective(out, batch, dynamic=100.0, rank=0.5)
    total = terms["cross_entropy"] + 100 * terms["dynamic_mse"] + 0.5 * terms["rank"]
    np.testing.assert_allclose(loss, total, rtol=1e-6)
    np.testing.assert_allclose(terms["dynamic_mse"], ((out["image"] - out["target"]) ** 2).mean((1, 2)), rtol=1e-6)
    assert (np.asarray(terms["rank"]) > 0).all()


# -- views -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [3, 7, 8, 9, 16, 41])
def test_sequences_are_those_of_the_released_sampling(length) -> None:
    first = sampling.sequence_positions(jnp.int32(length), 8, 0.0)
    np.testing.assert_array_equal(first, motion.phase_positions(length, 8))
    if length >= 8:
        step = length // 8
        for phase in range(step):
            found = sampling.sequence_positions(jnp.int32(length), 8, (phase + 0.5) / step)
            np.testing.assert_array_equal(found, np.arange(8) * step + phase)


def test_evaluation_views_hold_frames_of_the_clip_and_of_its_event() -> None:
    settings = changed(settings_of(SMALL), "data", views=2)
    system, store = systems.build(settings, 3), clip_store()
    frames = np.asarray(store.frames)
    for phase, expected in ((0, [1, 6, 11, 16]), (1, [3, 8, 13, 18])):  # of 21 frames: every 5th, at 1/4 and 3/4
        view = system.view(store, jnp.int32(1), jnp.int32(phase), False)
        np.testing.assert_array_equal(view["position"], expected)
        np.testing.assert_allclose(view["frames"], frames[9 + np.array(expected)] / 255, atol=1e-6)
    np.testing.assert_array_equal(view["key_frames"], [2, 8, 18])  # the exact ones
    np.testing.assert_array_equal(view["order_position"], np.rint(np.linspace(2, 18, 6)))
    np.testing.assert_allclose(view["order_frames"], frames[9 + np.asarray(view["order_position"])] / 255, atol=1e-6)
    np.testing.assert_array_equal(system.view(store, jnp.int32(3), jnp.int32(0), False)["key_frames"], [1, -1, 15])
    assert system.oracle_inputs == "none"
    part = systems.build(changed(settings, "data", part="onset_apex"), 3)
    assert part.oracle_inputs == "boundaries+apex"
    view = part.view(store, jnp.int32(1), jnp.int32(0), False)
    np.testing.assert_array_equal(view["position"], [1, 3, 5, 7])  # of 1..9, every second


def test_training_views_draw_phases_and_one_transform() -> None:
    system, store = systems.build(settings_of(SMALL), 3), clip_store()
    keys = jax.random.split(jax.random.key(0), 16)
    views = jax.vmap(lambda k: system.view(store, jnp.int32(1), k, True))(keys)
    first = np.asarray(views["position"][:, 0])
    assert set(first) > {0, 1, 2}
    assert first.max() <= 4
    assert "order_frames" not in views
    shuffled = systems.build(changed(settings_of(SMALL), "ft", shuffle_order=True), 3)
    orders = {
        clip: {tuple(np.asarray(shuffled.view(store, jnp.int32(clip), k, True)["position"]).tolist()) for k in keys[:3]}
        for clip in range(4)
    }
    assert all(len(found) == 1 for found in orders.values())  # a clip's order stays
    assert len(set.union(*orders.values())) > 1  # clips differ
    assert all(sorted(*found) == [0, 1, 2, 3] for found in orders.values())


def test_statistics_are_of_the_training_clips_alone() -> None:
    settings = changed(settings_of(SMALL), "model", scale="fixed")
    system, store = systems.build(settings, 3), clip_store()
    statistics = jax.jit(system.statistics)
    mask = jnp.asarray([True, False, True, True])
    found = statistics(store, mask)
    other = dataclasses.replace(store, frames=store.frames.at[9:30].set(0))
    for name, value in statistics(other, mask).items():
        np.testing.assert_array_equal(value, found[name])
    frames = np.stack([system.view(store, jnp.int32(i), jnp.int32(0), False)["frames"] for i in (0, 2, 3)])
    signed = 2 * frames - 1
    np.testing.assert_allclose(found["mean"], signed.mean(), atol=1e-5)
    np.testing.assert_allclose(found["maximum"], signed.max() - signed.mean(), atol=1e-5)
    alpha = np.asarray(motion.rank_pooling_weights(jnp.ones(4, bool)))
    change = np.einsum("t,bthwc->bhw", alpha, frames).reshape(3, 16, 2, 16, 2).mean((2, 4))
    deviation = np.sqrt((change**2).mean())
    np.testing.assert_allclose(found["deviation"], deviation, rtol=1e-5)
    image = np.clip(0.5 + change / (8 * deviation), 0, 1).mean(0)
    np.testing.assert_allclose(found["image"], image, atol=1e-5)
    difference = (frames[:, 1:].mean(1) - frames[:, 0]).reshape(3, 16, 2, 16, 2).mean((2, 4))
    slope = np.linalg.lstsq(difference.reshape(-1, 1), change.ravel(), rcond=None)[0]
    np.testing.assert_allclose(found["slope"], slope[0], rtol=1e-4)
    empty = statistics(store, jnp.zeros(4, bool))
    assert all(np.isfinite(v).all() for v in empty.values())
    assert min(float(empty["maximum"]), float(empty["deviation"])) > 0


def test_the_network_finds_its_statistics() -> None:
    settings = settings_of(SMALL)
    system, store = systems.build(settings, 3), clip_store()
    fitted = jax.eval_shape(system.statistics, store, jnp.ones(4, bool))
    batch = jax.tree.map(lambda x: x[None], system.view(store, jnp.int32(0), jax.random.key(0), True))
    fresh = jax.eval_shape(lambda: initial_variables(system.finetune, batch, jax.random.key(0)))
    own = fresh["constants"]["statistics"]
    assert {k: (v.shape, v.dtype) for k, v in own.items()} == {k: (v.shape, v.dtype) for k, v in fitted.items()}


# -- measures ----------------------------------------------------------------------------------------------------------


def test_measures_stand_beside_what_sees_nothing() -> None:
    system = systems.build(settings_of(SMALL), 3)
    rng = np.random.default_rng(2)
    target, mean = rng.uniform(size=(2, 16, 16)), rng.uniform(size=(16, 16))
    position = np.array([[1, 3, 5, 7, 9, 11]] * 2)
    outputs = {
        "image": target, "target": target, "change": target - 0.5, "mean_image": np.broadcast_to(mean, target.shape),
        "difference_image": 1 - target, "order_scores": np.array([[0.0, 1, 2, 3, 2.5, 0.5], [0, 1, 2, 3, 4, 5]]),
    }  # fmt: skip
    further = np.array([0.1, 0.2, 0.3, 0.4, 0.0, 0.5])  # from the first frame
    batch = {
        "order_position": position, "key_frames": np.array([[1, 7, 11], [1, -1, 11]]),
        "frames": np.zeros((2, 4, 3, 3, 1)),
        "order_frames": np.broadcast_to(-further[:, None, None, None], (2, 6, 3, 3, 1)),
    }  # fmt: skip
    found = system.measures(*jax.tree.map(jnp.asarray, (outputs, batch)))
    np.testing.assert_allclose(found["image_mse"], 0, atol=1e-12)
    np.testing.assert_allclose(found["image_ssim"], 1, atol=1e-5)
    np.testing.assert_allclose(found["image_correlation"], 1, atol=1e-5)
    np.testing.assert_allclose(found["mean_image_mse"], ((target - mean) ** 2).mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found["grey_image_mse"], ((target - mean.mean()) ** 2).mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found["tau_onset_apex"], [1, np.nan])
    np.testing.assert_allclose(found["tau_apex_offset"], [-1, np.nan])
    np.testing.assert_allclose(found["tau_event"], [5 / 15, 1], atol=1e-6)
    np.testing.assert_allclose(found["difference_image_correlation"], -1, atol=1e-5)
    np.testing.assert_allclose(found["tau_departure_onset_apex"], [1, np.nan])
    np.testing.assert_allclose(found["tau_departure_apex_offset"], [1 / 3, np.nan], atol=1e-6)
    np.testing.assert_allclose(found["tau_departure_event"], [7 / 15] * 2, atol=1e-6)
    np.testing.assert_allclose(found["tau_rising"], [2 * 6 / 10 - 1, np.nan], atol=1e-6)
    early = dict(batch, key_frames=np.array([[1, 3, 11], [1, -1, 11]]))
    found = system.measures(*jax.tree.map(jnp.asarray, (outputs, early)))
    np.testing.assert_allclose(found["tau_rising"], [2 * 2 / 10 - 1, np.nan], atol=1e-6)
    np.testing.assert_allclose(found["tau_intensity"], [abs(1 - 2 * 2 / 10), np.nan], atol=1e-6)


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("model", {"pool": "mean"}, "model.pool"),
        ("model", {"local": "far"}, "model.local"),
        ("model", {"map_size": 12}, "model.map_size"),
        ("model", {"map_size": 4, "segnet": (4,), "segnet_convolutions": (1,), "head": "places", "patch": 2}, "grid"),
        ("model", {"widths": (16,)}, "multiples of 24"),
        ("model", {"depths": (1, 1)}, "as long as"),
        ("model", {"standardise": True, "reference": "first"}, "model.standardise"),
        ("data", {"part": "apex"}, "data.part"),
        ("data", {"frames": 1}, "data.frames"),
        ("data", {"phase": "first", "views": 2}, "data.views"),
    ],
)
def test_mistakes_are_named(part, fields, message) -> None:
    with pytest.raises(UserError, match=message):
        systems.build(changed(settings_of(SMALL), part, **fields), 3)


@pytest.mark.parametrize(
    "labels", ["casme2_5", "samm_5", "casme_squared_3", "casme_squared_4", "casme3_3", "casme3_4", "casme3_7"]
)
def test_label_sets_of_the_paper_resolve(labels) -> None:
    settings = settings_of(labels)
    assert (settings.data.labels, settings.data.protocol, settings.task) == (labels, "loso", "emotion")
    systems.build(settings, int(labels[-1]))


@pytest.mark.parametrize("words", ["", "paper", "released", *(f"casme2_5,{w}" for w in ("paper", "released"))])
def test_every_config_builds(words) -> None:
    settings = settings_of(words)
    assert systems.build(settings, 5).needs.channels == 1
    for rows in config.ROWS.values():
        for fields in rows.values():
            found = config.get_config(words)
            for field, value in fields.items():
                config.common._set(found, field, value, {})
            systems.build(Settings(found.to_dict()), 5)


def test_with_a_reference_only_what_changes_in_a_clip_counts(random_variables: Callable, quick: Callable) -> None:
    """One image added to all frames, ordered ones too, changes no score and no logit; without reference it does."""
    for reference, same in (("first", True), ("none", False)):
        settings = settings_of(f"{SMALL},model.reference={reference}")
        batch = frames_batch(settings)
        batch = {**batch, "frames": 0.5 * batch["frames"], "order_frames": 0.5 * batch["frames"][:, ::-1]}
        module = fdp.build_network(settings, 3)
        variables = random_variables(module, batch)
        added = 0.4 * jax.random.uniform(jax.random.key(1), batch["frames"][:, :1].shape)
        moved = {k: v + added if k.endswith("frames") else v for k, v in batch.items()}
        apply = functools.partial(module.apply, train=False)
        one, two = (quick(apply, variables, x) for x in (batch, moved))
        for name in ("logits", "scores", "order_scores"):
            difference = np.abs(one[name] - two[name]).max() / np.abs(one[name]).max()
            assert (difference < 1e-4) == same, (name, difference)
