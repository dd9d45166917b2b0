"""Losses that several systems share. Each is `(outputs, batch) -> (loss [B], {term: [B]})`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from mer_jax.systems.base import Batch, Outputs


def cross_entropy(outputs: Outputs, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Softmax cross-entropy of `logits` [B, C] with `label` int [B]; examples without a label (-1) count 0."""
    label = batch["label"]
    loss = optax.softmax_cross_entropy_with_integer_labels(outputs["logits"], jnp.maximum(label, 0))
    loss = jnp.where(label >= 0, loss, 0.0)
    return loss, {"cross_entropy": loss}


def action_unit_cross_entropy(outputs: Outputs, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sigmoid cross-entropy of `logits` [B, U] with `action_units` int [B, U], mean over the known units.

    A unit of an example is 1 (present), 0 (absent) or -1 (unknown); unknown units count neither way, and an example
    of which nothing is known counts 0.
    """
    target = batch["action_units"]
    known = target >= 0
    each = optax.sigmoid_binary_cross_entropy(outputs["logits"], jnp.maximum(target, 0).astype(jnp.float32))
    loss = jnp.where(known, each, 0.0).sum(axis=-1) / jnp.maximum(known.sum(axis=-1), 1)
    return loss, {"action_unit_cross_entropy": loss}
