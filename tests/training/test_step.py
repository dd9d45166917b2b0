import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.training import draws, optimizer, step
from mer_jax.training.optimizer import OptimizerSettings
from mer_jax.training.state import TrainState, carry_over
from tests.training import toy


def _setup(**settings):
    system = toy.ToySystem(optimizer=OptimizerSettings(**settings))
    tx = optimizer.build(system.finetune.optimizer, 100, 10)
    store = jax.tree.map(jnp.asarray, toy.store())
    batch = jax.vmap(lambda i: system.view(store, i, jax.random.key(0), False))(jnp.arange(8))
    variables = step.initial_variables(system.finetune, batch, jax.random.key(1))
    return system, tx, batch, TrainState.create(variables, tx, system.finetune.optimizer.ema)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_step_of_weight_zero_changes_nothing(name):
    system, tx, batch, state = _setup(name=name, learning_rate=0.1, weight_decay=0.1, ema=0.5)
    run = jax.jit(step.make_step(system.finetune, tx))
    same, metrics = run(state, {**batch, "weight": jnp.zeros(8)}, jax.random.key(0))
    for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)
    changed, _ = run(state, {**batch, "weight": jnp.ones(8)}, jax.random.key(0))
    assert metrics["weight"] == 0
    assert not np.array_equal(changed.params["head"]["kernel"], state.params["head"]["kernel"])
    assert not np.array_equal(
        changed.collections["batch_stats"]["encoder"]["BatchNorm_0"]["mean"],
        state.collections["batch_stats"]["encoder"]["BatchNorm_0"]["mean"],
    )


def test_weights_select_the_examples_that_the_loss_averages():
    system, tx, batch, state = _setup(name="sgd", learning_rate=0.1)
    run = step.make_step(system.finetune, tx)
    weight = jnp.array([1, 0, 2, 0, 0, 0, 0, 1.0])
    _, metrics = run(state, {**batch, "weight": weight}, jax.random.key(0))
    outputs, _ = system.finetune.module.apply(state.variables, batch, True, mutable=["batch_stats"])
    loss, _ = system.finetune.objective(outputs, batch)
    np.testing.assert_allclose(metrics["loss"], (loss[0] + 2 * loss[2] + loss[7]) / 4, rtol=1e-6)


def test_the_moving_average_follows_the_parameters():
    system, tx, batch, state = _setup(name="sgd", learning_rate=0.1, ema=0.75)
    new, _ = step.make_step(system.finetune, tx)(state, batch, jax.random.key(0))
    old, after, average = (s["head"]["kernel"] for s in (state.params, new.params, new.ema))
    np.testing.assert_allclose(average, 0.75 * old + 0.25 * after, rtol=1e-6)
    assert new.final_variables["params"] is new.ema


def test_groups_scale_and_freeze():
    reference, tx, batch, state = _setup(name="sgd", learning_rate=0.1, b1=0.0)
    plain, _ = step.make_step(reference.finetune, tx)(state, batch, jax.random.key(0))
    groups = (("encoder/Conv_0", 0.0), ("encoder", 0.5))
    system, tx, batch, state = _setup(name="sgd", learning_rate=0.1, b1=0.0, groups=groups)
    grouped, _ = step.make_step(system.finetune, tx)(state, batch, jax.random.key(0))

    def moved(new, *path):
        a, b = new.params, state.params
        for key in path:
            a, b = a[key], b[key]
        return np.asarray(a - b)

    assert not moved(grouped, "encoder", "Conv_0", "kernel").any()
    norm = ("encoder", "BatchNorm_0", "scale")
    np.testing.assert_allclose(moved(grouped, *norm), 0.5 * moved(plain, *norm), atol=1e-7)
    head = ("head", "kernel")
    np.testing.assert_allclose(moved(grouped, *head), moved(plain, *head), atol=1e-7)


