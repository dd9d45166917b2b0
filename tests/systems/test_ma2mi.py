"""The MA2MI pretext: identity at the start, gradients, controls, targets, constants, transfer to recognition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax import systems
from mer_jax.errors import UserError
from mer_jax.nn.autoencoder import ConvAutoencoder, reconstruction_loss
from mer_jax.systems import ma2mi, miacnet
from mer_jax.systems.base import Stage
from mer_jax.training.state import carry_over


def pretext(make_settings: Callable, **pre: Any) -> Any:
    return ma2mi.build_pretext(make_settings(pre=pre))


@pytest.fixture(scope="module")
def fresh(make_settings: Callable, make_batch: Callable) -> tuple[Any, Any]:
    """A pretext as it starts, with its variables."""
    module = pretext(make_settings)
    batch = make_batch(32, 4)
    variables = jax.jit(lambda k: module.init({"params": k, "dropout": k}, batch, False))
    return module, variables(jax.random.key(0))


@pytest.fixture(scope="module")
def trained(make_settings: Callable, make_batch: Callable, random_variables: Callable) -> tuple[Any, Any, Any, Any]:
    """A pretext with random weights everywhere: module, variables, batch, and batch -> {action: prediction}."""
    module, batch = pretext(make_settings), make_batch(32, 4)
    variables = random_variables(module, batch)

    def predict(batch: Any) -> dict[str, Any]:
        actions = ("own", "shuffled", "null")
        return {action: module.apply(variables, batch, False, action)["prediction"] for action in actions}

    return module, variables, batch, jax.jit(predict)


def test_paper_size_shapes(make_settings: Callable, shapes: Callable, make_batch: Callable) -> None:
    settings = make_settings(
        data={"size": 224},
        model={"width": 1.0, "position_depth": 2},
        pre={"dec_dim": 384, "dec_depth": 6, "dec_heads": 6, "bottleneck": 64},
    )
    module, batch = ma2mi.build_pretext(settings), make_batch(224, 2)
    variables = shapes(module, batch)
    out = jax.eval_shape(lambda v, b: module.apply(v, b, False), variables, batch)
    assert out["latent"].shape == out["target"].shape == out["prediction"].shape == (2, 28, 28, 4)
    assert out["action"].shape == out["position"].shape == (2, 14, 14, 512)
    assert [out[f"map_{i}"].shape[1] for i in (1, 2, 3, 4)] == [112, 56, 28, 14]
    decoder = {k: v for k, v in variables["params"].items() if k != "encoder"}
    assert sum(int(np.prod(x.shape)) for x in jax.tree.leaves(decoder)) == 16_522_512  # + 75,264 fixed positions


def test_prediction_is_exactly_the_copy_at_the_start(fresh: Any, make_batch: Callable, quick: Callable) -> None:
    module, variables = fresh
    out = quick(lambda v, b: module.apply(v, b, False), variables, make_batch(32, 4))
    assert float(jnp.abs(out["prediction"] - out["latent"]).max()) == 0
    assert float(jnp.abs(out["target"] - out["latent"]).max()) > 0.1


def test_gradients_reach_both_branches_after_the_first_steps(fresh: Any, make_batch: Callable) -> None:
    """With adaLN-Zero and a zero output layer the encoder's gradient is exactly 0 in step 1, but does not stay so."""
    module, variables = fresh
    batch, rest = make_batch(32, 4), {k: v for k, v in variables.items() if k != "params"}

    def loss(params: Any) -> jax.Array:
        out, _ = module.apply({"params": params, **rest}, batch, True, mutable=["batch_stats"])
        return ma2mi.latent_mse(out, batch)[0].mean()

    gradient = jax.jit(jax.value_and_grad(loss))
    params, losses, norms = jax.device_get(variables["params"]), [], []
    for _ in range(10):
        value, g = jax.device_get(gradient(params))
        losses.append(float(value))
        norms.append({k: max(float(np.abs(x).max()) for x in jax.tree.leaves(g["encoder"][k])) for k in g["encoder"]})
        params = jax.tree.map(lambda p, x: p - np.float32(0.01) * np.sign(x), params, g)
    assert norms[0] == {"action": 0.0, "position": 0.0}
    assert set(norms[-1]) == {"action", "position"}
    assert min(norms[-1].values()) > 1e-6
    assert losses[-1] < losses[0]
    silent = [jax.tree_util.keystr(p) for p, x in jax.tree_util.tree_leaves_with_path(g["encoder"]) if not x.any()]
    assert not silent


