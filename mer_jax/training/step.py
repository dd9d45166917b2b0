"""One training step and one evaluation, as pure functions of a stage. They know nothing of folds or devices."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jax.extend.core import primitives

from mer_jax.errors import UserError
from mer_jax.training.state import TrainState, Variables

Metrics = dict[str, jax.Array]
Step = Callable[[TrainState, Any, jax.Array], tuple[TrainState, Metrics]]
STATISTICS = "batch_stats"  # the only collection that training changes
REMAT = ("none", "products")


def initial_variables(stage: Any, batch: Any, key: jax.Array) -> Variables:
    """Fresh variables of a stage's module for batches shaped like `batch`."""
    return dict(stage.module.init({"params": key, "dropout": key}, batch, False))


def check_remat(remat: str) -> None:
    """Refuses an unknown way of rematerialisation."""
    if remat not in REMAT:
        raise UserError(f"engine.remat is {remat!r}; expected one of {', '.join(REMAT)}")


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive in (primitives.dot_general_p, primitives.conv_general_dilated_p)


def _unchanged(tree: Any) -> Any:
    return tree


def make_step(
    stage: Any,
    tx: optax.GradientTransformation,
    remat: str = "none",
    gather: Callable[[Any], Any] = _unchanged,
    scatter: Callable[[Any], Any] = _unchanged,
) -> Step:
    """The training step of a stage (`systems.base.Stage`).

    The loss is the mean over the batch, weighted by `batch["weight"]` [B] where present. A step whose weights are all
    zero changes neither parameters, moments nor statistics.

    Args:
      stage: see above.
      tx: its optimizer.
      remat: what the backward pass keeps of the forward pass: none = everything that it needs; products = the results
        of matrix products and convolutions, all else (norms, activations, attention weights) is computed again.
      gather: applied to the parameters inside the forward pass, so that with `remat` gathered ones are not kept either.
      scatter: applied to the gradients.

    Returns:
      `(state, batch, key) -> (state, metrics)`; metrics are scalars: "loss", the objective's terms, "gradient_norm",
      "weight".
    """

    def step(state: TrainState, batch: Any, key: jax.Array) -> tuple[TrainState, Metrics]:
        def loss_fn(params: Any) -> tuple[jax.Array, tuple[Any, Metrics, jax.Array]]:
            variables = {"params": gather(params), **state.collections}
            outputs, changed = stage.module.apply(variables, batch, True, rngs={"dropout": key}, mutable=[STATISTICS])
            loss, terms = stage.objective(outputs, batch)
            chex.assert_rank([loss, *terms.values()], 1)  # one number an example
            weight = batch.get("weight", jnp.ones_like(loss))
            total = weight.sum()

            def mean(x: jax.Array) -> jax.Array:
                return jnp.where(weight > 0, x * weight, 0.0).sum() / jnp.maximum(total, 1e-6)

            return mean(loss), (changed, {name: mean(term) for name, term in terms.items()}, total)

        kept = jax.checkpoint(loss_fn, policy=_is_product) if remat == "products" else loss_fn
        (loss, (changed, terms, total)), gradients = jax.value_and_grad(kept, has_aux=True)(state.params)
        gradients = scatter(gradients)
        updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = stage.optimizer.ema
        ema = state.ema and jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.ema, params)
        new = TrainState(params, {**state.collections, **changed}, opt_state, ema)
        new = jax.tree.map(lambda a, b: jnp.where(total > 0, a, b), new, state)
        metrics = {"loss": loss, **terms, "gradient_norm": optax.tree.norm(gradients), "weight": total}
        return new, metrics

    return step


def view_of(system: Any, length: int = 0) -> Callable[..., Any]:
    """The view of a system; `length` frames of each clip where the system has buckets."""
    return functools.partial(system.view, length=length) if length else system.view


def make_predict(system: Any, stage: Any) -> Callable[..., dict[str, Any]]:
    """The evaluation of a recognition stage.

    Returns:
      `(variables, store, clips [M], length) -> {"probabilities": [M, C], "measures": {name: [M]}}`; a measure is the
      mean over the views in which it is known, NaN where there is none. `length` as in `view_of`, static.
    """

    def predict(variables: Variables, store: Any, clips: jax.Array, length: int = 0) -> dict[str, Any]:
        chex.assert_rank(clips, 1)
        view = view_of(system, length)

        def look(number: int) -> tuple[jax.Array, Metrics]:
            batch = jax.vmap(lambda i: view(store, i, jnp.int32(number), False))(clips)
            outputs = stage.module.apply(variables, batch, False)
            return outputs["logits"].astype(jnp.float32), dict(system.measures(outputs, batch))

        looks = [look(v) for v in range(system.n_views)]
        measures = jax.tree.map(lambda *views: _mean_of_known(jnp.stack(views)), *(m for _, m in looks))
        return {"probabilities": system.combine(jnp.stack([logits for logits, _ in looks])), "measures": measures}

    return predict


def _mean_of_known(views: jax.Array) -> jax.Array:
    """Mean over the leading axis of what is not NaN; NaN where all is."""
    chex.assert_rank(views, 2)
    known = ~jnp.isnan(views)
    return jnp.where(known, views, 0.0).sum(0) / jnp.where(known.any(0), known.sum(0), jnp.nan)