def test_schedules_have_their_closed_forms():
    def rates(**settings):
        schedule = optimizer.learning_rate(OptimizerSettings(learning_rate=2.0, **settings), 100, 10)
        return [float(schedule(s)) for s in (0, 9, 10, 35, 99, 100)]

    expected = [2 * 0.5 ** min(s // 10, 3) for s in (0, 9, 10, 35, 99, 100)]
    np.testing.assert_allclose(rates(schedule="exponential", decay=0.5, decay_epochs=3), expected, rtol=1e-6)
    cosine = [0.2 + 1.8 * (1 + np.cos(np.pi * s / 100)) / 2 for s in (0, 9, 10, 35, 99, 100)]
    np.testing.assert_allclose(rates(schedule="cosine", final_learning_rate=0.2), cosine, rtol=1e-5)
    warm = rates(schedule="constant", warmup_steps=10)
    np.testing.assert_allclose(warm, [0, 1.8, 2, 2, 2, 2], rtol=1e-6)
    # whole epochs 0, 0, 1, 3, 9, 10 of a wave that is down after 2 and up again after 4
    waves = rates(schedule="oscillating", cycle_epochs=2, final_learning_rate=0.5)
    np.testing.assert_allclose(waves, [2, 2, 1.25, 1.25, 1.25, 0.5], rtol=1e-6)
    found = optimizer.learning_rate(OptimizerSettings(learning_rate=2.0, schedule="step", decay=0.1, parts=5), 2500, 31)
    at = [0, 499, 500, 1999, 2000, 2499]  # 0.01, divided by 10 every 500 of 2,500 iterations: the schedule of ATNet
    np.testing.assert_allclose([found(s) for s in at], [2, 2, 0.2, 2e-3, 2e-4, 2e-4], rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_weight_decay_joins_the_gradient_before_the_moments(name):
    params, gradient = {"w": jnp.array([2.0, -1.0])}, {"w": jnp.array([0.3, 0.5])}
    decayed = optimizer.build(OptimizerSettings(name=name, learning_rate=0.1, weight_decay=0.2), 10, 10)
    plain = optimizer.build(OptimizerSettings(name=name, learning_rate=0.1), 10, 10)
    by_hand = jax.tree.map(lambda g, p: g + 0.2 * p, gradient, params)
    found, _ = decayed.update(gradient, decayed.init(params), params)
    expected, _ = plain.update(by_hand, plain.init(params), params)
    np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-6)


def test_carry_over_takes_named_modules_and_names_what_does_not_fit():
    fresh = {
        "params": {"encoder": {"w": np.zeros(2)}, "head": {"w": np.zeros(3)}},
        "batch_stats": {"encoder": {"m": 0.0 * np.ones(1)}},
    }
    previous = {
        "params": {"encoder": {"w": np.ones(2)}, "decoder": {"w": np.ones(3)}},
        "batch_stats": {"encoder": {"m": np.ones(1)}},
    }
    merged, report = carry_over(fresh, previous, ("encoder",))
    assert merged["params"]["encoder"]["w"].all()
    assert merged["batch_stats"]["encoder"]["m"].all()
    assert not merged["params"]["head"]["w"].any()
    assert report == {
        "loaded": ["params/encoder", "batch_stats/encoder"],
        "fresh": ["params/head"],
        "ignored": ["params/decoder"],
    }
    previous["params"]["encoder"] = {"w": np.ones(5), "b": np.ones(1)}
    with pytest.raises(ValueError, match=r"'b'\] unknown; .*'w'\] \(5,\) instead of \(2,\)"):
        carry_over(fresh, previous, ("encoder",))


def test_a_fold_draws_its_own_clips_each_once_an_epoch():
    mask = np.zeros(23, bool)
    mask[[1, 4, 5, 9, 11, 20, 22]] = True
    key, batch = draws.fold_key(0, "p1"), 5
    epochs = draws.epochs_touched(batch, int(mask.sum()))
    drawn = jax.vmap(lambda s: draws.permutation_batch(jnp.asarray(mask), key, s, batch, epochs))(jnp.arange(14))
    order = np.asarray(drawn).ravel().reshape(10, 7)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.flatnonzero(mask), (10, 1)))
    assert len({tuple(row) for row in order}) > 5  # reshuffled


@pytest.mark.parametrize(("clips", "batch"), [(1, 8), (3, 8), (8, 8), (9, 8)])
def test_batches_are_full_whatever_the_size_of_the_set(clips, batch):
    mask = jnp.arange(12) < clips
    epochs = draws.epochs_touched(batch, clips)
    drawn = np.concatenate([draws.permutation_batch(mask, jax.random.key(0), s, batch, epochs) for s in range(clips)])
    np.testing.assert_array_equal(np.bincount(drawn, minlength=12), np.where(mask, batch, 0))


def test_balanced_draws_give_every_class_its_share():
    label = np.array([0] * 12 + [1] * 3 + [2] * 5)
    mask = np.ones(20, bool)
    mask[[0, 1, 12]] = False
    drawn = jax.vmap(lambda s: draws.balanced_batch(jnp.asarray(mask), jnp.asarray(label), jax.random.key(0), s, 64))(
        jnp.arange(50)
    )
    drawn = np.asarray(drawn).ravel()
    assert mask[drawn].all()
    np.testing.assert_allclose(np.bincount(label[drawn]) / drawn.size, 1 / 3, atol=0.03)
