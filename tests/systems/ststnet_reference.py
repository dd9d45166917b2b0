"""STSTNet in numpy, one formula a line; weights by their released names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Weights = Mapping[str, np.ndarray]


def from_ours(variables: Any) -> dict[str, np.ndarray]:
    """Linen variables -> released names and layouts."""
    found = {"fc.weight": np.asarray(variables["params"]["linear"]["kernel"]).T}
    found["fc.bias"] = np.asarray(variables["params"]["linear"]["bias"])
    for name, ours in variables["params"].items():
        if name.startswith("stream_"):
            i, statistics = name.removeprefix("stream_"), variables["batch_stats"][name]
            found |= {
                f"conv{i}.weight": np.asarray(ours["kernel"]).transpose(3, 2, 0, 1),
                f"conv{i}.bias": ours["bias"],
            }
            found |= {f"bn{i}.weight": ours["scale"], f"bn{i}.bias": ours["shift"]}
            found |= {f"bn{i}.running_mean": statistics["mean"], f"bn{i}.running_var": statistics["var"]}
    return {name: np.asarray(value, np.float64) for name, value in found.items()}


def rectified(x: np.ndarray, weights: Weights, i: int) -> np.ndarray:
    """relu(conv) of stream i: [B, S, S, C] -> [B, F, S + 2, S + 2]."""
    size = x.shape[1] + 2
    x = np.pad(x.astype(np.float64).transpose(0, 3, 1, 2), ((0, 0), (0, 0), (2, 2), (2, 2)))
    y = np.empty((len(x), len(weights[f"conv{i}.bias"]), size, size))
    for r in range(size):
        for c in range(size):
            y[:, :, r, c] = np.einsum("bcij,fcij->bf", x[:, :, r : r + 3, c : c + 3], weights[f"conv{i}.weight"])
    return np.maximum(y + weights[f"conv{i}.bias"][:, None, None], 0)


def statistics(x: np.ndarray, weights: Weights) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Mean and variance of a sample of each stream's rectified maps."""
    for i in (1, 2, 3):
        y = rectified(x, weights, i)
        yield y.mean((0, 2, 3)), y.var((0, 2, 3), ddof=1)


def logits(x: np.ndarray, weights: Weights, running: bool) -> np.ndarray:
    """[B, S, S, 3] -> [B, classes], without dropout; `running` takes the kept statistics instead of the batch's."""
    maps = []
    for i in (1, 2, 3):
        y = rectified(x, weights, i)
        mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3))
        if running:
            mean, variance = weights[f"bn{i}.running_mean"], weights[f"bn{i}.running_var"]
        scale, shift = weights[f"bn{i}.weight"], weights[f"bn{i}.bias"]
        column = (slice(None), None, None)
        y = (y - mean[column]) / np.sqrt(variance[column] + 1e-5) * scale[column] + shift[column]
        y = np.pad(y, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
        n = (y.shape[2] - 3) // 3 + 1
        windows = [[y[:, :, 3 * r : 3 * r + 3, 3 * c : 3 * c + 3].max((2, 3)) for c in range(n)] for r in range(n)]
        maps.append(np.array(windows).transpose(2, 3, 0, 1))
    pooled = np.concatenate(maps, axis=1)
    k = pooled.shape[2] // 2
    pooled = pooled[:, :, : 2 * k, : 2 * k].reshape(len(x), -1, k, 2, k, 2).mean((3, 5))
    return pooled.reshape(len(x), -1) @ weights["fc.weight"].T + weights["fc.bias"]
