"""What MA2MI looks at in a clip or a pair, and the losses of recognition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax import systems
from mer_jax.data.clips import AU_SLOTS
from mer_jax.data.store import ClipStore
from mer_jax.systems import objectives


@pytest.fixture(scope="module")
def store() -> ClipStore:
    """Three clips of 20 frames whose frame t is t grey levels bright, over a pattern; the apex of clip 2 is unknown."""
    pattern = np.random.default_rng(0).integers(0, 150, (32, 32, 3))
    frames = pattern + np.arange(60)[:, None, None, None]
    units = np.full((3, AU_SLOTS), -1, np.int8)
    units[:, 4], units[:, 12] = [1, 0, -1], [0, 1, 1]
    return ClipStore(
        frames=jnp.asarray(frames, jnp.uint8),
        start=jnp.array([0, 20, 40]),
        length=jnp.array([20, 20, 20]),
        fps=jnp.full(3, 100.0),
        onset=jnp.array([2, 1, 0]),
        apex=jnp.array([10, 13, -1]),
        offset=jnp.array([18, 19, 8]),
        true_onset=jnp.full(3, -1),
        true_apex=jnp.full(3, -1),
        true_offset=jnp.full(3, -1),
        modality=jnp.zeros(3, jnp.int32),
        label=jnp.array([0, 3, 1]),
        action_units=jnp.asarray(units),
        landmarks=jnp.zeros((0, 68, 2)),
        motion={},
    )


def test_evaluation_view_is_onset_and_apex(store: ClipStore, make_settings: Callable) -> None:
    system = systems.build(make_settings(), 5)
    for clip, (onset, apex) in enumerate([(2, 10), (21, 33), (40, 44)]):  # the middle stands in for an unknown apex
        example = system.view(store, jnp.int32(clip), jnp.int32(0), False)
        np.testing.assert_allclose(example["first"] * 255, store.frames[onset], atol=1e-3)
        np.testing.assert_allclose(example["second"] * 255, store.frames[apex], atol=1e-3)
        assert int(example["label"]) == int(store.label[clip])
    assert system.n_views == 1
    assert system.oracle_inputs == "boundaries+apex"


def test_training_view_jitters_inwards(store: ClipStore, make_settings: Callable) -> None:
    """Clip 0 with a jitter of 1/4: onset in 2..4, apex in 8..10, both ends drawn."""
    still = {"flip_p": 0.0, "rotate_deg": 0.0, "shift_px": 0, "brightness": 0.0, "contrast": 0.0}
    system = systems.build(make_settings(ft={"augment": still, "jitter": 0.25}), 5)
    keys = jax.random.split(jax.random.key(0), 64)
    batch = jax.jit(jax.vmap(lambda k: system.view(store, jnp.int32(0), k, True)))(keys)
    for name, expected in (("first", {2, 3, 4}), ("second", {8, 9, 10})):
        frames = np.asarray(batch[name]) * 255 - np.asarray(store.frames[0], np.float32)
        assert np.ptp(frames, axis=(1, 2, 3)).max() < 1e-3
        assert set(frames[:, 0, 0, 0].round().astype(int).tolist()) == expected


STRONG = {"flip_p": 0.5, "rotate_deg": 10.0, "shift_px": 6, "brightness": 0.3, "contrast": 0.3}


def test_augmentation_adds_no_motion(store: ClipStore, make_settings: Callable) -> None:
    """An identical pair stays identical to the bit, under every draw, in both stages."""
    system = systems.build(make_settings(ft={"augment": STRONG}, pre={"augment": STRONG}), 5)
    still = store.replace(frames=jnp.broadcast_to(store.frames[:1], store.frames.shape))
    keys = jax.random.split(jax.random.key(1), 64)
    batch = jax.jit(jax.vmap(lambda k: system.view(still, jnp.int32(1), k, True)))(keys)
    np.testing.assert_array_equal(batch["first"], batch["second"])
    assert np.ptp(np.asarray(batch["first"]), axis=0).max() > 0.1  # the draws differ
    frame = jnp.asarray(store.frames[0], jnp.float32) / 255
    example = {"before": frame, "first": frame, "second": frame, "label": jnp.int32(2)}
    pairs = jax.jit(jax.vmap(lambda k: system.pretrain_view(example, k, True)))(keys)
    np.testing.assert_array_equal(pairs["first"], pairs["second"])
    np.testing.assert_array_equal(pairs["first"], pairs["before"])
    assert np.ptp(np.asarray(pairs["first"]), axis=0).max() > 0.1
    assert (np.asarray(pairs["label"]) == 2).all()


def test_pretraining_view_crops_the_middle_in_evaluation(store: ClipStore, make_settings: Callable) -> None:
    system = systems.build(make_settings(data={"size": 16}), 5)
    frames = jnp.asarray(store.frames[:2], jnp.float32) / 255
    example = system.pretrain_view({"first": frames[0], "second": frames[1]}, jax.random.key(0), False)
    np.testing.assert_array_equal(example["first"], frames[0, 8:24, 8:24])
    np.testing.assert_array_equal(example["second"], frames[1, 8:24, 8:24])
    assert system.needs.size == 16


def test_views_are_combined_as_mean_probabilities(make_settings: Callable) -> None:
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25]], [[0.1, 0.1, 0.8]]]))
    combined = systems.build(make_settings(), 3).combine(logits)
    np.testing.assert_allclose(combined, [[0.3, 0.175, 0.525]], rtol=1e-5)
    au = systems.build(make_settings(task="au", data={"action_units": (1, 2, 4)}), 3).combine(jnp.zeros((2, 1, 3)))
    np.testing.assert_allclose(au, [[0.5, 0.5, 0.5]])


def test_action_unit_task(store: ClipStore, make_settings: Callable) -> None:
    system = systems.build(make_settings(task="au", data={"action_units": (4, 12)}), 2)
    units = [system.view(store, jnp.int32(i), jnp.int32(0), False)["action_units"].tolist() for i in range(3)]
    assert units == [[1, 0], [0, 1], [-1, 1]]
    logits = np.array([[2.0, -1.0], [0.5, 3.0], [9.0, 1.0]])
    outputs, batch = {"logits": jnp.asarray(logits)}, {"action_units": jnp.asarray(units)}
    loss, terms = system.finetune.objective(outputs, batch)
    p = 1 / (1 + np.exp(-logits))
    expected = [
        -(np.log(p[0, 0]) + np.log(1 - p[0, 1])) / 2,
        -(np.log(1 - p[1, 0]) + np.log(p[1, 1])) / 2,
        -np.log(p[2, 1]),  # the unknown unit counts neither way
    ]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert set(terms) == {"action_unit_cross_entropy"}
    unknown: Any = {"action_units": jnp.full((1, 2), -1)}
    assert float(objectives.action_unit_cross_entropy({"logits": jnp.ones((1, 2))}, unknown)[0][0]) == 0


def test_cross_entropy_skips_what_has_no_label() -> None:
    logits = np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 5.0]])
    loss, _ = objectives.cross_entropy({"logits": jnp.asarray(logits)}, {"label": jnp.array([1, -1])})
    np.testing.assert_allclose(loss, [np.log(np.exp(logits[0]).sum()) - 2.0, 0.0], rtol=1e-5)
