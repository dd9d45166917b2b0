"""How key frames compare with the true event of a clip, beside frames that were chosen without a network.

Everything is a number a clip, so that the network and what it is compared with are paired. The choices:

  keys       the frames that the network keeps, N of the T of the clip; its best frame is that of the largest score
  random     N frames drawn at random: exact expectations over the draws
  centre     the N frames around the middle of the clip
  motion     the N frames that differ most from the frame before
  departure  the N frames that differ most from the first frame

Of a choice S and the true interval from onset to offset: precision = |S in it| / N, recall = |S in it| / |it|, and
Youden's J = recall - |S outside| / |outside|, unknown where a clip has no frame outside. `apex` is 1 where the frame
nearest to the true apex was chosen; at random that is N / T, so `random_apex` is both the chance level and the share of
the clip that is kept. `ms` and `frames` (of the recording) are the distance from the best frame to the true apex.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mer_jax.systems.base import Batch

FACTS = ("true_onset", "true_apex", "true_offset", "fps")


def measures(scores: jax.Array, kept: jax.Array | None, batch: Batch) -> dict[str, jax.Array]:
    """Measures of a batch of clips, [B] each; NaN where the truth is unknown.

    Args:
      scores: of the frames [B, T].
      kept: the key frames, bool [B, T]; None where the network selects none (then only distances are measured).
      batch: frames [B, T, H, W, C], mask bool [B, T], position [B, T] in the recording, and FACTS [B].

    Returns:
      `{choice}_{measure}`.
    """
    mask, position, frames = batch["mask"], batch["position"], batch["frames"]
    onset, apex, offset = (batch[name][:, None] for name in FACTS[:3])
    length = mask.sum(axis=1)
    before = jnp.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    middle = (length[:, None] - 1) / 2
    ranked = {  # larger is better
        "keys": scores,
        "centre": -jnp.abs(jnp.arange(mask.shape[1]) - middle),
        "motion": _difference(frames, before),
        "departure": _difference(frames, frames[:, :1]),
    }
    away = jnp.where(apex >= 0, jnp.abs(position - apex), jnp.nan)  # [B, T]
    found = {}
    for name, score in ranked.items():
        best = jnp.where(mask, score, -jnp.inf).argmax(axis=1)
        found[f"{name}_frames"] = jnp.take_along_axis(away, best[:, None], axis=1)[:, 0]
    found["random_frames"] = jnp.where(mask, away, 0.0).sum(axis=1) / length
    found |= {name.replace("_frames", "_ms"): 1000 * value / batch["fps"] for name, value in found.items()}
    if kept is None:
        return found
    count = kept.sum(axis=1)
    nearest = jnp.where(mask, away, jnp.inf).argmin(axis=1)[:, None]
    inside = mask & (position >= onset) & (position <= offset)
    outside = mask & ~inside
    known = (onset >= 0)[:, 0] & (offset >= 0)[:, 0] & inside.any(axis=1)
    chosen = {name: _first(jnp.where(mask, score, -jnp.inf), count) for name, score in ranked.items()} | {"keys": kept}
    shares = {name: choice.astype(jnp.float32) for name, choice in chosen.items()}
    shares["random"] = jnp.where(mask, (count / length)[:, None], 0.0)  # the probability that a frame is drawn
    for name, share in shares.items():
        hits, misses = (jnp.where(part, share, 0.0).sum(axis=1) for part in (inside, outside))
        recall = hits / jnp.maximum(inside.sum(axis=1), 1)
        alarms = misses / jnp.maximum(outside.sum(axis=1), 1)
        at_apex = jnp.take_along_axis(share, nearest, axis=1)[:, 0]
        found[f"{name}_apex"] = jnp.where(apex[:, 0] >= 0, at_apex, jnp.nan)
        found[f"{name}_precision"] = jnp.where(known, hits / count, jnp.nan)
        found[f"{name}_recall"] = jnp.where(known, recall, jnp.nan)
        found[f"{name}_youden"] = jnp.where(known & outside.any(axis=1), recall - alarms, jnp.nan)
    return found


def _difference(one: jax.Array, other: jax.Array) -> jax.Array:
    """Mean absolute difference of frames [B, T, H, W, C] -> [B, T]."""
    return jnp.abs(one - other).mean(axis=(2, 3, 4))


def _first(scores: jax.Array, count: jax.Array) -> jax.Array:
    """The `count` [B] frames with the largest scores, bool [B, T]; of equal ones the earlier."""
    order = jnp.argsort(-scores, axis=1, stable=True)
    rank = jnp.argsort(order, axis=1, stable=True)
    return rank < count[:, None]
