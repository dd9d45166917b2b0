"""Is the pretext learnt, and through the action branch? Scores on held-out pairs beside a linear baseline.

R = 1 - MSE(prediction) / MSE(copy of the first latent). R_shuf: the actions of other pairs of the batch instead;
R_null: the action of a difference image of 0. Healthy: R well above 0, R_shuf below 0, R_null near 0. Where R is near
R_shuf the decoder ignores the action. A high R alone proves nothing: with noisy pixels as target it is high because
the branch copies noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.systems.base import Batch

SCORES = {"R": "own", "R_shuf": "shuffled", "R_null": "null"}


def errors(module: nn.Module, variables: Any, batch: Batch) -> dict[str, jax.Array]:
    """Mean squared latent errors of each pair, {"own", "shuffled", "null", "copy"}: [B]; traced, no training."""
    result: dict[str, jax.Array] = {}
    for action in SCORES.values():
        outputs: Any = module.apply(variables, batch, False, action)
        result[action] = ((outputs["prediction"] - outputs["target"]) ** 2).mean(axis=(1, 2, 3))
        result["copy"] = ((outputs["latent"] - outputs["target"]) ** 2).mean(axis=(1, 2, 3))
    return result


def scores(sums: Mapping[str, Any]) -> dict[str, float]:
    """Errors summed over pairs -> {"R", "R_shuf", "R_null"}."""
    return {name: float(1 - sums[action] / sums["copy"]) for name, action in SCORES.items()}


class LinearBaseline:
    """PCA of the difference image, then linear least squares to the change of the latent.

    The rank of the PCA is that of the bottleneck it is compared with. Note that a bottleneck of b channels on a grid
    of n places carries b n numbers, the linear code of rank b only b; and that a target which is linear in the frames
    (dct, pixel) is reached exactly at full rank.
    """

    def __init__(self, difference: np.ndarray, change: np.ndarray, rank: int) -> None:
        """Fits to training pairs.

        Args:
          difference: [n, ...] difference images.
          change: [n, ...] changes of the latent.
          rank: components kept; at most what the data have.
        """
        x, y = _rows(difference), _rows(change)
        self.mean_x, self.mean_y = x.mean(axis=0), y.mean(axis=0)
        x, y = x - self.mean_x, y - self.mean_y
        # the smaller of the two Gram matrices has the same spectrum
        wide = x.shape[1] > x.shape[0]
        values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
        keep = np.argsort(values)[::-1][:rank]
        keep = keep[values[keep] > 1e-10 * max(values.max(), 1e-30)]
        self.components = (x.T @ vectors[:, keep]) / np.sqrt(values[keep]) if wide else vectors[:, keep]  # [p, rank]
        # scores of different components are orthogonal: least squares falls apart into one quotient each
        self.weights = (x @ self.components).T @ y / values[keep][:, None]  # [rank, q]

    def predict(self, difference: np.ndarray) -> np.ndarray:
        """Difference images [m, ...] -> predicted changes of the latent [m, q]."""
        return (_rows(difference) - self.mean_x) @ self.components @ self.weights + self.mean_y

    def score(self, difference: np.ndarray, change: np.ndarray) -> float:
        """R on held-out pairs: 1 - MSE(prediction) / MSE(no change)."""
        target = _rows(change)
        return float(1 - ((self.predict(difference) - target) ** 2).sum() / (target**2).sum())


def _rows(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float64).reshape(len(x), -1)


def difference_and_change(latent: nn.Module, constants: Any, batch: Batch, task: str) -> tuple[jax.Array, jax.Array]:
    """What the linear baseline reads and predicts: ([B, H, W, C] difference image of the action, change of latent).

    Args:
      latent: the module of the pretext's latent.
      constants: its fitted constants.
      batch: pairs, with "before" for the task `forecast`.
      task: reconstruct or forecast.
    """
    variables = {"constants": constants}
    change = jnp.asarray(latent.apply(variables, batch["second"])) - jnp.asarray(
        latent.apply(variables, batch["first"])
    )
    seen = batch["first"] - batch["before"] if task == "forecast" else batch["second"] - batch["first"]
    return seen, change