def test_shuffled_prediction_uses_the_action_of_the_pair_half_a_batch_away(trained: Any) -> None:
    _, _, batch, run = trained
    out = run(batch)
    # the same by hand: the action depends on the difference alone, the rest on the first frame
    difference = batch["second"] - batch["first"]
    foreign = run({**batch, "second": batch["first"] + jnp.roll(difference, 2, axis=0)})
    np.testing.assert_allclose(out["shuffled"], foreign["own"], atol=1e-4)
    assert float(jnp.abs(out["shuffled"] - out["own"]).max()) > 1e-3


def test_null_prediction_is_that_of_an_identical_pair(trained: Any) -> None:
    _, _, batch, run = trained
    np.testing.assert_allclose(run(batch)["null"], run({**batch, "second": batch["first"]})["own"], atol=1e-6)


def test_shuffle_control_trains_on_foreign_actions_and_is_judged_on_its_own(
    make_settings: Callable, trained: Any, quick: Callable
) -> None:
    module, variables, batch, run = trained
    control = pretext(make_settings, shuffle_actions=True)

    def predict(batch: Any) -> list[Any]:
        cases = ((control, True, "own"), (module, True, "shuffled"), (control, False, "own"))
        return [m.apply(variables, batch, t, a, mutable=["batch_stats"])[0]["prediction"] for m, t, a in cases]

    trains, shuffled, judged = quick(predict, batch)
    np.testing.assert_allclose(trains, shuffled, atol=1e-5)
    np.testing.assert_allclose(judged, run(batch)["own"], atol=1e-5)


def test_forecast_never_sees_the_future(make_settings: Callable, random_variables: Callable, trained: Any) -> None:
    _, variables, batch, _ = trained
    module = pretext(make_settings, task="forecast")
    run = jax.jit(lambda b: module.apply(variables, b, False))
    out, other = run(batch), run({**batch, "second": batch["second"][::-1]})
    assert np.asarray(out["prediction"]).tobytes() == np.asarray(other["prediction"]).tobytes()
    assert float(jnp.abs(out["target"] - other["target"]).max()) > 0.1
    moved = run({**batch, "before": batch["before"][::-1]})["prediction"]
    assert float(jnp.abs(out["prediction"] - moved).max()) > 1e-4


@pytest.mark.parametrize(
    ("latent", "cond", "encoder"),
    [
        ("dct", "token", "miacnet"),
        ("ae", "global", "miacnet"),
        ("pixel", "cross_attn", "miacnet"),
        ("dct", "concat", "resnet34"),
        ("ae", "token", "vit_s"),
        ("pixel", "token", "resnet18"),
    ],
)
def test_every_option_keeps_shapes_and_carries_the_encoder(
    latent: str, cond: str, encoder: str, make_settings: Callable, make_batch: Callable, shapes: Callable
) -> None:
    """Transfer: every encoder weight and statistic is taken, none is missing; the head is fresh."""
    system = systems.build(make_settings(model={"encoder": encoder}, pre={"latent": latent, "cond": cond}), 5)
    batch = make_batch(32, 2)
    assert system.pretrain is not None
    before, after = shapes(system.pretrain.module, batch), shapes(system.finetune.module, batch)
    out = jax.eval_shape(lambda v, b: system.pretrain.module.apply(v, b, False), before, batch)
    assert out["prediction"].shape == ((2, 32, 32, 3) if latent == "pixel" else (2, 4, 4, 4))
    _, report = carry_over(after, before, system.finetune.carry)
    statistics = {"batch_stats/encoder"} if encoder != "vit_s" else set()
    assert set(report["loaded"]) == {"params/encoder"} | statistics
    assert report["fresh"] == ["params/head"]


def test_transfer_keeps_running_statistics(make_settings: Callable, trained: Any, random_variables: Callable) -> None:
    _, variables, batch, _ = trained
    finetune = systems.build(make_settings(), 5).finetune
    head = random_variables(finetune.module, batch, seed=1)
    merged, _ = carry_over(head, variables, finetune.carry)
    jax.tree.map(np.testing.assert_array_equal, merged["batch_stats"]["encoder"], variables["batch_stats"]["encoder"])
    jax.tree.map(np.testing.assert_array_equal, merged["params"]["encoder"], variables["params"]["encoder"])
    jax.tree.map(np.testing.assert_array_equal, merged["params"]["head"], head["params"]["head"])


def test_latent_loss_in_closed_form() -> None:
    z = jnp.zeros((1, 1, 2, 1))
    outputs = {"latent": z, "target": z + jnp.array([1.0, 4.0])[:, None], "prediction": z + 1.0}
    loss, terms = ma2mi.latent_mse(outputs, {})
    assert float(loss[0]) == float(terms["latent_mse"][0]) == (0 + 9) / 2
    # weights 1 + 4 * (1/4, 4/4) = 2, 5
    assert float(ma2mi.latent_mse(outputs, {}, motion_weight=4.0)[0][0]) == (2 * 0 + 5 * 9) / 2


