"""Which clips a fold looks at in a step: a pure, traced function of (fold key, step) and the fold's own mask."""

from __future__ import annotations

import zlib

import chex
import jax
import jax.numpy as jnp
import numpy as np


def fold_key(seed: int, name: str) -> jax.Array:
    """The random key of a fold: depends on the seed and the fold's name, not on its place among the folds."""
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), zlib.crc32(name.encode()) & 0x7FFFFFFF)


def epochs_touched(batch: int, smallest_set: int) -> int:
    """How many permutations a batch can draw from (static): a batch may straddle epochs of a small set."""
    return (batch - 1) // max(smallest_set, 1) + 2


def permutation_batch(mask: jax.Array, key: jax.Array, step: jax.Array, batch: int, epochs: int) -> jax.Array:
    """The clips of one step: the fold's own permutation of its own clips, reshuffled when used up, always full.

    Args:
      mask: bool [n], the clips that the fold may draw. An empty mask gives indices that the caller must weigh 0.
      key: key of the fold.
      step: int32 scalar.
      batch: batch size B.
      epochs: static bound from `epochs_touched`.

    Returns:
      int32 [B] clip indices.
    """
    chex.assert_rank([mask, step], [1, 0])
    n = mask.shape[0]
    available = jnp.maximum(mask.sum(), 1)
    position = step * batch + jnp.arange(batch)
    epoch, place = position // available, position % available
    first = epoch[0]

    def permutation(number: jax.Array) -> jax.Array:
        order = jax.random.uniform(jax.random.fold_in(key, number), (n,))
        return jnp.argsort(jnp.where(mask, order, 2.0))

    permutations = jax.vmap(permutation)(first + jnp.arange(epochs))
    return permutations[epoch - first, place].astype(jnp.int32)


def balanced_batch(mask: jax.Array, label: jax.Array, key: jax.Array, step: jax.Array, batch: int) -> jax.Array:
    """The clips of one step with every class of the fold equally likely, drawn with replacement.

    Args:
      mask: bool [n], the clips that the fold may draw.
      label: int32 [n], class of each clip.
      key: key of the fold.
      step: int32 scalar.
      batch: batch size B.

    Returns:
      int32 [B] clip indices.
    """
    same = (label[:, None] == label[None, :]) & mask[None, :]
    log_weight = jnp.where(mask, -jnp.log(jnp.maximum(same.sum(axis=1), 1)), -jnp.inf)
    return jax.random.categorical(jax.random.fold_in(key, step), log_weight, shape=(batch,)).astype(jnp.int32)


def example_keys(key: jax.Array, step: jax.Array, batch: int) -> jax.Array:
    """One key an example: the randomness of its view. Depends on (fold key, step, place in the batch)."""
    stream = jax.random.fold_in(key, 0x5EED)
    return jax.vmap(lambda i: jax.random.fold_in(stream, step * batch + i))(jnp.arange(batch))


def bucket_schedule(counts: np.ndarray, steps: int, steps_per_epoch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which bucket of clip lengths each step of every fold draws from: a pure function of (seed, step).

    Within an epoch the buckets share the steps in proportion to their clips (systematic sampling with a random start,
    so that small buckets get their steps over several epochs), in random order. All clips of the protocol count, of
    tested persons too: all folds keep one schedule, which knows lengths and no label.

    Args:
      counts: [K], clips of each bucket.
      steps: training length.
      steps_per_epoch: steps of an epoch.
      seed: of the training.

    Returns:
      int32 [steps], the bucket of each step, and int32 [steps], how many earlier steps drew from the same bucket.
    """
    share = np.cumsum(counts) / np.sum(counts)
    epochs = []
    for epoch in range(-(-steps // steps_per_epoch)):
        rng = np.random.default_rng([seed, epoch, 0xB0C])
        points = (np.arange(steps_per_epoch) + rng.random()) / steps_per_epoch
        epochs.append(rng.permutation(np.searchsorted(share, points, side="right")))
    bucket = np.concatenate(epochs)[:steps].astype(np.int32)
    visit = np.zeros(steps, np.int32)
    for b in np.unique(bucket):
        visit[bucket == b] = np.arange((bucket == b).sum())
    return bucket, visit
