"""AKMNet: sizes, clips of any length in one batch, which frames a view takes, losses, measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import akmnet as config
from mer_jax.data.clips import AU_SLOTS
from mer_jax.data.store import ClipStore
from mer_jax.errors import UserError
from mer_jax.settings import Settings
from mer_jax.systems import akmnet, akmnet_measures

SIZE, CLASSES = 32, 3
FRAMES = 4


def system(words: str = "tiny", **fields: Any) -> akmnet.System:
    """The tiny system with changes like model_steps="1+2"."""
    arguments = [words, *(f"{k.replace('__', '.')}={v}" for k, v in fields.items())]
    found = akmnet.build(Settings(config.get_config(",".join(arguments)).to_dict()), CLASSES, 7)
    assert isinstance(found, akmnet.System)
    return found


def shapes(module: Any, frames: int, size: int) -> Any:
    batch = {"frames": jnp.zeros((1, frames, size, size, 1)), "mask": jnp.ones((1, frames), bool)}
    return jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), batch, False))


def count(tree: Any) -> int:
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(("classes", "total"), [(4, 11_296_965), (3, 11_295_940)])
def test_published_sizes(classes: int, total: int) -> None:
    settings = Settings(config.get_config("paper").to_dict())
    outputs, variables = shapes(akmnet.build_network(settings, classes), 6, 128)
    parts = {name: count(tree) for name, tree in variables["params"].items()}
    assert sum(parts.values()) == total
    assert parts == {
        "backbone": 11_168_704, "attention": 513, "gru": 123_648, "classifier": 1024 * classes + classes
    }  # fmt: skip
    assert {k: v.shape for k, v in outputs.items()} == {
        "logits": (1, classes), "kept": (1, 6), "scores": (1, 6), "gate": (1, 6)
    }  # fmt: skip


def test_maps_of_a_full_clip_are_512_channels_on_a_grid_of_4() -> None:
    module = akmnet.build_network(Settings(config.get_config("paper").to_dict()), 4)
    _, variables = shapes(module, 6, 128)
    frames, mask = jnp.zeros((1, 6, 128, 128, 1)), jnp.ones((1, 6), bool)
    maps = jax.eval_shape(lambda v: module.apply(v, frames, mask, False, method="maps"), variables)
    assert maps.shape == (1, 6, 4, 4, 512)


def clips() -> dict[str, jax.Array]:
    """Two clips of FRAMES frames in one batch; the padding is noise, and lies before and between frames too."""
    rng = np.random.default_rng(0)
    frames = rng.uniform(size=(2, 6, SIZE, SIZE, 1)).astype(np.float32)
    mask = np.array([[1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 0, 1]], bool)
    return {"frames": jnp.asarray(frames), "mask": jnp.asarray(mask), "label": jnp.array([2, 0])}


def alone(batch: dict[str, jax.Array], i: int) -> dict[str, jax.Array]:
    """Clip i without its padding, a batch of its own."""
    frames = batch["frames"][i][batch["mask"][i]][None]
    return {"frames": frames, "mask": jnp.ones(frames.shape[:2], bool), "label": batch["label"][i : i + 1]}


@pytest.fixture(scope="module")
def trained(random_variables: Callable, quick: Callable) -> Any:
    """The network without dropout, variables, and outputs, gradients, statistics of a training pass of `clips`."""
    own = system(model__dropout=0.0, model__statistics="clip", model__convolution="direct")
    module = own.finetune.module
    variables = random_variables(module, clips())

    def run(batch: Any, stats: Any) -> Any:
        def loss(params: Any) -> Any:
            outputs, changed = module.apply(
                {"params": params, "batch_stats": stats}, batch, True, mutable=["batch_stats"]
            )
            return own.objective(outputs, batch)[0].mean(), (outputs, changed["batch_stats"])

        (value, (outputs, changed)), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        return value, outputs, gradient, changed

    return own, module, variables, run, quick(run, clips(), variables["batch_stats"])


def test_a_padded_batch_trains_as_one_clip_at_a_time(trained: Any, quick: Callable) -> None:
    """Loss, selection, added-up gradients and the running averages after clip 1, then 2."""
    *_, variables, run, (value, outputs, gradient, stats) = trained
    own, values, gradients = variables["batch_stats"], [], []
    for i in range(2):
        batch = alone(clips(), i)
        one, found, slope, own = quick(run, batch, own)
        values.append(float(one))
        gradients.append(slope)
        assert found["kept"].shape == (1, FRAMES)
        np.testing.assert_array_equal(outputs["kept"][i][clips()["mask"][i]], found["kept"][0])
        assert not np.asarray(outputs["kept"][i])[~np.asarray(clips()["mask"][i])].any()
        np.testing.assert_allclose(outputs["logits"][i], found["logits"][0], atol=1e-4)
    np.testing.assert_allclose(value, np.mean(values), rtol=1e-5)
    mean = jax.tree.map(lambda *g: sum(g) / 2, *gradients)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(mean), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4 * max(float(jnp.abs(b).max()), 1e-3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), stats, own)


def test_the_gru_reads_kept_frames_alone_and_in_order(trained: Any, quick: Callable) -> None:
    _, module, variables, _, _ = trained
    outputs = quick(lambda b: module.apply(variables, b, False), clips())
    maps = quick(lambda b: module.apply(variables, b["frames"], b["mask"], False, method="maps"), clips())
    kept = np.asarray(outputs["kept"][0])
    assert 1 <= kept.sum() < FRAMES
    keys = maps[:1, kept]

    def classify(maps: jax.Array) -> jax.Array:
        return module.apply(variables, maps, jnp.ones(maps.shape[:2], bool), False, method="classify")

    np.testing.assert_allclose(quick(classify, keys)[0], outputs["logits"][0], atol=1e-5)
    if kept.sum() > 1:
        assert float(jnp.abs(quick(classify, keys[:, ::-1])[0] - outputs["logits"][0]).max()) > 1e-4


def test_permuted_frames_are_scored_the_same(trained: Any, quick: Callable) -> None:
    _, module, variables, _, _ = trained
    run = lambda b: module.apply(variables, b, False)  # noqa: E731
    order, batch = np.random.default_rng(1).permutation(6), clips()
    plain = quick(run, batch)
    mixed = quick(run, {**batch, "frames": batch["frames"][:, order], "mask": batch["mask"][:, order]})
    np.testing.assert_allclose(mixed["scores"], plain["scores"][:, order], atol=1e-6)
    np.testing.assert_array_equal(mixed["kept"], plain["kept"][:, order])


@pytest.mark.parametrize("steps", akmnet.MINING)
def test_steps_can_be_left_out(steps: str) -> None:
    own = system(ft__mining=steps)
    module = own.finetune.module
    _, variables = shapes(module, 6, SIZE)
    assert ("attention" in variables["params"]) == ("1" in steps)
    pooled, mask = jnp.asarray(np.random.default_rng(2).uniform(size=(2, 6, 32)), jnp.float32), clips()["mask"]
    params = {"params": {"attention": {"linear": {"kernel": pooled[0, 0, :, None], "bias": jnp.full(1, -7.0)}}}}
    mined = module.apply(params, pooled, mask, method="mine")
    a = jax.nn.sigmoid(pooled @ pooled[0, 0] - 7)
    weights = a if "1" in steps else jnp.ones_like(a)
    whole = jnp.einsum("bt,btc->bc", jnp.where(mask, weights, 0), pooled)
    norms = jnp.linalg.norm(pooled, axis=-1) * jnp.linalg.norm(whole, axis=-1)[:, None]
    scores = jnp.einsum("btc,bc->bt", pooled, whole) / norms if "2" in steps else a
    if steps == "none":
        assert mined == {}
    else:
        np.testing.assert_allclose(mined["scores"][mask], scores[mask], rtol=1e-5)
    if "3" in steps:
        mean = jnp.where(mask, scores, 0).sum(1) / FRAMES
        np.testing.assert_array_equal(mined["gate"], (scores > mean[:, None]) & mask)
    elif steps == "1+2":
        np.testing.assert_array_equal(mined["gate"], mined["scores"])
    logits = jnp.zeros((2, CLASSES))
    loss, terms = own.objective({"logits": logits, "kept": mask, **mined}, clips())
    assert ("L_MMM" in terms) == ("L_GS" in terms) == ("3" in steps)
    total = terms["cross_entropy"] + (0.1 * terms["L_GS"] + terms["L_MMM"] if "3" in steps else 0)
    np.testing.assert_allclose(loss, total, rtol=1e-6)


def test_stills_of_macro_expressions_come_first(quick: Callable) -> None:
    own = system()
    assert own.pretrain is not None
    assert own.finetune.carry == ("backbone", "gru")
    frames = np.random.default_rng(4).uniform(size=(2, 40, 36, 3)).astype(np.float32)
    pair = {"first": frames[0], "second": frames[1], "label": jnp.int32(6), "weight": jnp.ones(())}
    plain = own.pretrain_view(pair, jax.random.key(0), False)
    assert {k: v.shape for k, v in plain.items()} == {
        "frames": (1, SIZE, SIZE, 1), "mask": (1,), "label": (), "weight": ()
    }  # fmt: skip
    grey = frames[1, 4:36, 2:34] @ np.array([0.299, 0.587, 0.114], np.float32)
    np.testing.assert_allclose(plain["frames"][0, ..., 0], grey, rtol=1e-5)
    moved = own.pretrain_view(pair, jax.random.key(1), True)
    assert float(jnp.abs(moved["frames"] - plain["frames"]).max()) > 1e-2
    before = shapes(own.pretrain.module, 1, SIZE)
    after = shapes(own.finetune.module, 6, SIZE)
    assert before[0]["logits"].shape == (1, 7)
    for part in own.finetune.carry:
        assert jax.tree.map(jnp.shape, before[1]["params"][part]) == jax.tree.map(jnp.shape, after[1]["params"][part])
    released = system("released", init_from="some_run")
    assert released.pretrain is None
    assert released.finetune.carry == ("backbone", "attention", "gru")
    assert system("released").finetune.carry == ()
    with pytest.raises(UserError, match="found 1 macro classes; expected at least 2"):
        akmnet.build(Settings(config.get_config("tiny").to_dict()), 3, 1)


# -- views -------------------------------------------------------------------------------------------------------------

FPS, TOTAL, ONSET, OFFSET = (100.0, 50.0, 100.0, 200.0), (12, 9, 5, 40), (2, 1, 0, 5), (9, 6, 4, 35)


def store() -> ClipStore:
    """Four clips; every pixel of frame t of clip k is 50 k + t."""
    frames = np.concatenate([np.arange(n) + 50 * k for k, n in enumerate(TOTAL)])
    pixels = np.broadcast_to(frames[:, None, None, None], (len(frames), SIZE, SIZE, 1)).astype(np.uint8)
    integers = {
        "start": np.cumsum((0, *TOTAL))[:-1], "length": TOTAL, "onset": ONSET, "offset": OFFSET, "true_onset": ONSET,
        "true_offset": OFFSET, "apex": (-1, 3, 2, 20), "true_apex": (5, 3, 2, 20), "modality": (1,) * 4,
        "label": (0, 1, 2, 0),
    }  # fmt: skip
    arrays = {name: np.array(values, np.int32) for name, values in integers.items()}
    units = np.full((4, AU_SLOTS), -1, np.int8)
    return ClipStore(
        frames=pixels, fps=np.array(FPS, np.float32), action_units=units, landmarks=np.zeros((0, 68, 2)), motion={},
        **arrays,
    )  # fmt: skip


def seen(own: akmnet.System, length: int) -> tuple[list[np.ndarray], Any]:
    """Numbers of the valid frames within each clip, and the examples, as evaluation sees them."""
    arrays = jax.tree.map(jnp.asarray, store())
    examples = jax.jit(jax.vmap(lambda i: own.view(arrays, i, jnp.int32(0), False, length)))(jnp.arange(4))
    assert examples["frames"].shape == (4, length, SIZE, SIZE, 1)
    masks = np.asarray(examples["mask"])
    np.testing.assert_array_equal(masks, np.sort(masks)[:, ::-1])
    numbers = np.asarray(examples["frames"])[:, :, 5, 7, 0] * 255 - 50 * np.arange(4)[:, None]
    return [n[m] for n, m in zip(numbers, masks, strict=True)], examples


def test_views_hold_the_frames_between_onset_and_offset() -> None:
    own = system(ft__fps=0.0, ft__buckets=4, ft__batch=1)
    assert own.buckets(store()).lengths == (5, 6, 8, 31)
    numbers, examples = seen(own, 32)
    for found, at, onset, offset in zip(numbers, examples["position"], ONSET, OFFSET, strict=True):
        np.testing.assert_allclose(found, np.arange(onset, offset + 1), atol=1e-4)
        np.testing.assert_array_equal(at[: len(found)], np.arange(onset, offset + 1))
    short, _ = seen(own, 6)
    np.testing.assert_array_equal(short[1], numbers[1])
    whole = system(ft__fps=0.0, ft__extent="whole")
    np.testing.assert_allclose(seen(whole, 10)[0][1], np.arange(9), atol=1e-4)
    assert (whole.oracle_inputs, own.oracle_inputs) == ("none", "boundaries")


def test_slower_rates_take_the_nearest_frames() -> None:
    own = system(ft__fps=50.0, ft__buckets=4, ft__batch=1)
    expected = [np.arange(2, 10, 2), np.arange(1, 7), np.arange(0, 5, 2), np.arange(5, 36, 4)]
    buckets = own.buckets(store())
    assert buckets.lengths == (3, 4, 6, 8)
    for bucket, found, frames in zip(buckets.of_clip, seen(own, 9)[0], expected, strict=True):
        assert buckets.lengths[bucket] == len(frames)
        np.testing.assert_allclose(found, frames, atol=1e-4)
    odd = system(ft__fps=30.0)
    np.testing.assert_allclose(seen(odd, 9)[0][3], 5 + np.round(np.arange(5) * 20 / 3), atol=1e-4)
    unknown = store().replace(fps=np.array([100, np.nan, 100, 100], np.float32))
    with pytest.raises(UserError, match=r"ft.fps counts in milliseconds, but clip 'number 1'"):
        own.buckets(unknown)


def test_temporal_interpolation_has_one_length() -> None:
    own = system(ft__mining="none", ft__frames=16, ft__fps=0.0)
    assert own.buckets(store()).lengths == (16,)
    numbers, examples = seen(own, 16)
    np.testing.assert_allclose(numbers[0], np.linspace(2, 9, 16), atol=1e-4)
    np.testing.assert_allclose(examples["position"][0], np.linspace(2, 9, 16), rtol=1e-6)


def test_random_frames_are_in_order_without_repetition_and_new_each_time() -> None:
    own = system(ft__mining="none", ft__random_share=0.5, ft__fps=0.0, ft__crop_p=0.0)
    assert own.buckets(store()).lengths[-1] == 16
    arrays, keys = jax.tree.map(jnp.asarray, store()), jax.random.split(jax.random.key(0), 40)
    examples = jax.jit(jax.vmap(lambda k: own.view(arrays, jnp.int32(3), k, True, 17)))(keys)
    np.testing.assert_array_equal(examples["mask"], np.tile(np.arange(17) < 16, (40, 1)))
    draws = np.asarray(examples["frames"])[:, :16, 5, 7, 0] * 255 - 150
    draws = draws.round().astype(int)
    assert (np.diff(draws, axis=1) > 0).all()
    assert set(draws.ravel()) == set(range(5, 36))
    assert len(set(map(tuple, draws))) == 40
    # evaluation draws once, however much is padded
    np.testing.assert_array_equal(seen(own, 17)[0][3], seen(own, 16)[0][3])


def test_crops_are_those_of_enlarged_frames() -> None:
    frames = np.random.default_rng(3).uniform(size=(2, SIZE, SIZE, 1)).astype(np.float32)
    larger = np.stack([cv2.resize(f, (36, 36), interpolation=cv2.INTER_LINEAR) for f in frames])[..., None]
    places, crop = set(), jax.jit(lambda key, p: akmnet._crop(jnp.asarray(frames), key, 1.125, p))
    for k in range(12):
        found = np.asarray(crop(jax.random.key(k), 1.0))
        match = [
            (y, x) for y in range(5) for x in range(5)
            if np.abs(larger[:, y : y + SIZE, x : x + SIZE] - found).max() < 1e-4
        ]  # fmt: skip
        assert len(match) == 1
        places.add(match[0])
    assert len(places) > 4
    np.testing.assert_array_equal(crop(jax.random.key(0), 0.0), frames)
    taken = [bool((np.asarray(crop(jax.random.key(k), 0.5)) != frames).any()) for k in range(12)]
    assert 0 < sum(taken) < 12


# -- measures ----------------------------------------------------------------------------------------------------------


def test_measures_of_a_clip_by_hand(quick: Callable) -> None:
    """Ten frames, every second one of the recording: event at positions 6..12 (frames 3..6), apex at 9."""
    values = np.array([[0, 0, 1, 1, 5, 6, 6, 9, 9, 9, 50, 90]], np.float32)
    batch = {
        "frames": jnp.asarray(values)[..., None, None, None],
        "mask": jnp.arange(12)[None] < 10,
        "position": 2.0 * jnp.arange(12)[None],
        "true_onset": jnp.array([6]), "true_apex": jnp.array([9]), "true_offset": jnp.array([12]),
        "fps": jnp.array([200.0]),
    }  # fmt: skip
    scores = jnp.array([[0, 0, 0, 0.5, 0, 0.6, 0.7, 0, 0, 0.9, 5, 5]])
    kept = jnp.isin(jnp.arange(12), jnp.array([3, 5, 6, 9]))[None]
    found = {k: float(v[0]) for k, v in quick(akmnet_measures.measures, scores, kept, batch).items()}
    expected = {
        "keys_precision": 3 / 4, "keys_recall": 3 / 4, "keys_youden": 3 / 4 - 1 / 6, "keys_apex": 0,
        "keys_frames": 9, "keys_ms": 45,
        "random_precision": 0.4, "random_recall": 0.4, "random_youden": 0, "random_apex": 0.4,
        "random_frames": np.abs(2 * np.arange(10) - 9).mean(),
        # frames 3..6 are the middle ones
        "centre_precision": 1, "centre_recall": 1, "centre_youden": 1, "centre_apex": 1, "centre_frames": 1,
        # changes 4 (frame 4), 3 (7), 1 (2), 1 (5)
        "motion_precision": 2 / 4, "motion_recall": 2 / 4, "motion_youden": 2 / 4 - 2 / 6, "motion_apex": 1,
        "motion_frames": 1, "motion_ms": 5,
        # 7, 8, 9, then the earlier of 5 and 6
        "departure_precision": 1 / 4, "departure_recall": 1 / 4, "departure_youden": 1 / 4 - 3 / 6,
        "departure_apex": 0, "departure_frames": 5,
    }  # fmt: skip
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name


def test_what_is_unknown_is_not_measured(quick: Callable) -> None:
    batch = {
        "frames": jnp.zeros((2, 4, 2, 2, 1)), "mask": jnp.ones((2, 4), bool),
        "position": jnp.tile(jnp.arange(4.0), (2, 1)), "fps": jnp.array([100.0, jnp.nan]),
        **{f"true_{k}": jnp.array([-1, v]) for k, v in (("onset", 0), ("apex", 2), ("offset", 3))},
    }  # fmt: skip
    found = quick(akmnet_measures.measures, jnp.ones((2, 4)), jnp.ones((2, 4), bool), batch)
    assert all(np.isnan(v[0]) for v in found.values())
    unknown = {k.split("_")[1] for k, v in found.items() if np.isnan(v[1])}
    assert unknown == {"ms", "youden"}  # no rate; no frame outside the event
    less = jax.eval_shape(lambda: akmnet_measures.measures(jnp.ones((2, 4)), None, batch))
    assert {k.split("_")[1] for k in less} == {"ms", "frames"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ft__mining": "1+2+4"}, "ft.mining: found '1.2.4'"),
        ({"data__size": 40}, "data.size: found 40; expected a multiple of model.stride = 16"),
        ({"model__stride": 8}, "model.stride: found 8; expected one of 32, 16"),
        ({"ft__frames": 16}, "ft.fps and ft.random_share have to be 0"),
        ({"ft__random_share": 1.0}, "ft.random_share: found 1.0"),
        ({"model__statistics": "group"}, "model.statistics"),
        ({"ft__zoom": 0.9}, "ft.zoom: found 0.9"),
        ({"pre__objective": "reconstruct"}, "pre.objective: found 'reconstruct'"),
        ({"ft__random_share": 1.5}, "ft.random_share: found 1.5"),
    ],
)
def test_mistakes_are_named(fields: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        system(**fields)


def test_action_units_are_an_option() -> None:
    fields = config.get_config("tiny,synthetic_au").to_dict()
    fields["data"]["action_units"] = (4, 6, 12)
    own = akmnet.build(Settings(fields), 3, 7)
    arrays = jax.tree.map(jnp.asarray, store())
    example = jax.eval_shape(lambda key: own.view(arrays, jnp.int32(0), key, True, 5), jax.random.key(0))
    assert example["action_units"].shape == (3,)
    assert "label" not in example
    outputs = {name: jnp.ones((1, 5)) for name in ("scores", "gate", "kept")} | {"logits": jnp.zeros((1, 3))}
    batch = {"action_units": jnp.array([[1, 0, -1]]), "mask": jnp.ones((1, 5), bool)}
    loss, _ = own.objective(outputs, batch)
    np.testing.assert_allclose(loss, np.log(2) + 0.1 * 4 + 2, rtol=1e-6)
