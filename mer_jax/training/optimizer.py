"""Optimizers and schedules: a thin, declarative layer over optax."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mer_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """How one stage is optimized.

    Attributes:
      name: adamw | adam | sgd.
      learning_rate: peak learning rate.
      weight_decay: of all trainable parameters: decoupled (adamw), or added to the gradient times the parameter, before
        any moment (adam, sgd), as PyTorch's optimizers of these names do.
      b1: first moment decay; momentum for sgd.
      b2: second moment decay.
      schedule: constant | cosine (to `final_learning_rate`) | exponential (times `decay` each epoch) | oscillating
        (down a cosine to `final_learning_rate` and up again, over and over, one value an epoch) | step (times `decay`
        from each of `parts` equal parts of the training to the next).
      warmup_steps: linear warm-up from 0, counted inside the total.
      decay: factor an epoch for `exponential`, a part for `step`.
      decay_epochs: epochs after which `exponential` stays constant; 0 = never.
      final_learning_rate: end of `cosine`, lowest point of `oscillating`.
      cycle_epochs: epochs that `oscillating` takes down, and again up.
      parts: number of equal parts of `step`.
      clip_norm: global gradient norm; 0 = no clipping.
      groups: (path prefix, factor on the learning rate); the first match counts; factor 0 freezes. A path is
        "encoder/action/...".
      ema: decay of the exponential moving average of the parameters, used for evaluation; 0 = none.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    schedule: str = "constant"
    warmup_steps: int = 0
    decay: float = 1.0
    decay_epochs: int = 0
    final_learning_rate: float = 0.0
    cycle_epochs: int = 0
    parts: int = 1
    clip_norm: float = 0.0
    groups: tuple[tuple[str, float], ...] = ()
    ema: float = 0.0


def learning_rate(settings: OptimizerSettings, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
    """The schedule: step -> learning rate (before group factors)."""
    peak, warmup = settings.learning_rate, settings.warmup_steps
    after: optax.Schedule
    if settings.schedule == "constant":
        after = optax.constant_schedule(peak)
    elif settings.schedule == "cosine":
        final = settings.final_learning_rate / peak if peak else 0.0
        after = optax.cosine_decay_schedule(peak, max(total_steps - warmup, 1), alpha=final)
    elif settings.schedule == "exponential":

        def after(step: jax.typing.ArrayLike) -> jax.Array:
            epoch = jnp.asarray(step) // steps_per_epoch
            if settings.decay_epochs:
                epoch = jnp.minimum(epoch, settings.decay_epochs)
            return peak * jnp.power(settings.decay, epoch.astype(jnp.float32))
    elif settings.schedule == "oscillating":
        if settings.cycle_epochs < 1:
            raise UserError(f"cycle_epochs: found {settings.cycle_epochs}; schedule 'oscillating' expects at least 1")

        def after(step: jax.typing.ArrayLike) -> jax.Array:
            phase = jnp.pi * (jnp.asarray(step) // steps_per_epoch) / settings.cycle_epochs
            low = settings.final_learning_rate
            return low + (peak - low) * (1 + jnp.cos(phase)) / 2
    elif settings.schedule == "step":
        if settings.parts < 1:
            raise UserError(f"parts: found {settings.parts}; schedule 'step' expects at least 1")

        def after(step: jax.typing.ArrayLike) -> jax.Array:
            part = settings.parts * jnp.asarray(step) // max(total_steps - warmup, 1)
            return peak * jnp.power(settings.decay, part.astype(jnp.float32))
    else:
        known = "constant, cosine, exponential, oscillating or step"
        raise UserError(f"schedule {settings.schedule!r} is unknown; expected {known}")
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def build(settings: OptimizerSettings, total_steps: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optax transformation of a stage.

    Args:
      settings: see OptimizerSettings.
      total_steps: length of the stage.
      steps_per_epoch: what "epoch" means for `exponential` and `oscillating`.

    Raises:
      UserError: unknown optimizer or schedule.
    """
    schedule = learning_rate(settings, total_steps, steps_per_epoch)
    if settings.name == "adamw":
        inner = optax.adamw(schedule, b1=settings.b1, b2=settings.b2, weight_decay=settings.weight_decay)
    elif settings.name == "adam":
        inner = _after_decay(settings, optax.adam(schedule, b1=settings.b1, b2=settings.b2))
    elif settings.name == "sgd":
        inner = _after_decay(settings, optax.sgd(schedule, momentum=settings.b1 or None))
    else:
        raise UserError(f"optimizer {settings.name!r} is unknown; expected adamw, adam or sgd")
    if settings.groups:
        factors = sorted({factor for _, factor in settings.groups} | {1.0})
        transforms = {
            f"x{factor:g}": optax.set_to_zero() if factor == 0 else optax.chain(inner, optax.scale(factor))
            for factor in factors
        }
        inner = optax.partition(transforms, lambda params: _labels(params, settings.groups))
    clip = [optax.clip_by_global_norm(settings.clip_norm)] if settings.clip_norm else []
    return optax.chain(*clip, inner)


def _after_decay(settings: OptimizerSettings, inner: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(settings.weight_decay), inner) if settings.weight_decay else inner


def _labels(params: Any, groups: tuple[tuple[str, float], ...]) -> Any:
    """The group of each parameter; a prefix that matches nothing is a mistake in the config."""
    paths = [_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for prefix, _ in groups:
        if not any(p.startswith(prefix) for p in paths):
            raise UserError(f"optimizer group {prefix!r} matches no parameter; parameters begin with {_heads(paths)}")

    def label(path: Any, _: Any) -> str:
        return next((f"x{factor:g}" for prefix, factor in groups if _path(path).startswith(prefix)), "x1")

    return jax.tree_util.tree_map_with_path(label, params)


def _path(path: Any) -> str:
    return "/".join(str(getattr(k, "key", k)) for k in path)


def _heads(paths: list[str]) -> list[str]:
    return sorted({p.split("/")[0] for p in paths})