def test_constants_standardise_the_latents_of_the_pairs(make_settings: Callable, make_batch: Callable) -> None:
    system = systems.build(make_settings(), 5)
    batch = make_batch(32, 4)
    constants = system.fit_constants([batch], jax.random.key(0))["latent"]
    z = ma2mi.build_latent(system.settings).apply(
        {"constants": constants}, jnp.concatenate([batch["first"], batch["second"]])
    )
    np.testing.assert_allclose(z.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(z.std(axis=(0, 1, 2)), 1, atol=1e-4)
    rejected = {**batch, "first": 0 * batch["first"], "second": 0 * batch["second"], "weight": jnp.zeros(4)}
    with_rejected = system.fit_constants([batch, rejected], jax.random.key(0))["latent"]
    jax.tree.map(np.testing.assert_array_equal, constants, with_rejected)
    with pytest.raises(UserError, match="no frame pairs"):
        system.fit_constants([], jax.random.key(0))
    assert (
        systems.build(make_settings(pre={"objective": "macro_cls"}), 5, 4).fit_constants([batch], jax.random.key(0))
        == {}
    )


def test_autoencoder_latent_is_trained_and_kept_as_constants(
    make_settings: Callable, shapes: Callable, make_batch: Callable, quick: Callable
) -> None:
    settings = make_settings(pre={"latent": "ae", "ae_steps": 100, "ae_batch": 4, "ae_learning_rate": 3e-3})
    system = systems.build(settings, 5)
    y, x = np.mgrid[:16, :16] / 15
    tone = np.random.default_rng(0).uniform(0.2, 0.8, (8, 1, 1, 3))
    frames = jnp.asarray(tone + 0.2 * (x - y)[None, :, :, None], jnp.float32)
    batch = {"first": frames[:4], "second": frames[4:]}
    constants = system.fit_constants([batch], jax.random.key(0))["latent"]
    network = ConvAutoencoder()
    output = quick(network.apply, {"params": constants["autoencoder"]}, frames)
    mean_frame = jnp.broadcast_to(frames.mean(axis=0), frames.shape)
    assert float(reconstruction_loss(output, frames).mean()) < 0.5 * float(
        reconstruction_loss(mean_frame, frames).mean()
    )
    wanted = shapes(system.pretrain.module, make_batch(32, 2))["constants"]["latent"]
    assert jax.tree.map(jnp.shape, constants) == jax.tree.map(jnp.shape, wanted)


def test_supervised_and_scratch_objectives(make_settings: Callable, make_batch: Callable, shapes: Callable) -> None:
    supervised = systems.build(make_settings(pre={"objective": "macro_cls"}), 5, 7)
    stage: Any = supervised.pretrain
    assert isinstance(stage, Stage)
    assert shapes(stage.module, make_batch(32, 2))["params"]["head"]["linear"]["kernel"].shape[-1] == 7
    assert supervised.finetune.carry == ("encoder",)
    scratch = systems.build(make_settings(pre={"objective": "none"}), 5)
    assert scratch.pretrain is None
    assert scratch.finetune.carry == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"system": "mine"}, "system: found 'mine'; expected one of akmnet, atnet, fdp, ma2mi"),
        ({"task": "valence"}, "task: found 'valence'"),
        ({"pre": {"objective": "contrast"}}, "pre.objective"),
        ({"pre": {"objective": "macro_cls"}}, "found 0 macro classes"),
        ({"pre": {"latent": "vae"}}, "pre.latent: found 'vae'; expected one of dct, ae, pixel"),
        ({"pre": {"cond": "film"}}, "pre.cond"),
        ({"pre": {"task": "rewind"}}, "pre.task"),
        ({"pre": {"dec_dim": 18}}, "pre.dec_dim: found 18"),
        ({"task": "au"}, "found 0 action units; expected 5"),
    ],
)
def test_mistakes_are_named(changes: Any, message: str, make_settings: Callable) -> None:
    with pytest.raises(UserError, match=message):
        systems.build(make_settings(**changes), 5)


def test_position_only_has_no_action_to_pass(make_settings: Callable, make_batch: Callable, shapes: Callable) -> None:
    module = ma2mi.build_pretext(make_settings(model={"variant": "position_only"}))
    assert set(shapes(module, make_batch(32, 2))["params"]["encoder"]) == {"position"}
    assert set(miacnet.VARIANTS) >= {"position_only", "action_only", "concat"}
