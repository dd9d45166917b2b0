"""Pre-training on pairs alone helps recognition from few labels, on a toy where both can be measured.

Which of five soft blobs moved between two noisy frames? Identity is a smooth texture and jittered places of the blobs;
one blob moves by 3 to 6 % of the half-width in a random direction; every frame has its own sensor noise of sd 0.15.
Pre-training and recognition share one distribution, so this says nothing about macro and micro faces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mer_jax import systems
from mer_jax.systems import ma2mi_health
from mer_jax.systems.base import Stage
from mer_jax.training.state import carry_over

SIZE, BATCH, LABELS = 64, 16, 100
PRETRAIN_STEPS, FINETUNE_STEPS, SEEDS = 600, 150, 3
BLOB_WIDTH, BLOB_DEPTH, TEXTURE, NOISE = 0.12, 3.0, 0.1, 0.15
PLACES = np.array([[-0.5, -0.5], [-0.5, 0.5], [0.0, 0.0], [0.5, -0.4], [0.5, 0.4]])  # (y, x), half-widths


def pairs(seed: int, n: int) -> dict[str, np.ndarray]:
    """n pairs with the number of the blob that moved."""
    rng = np.random.default_rng(seed)
    axis = (np.arange(SIZE) + 0.5) / (SIZE / 2) - 1
    frequency = np.fft.fftfreq(SIZE) * SIZE
    low_pass = np.exp(-(frequency[:, None] ** 2 + frequency[None] ** 2) / 16)
    texture = np.fft.ifft2(np.fft.fft2(rng.normal(size=(n, SIZE, SIZE))) * low_pass).real
    texture *= TEXTURE / texture.std(axis=(1, 2), keepdims=True)
    places = PLACES + rng.uniform(-0.1, 0.1, (n, 5, 2))
    label, angle, length = rng.integers(0, 5, n), rng.uniform(0, 2 * np.pi, n), rng.uniform(0.03, 0.06, n)
    moved = places.copy()
    moved[np.arange(n), label] += length[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)

    def render(places: np.ndarray) -> np.ndarray:
        bump = np.exp(-((axis - places[..., None]) ** 2) / (2 * BLOB_WIDTH**2))  # [n, 5, 2, SIZE]: separable
        blobs = np.einsum("nky,nkx->nyx", bump[:, :, 0], bump[:, :, 1])
        image = 0.5 + texture - BLOB_DEPTH * blobs + NOISE * rng.normal(size=texture.shape)
        return np.repeat(image[..., None], 3, axis=-1).astype(np.float32)

    return {"first": render(places), "second": render(moved), "label": label.astype(np.int32)}


class Trainer:
    """A plain loop around one stage."""

    def __init__(self, stage: Stage, tx: optax.GradientTransformation) -> None:
        example = {k: v[:BATCH] for k, v in pairs(0, BATCH).items()}
        module = stage.module
        self.init = jax.jit(lambda key: module.init({"params": key, "dropout": key}, example, False))
        self.tx = tx

        @jax.jit
        def step(variables: Any, state: Any, batch: Any) -> Any:
            rest = {k: v for k, v in variables.items() if k != "params"}

            def loss(params: Any) -> Any:
                outputs, changed = module.apply({"params": params, **rest}, batch, True, mutable=["batch_stats"])
                return stage.objective(outputs, batch)[0].mean(), changed

            (value, changed), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
            updates, state = tx.update(gradient, state, variables["params"])
            return {**variables, "params": optax.apply_updates(variables["params"], updates), **changed}, state, value

        self.step = step

    def fit(self, variables: Any, data: dict[str, np.ndarray], steps: int, seed: int) -> tuple[Any, float]:
        rng = np.random.default_rng(seed)
        state, value = self.tx.init(variables["params"]), jnp.inf
        for _ in range(steps):
            rows = rng.choice(len(data["label"]), BATCH, replace=False)
            variables, state, value = self.step(variables, state, {k: v[rows] for k, v in data.items()})
        return variables, float(value)


def test_pretext_is_learnt_through_the_action_and_helps_recognition(make_settings: Callable, quick: Callable) -> None:
    settings = make_settings(
        data={"size": SIZE, "normalise": "signed"},
        model={"width": 0.0625, "position_depth": 1},
        pre={"bottleneck": 64, "dec_dim": 64, "dec_depth": 1, "dec_heads": 4},
    )
    system = systems.build(settings, 5)
    assert system.pretrain is not None
    unlabelled = pairs(1, 2000)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 20, PRETRAIN_STEPS)
    pretrainer = Trainer(system.pretrain, optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.95)))
    variables = dict(pretrainer.init(jax.random.key(0)))
    part = {k: v[:128] for k, v in unlabelled.items()}
    variables["constants"] = system.fit_constants([part], jax.random.key(0))
    variables, _ = pretrainer.fit(variables, unlabelled, PRETRAIN_STEPS, 0)

    errors = quick(system.health_errors, variables, pairs(2, 128))
    health = ma2mi_health.scores({k: v.sum() for k, v in errors.items()})
    assert health["R"] > 0.8, health
    assert health["R_shuf"] < 0, health
    assert abs(health["R_null"]) < 0.1, health

    finetuner = Trainer(
        system.finetune, optax.adamw(optax.cosine_decay_schedule(3e-3, FINETUNE_STEPS), weight_decay=0.05)
    )

    def logits(variables: Any, batch: Any) -> Any:
        return system.finetune.module.apply(variables, batch, False)["logits"]

    test = pairs(3, 400)
    accuracy: dict[str, list[float]] = {"scratch": [], "pretrained": []}
    for seed in range(SEEDS):
        train = pairs(100 + seed, LABELS)
        fresh = dict(finetuner.init(jax.random.key(10 + seed)))
        starts = {"scratch": fresh, "pretrained": carry_over(fresh, variables, system.finetune.carry)[0]}
        for name, start in starts.items():
            fitted, loss = finetuner.fit(start, train, FINETUNE_STEPS, seed)
            assert loss < 0.2, (name, loss)  # both fit their labels: neither is held back by its optimizer
            accuracy[name].append(float((quick(logits, fitted, test).argmax(-1) == test["label"]).mean()))
    assert np.mean(accuracy["pretrained"]) - np.mean(accuracy["scratch"]) >= 0.15, accuracy
