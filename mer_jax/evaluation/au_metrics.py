"""Scores of action-unit detection: many binary decisions a clip, unknown units masked.

Two flavours of F1 are in use and both are reported by name (Varanka et al., MEB benchmark): `f1_binary`, F1 of the
positive class, and `f1_macro`, the mean of the F1 of both classes. Each is computed for each action unit from the
decisions pooled over all folds, then averaged over the units that occur.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mer_jax.evaluation import metrics
from mer_jax.evaluation.metrics import Array


def au_confusion(truth: np.ndarray, predicted: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """One 2x2 matrix a group and action unit, over the clips whose unit is known.

    Args:
      truth: int [n, A] in {1 present, 0 absent, -1 unknown}.
      predicted: int [n, A] in {1, 0}.
      group: int [n], 0 .. n_groups - 1.
      n_groups: number G of groups.

    Returns:
      int64 [G, A, 2, 2], rows truth, columns prediction.
    """
    n_units = truth.shape[1]
    known = truth >= 0
    unit = np.broadcast_to(np.arange(n_units), truth.shape)
    cell = (np.asarray(group)[:, None] * n_units + unit)[known]
    counts = metrics.grouped_confusion(truth[known], predicted[known], cell, n_groups * n_units, 2)
    return counts.reshape(n_groups, n_units, 2, 2)


def support(matrix: Array) -> Array:
    """Clips with the action unit; [..., A, 2, 2] -> [..., A]."""
    return matrix[..., 1, :].sum(-1)


def f1_binary(matrix: Array) -> Array:
    """F1 of the positive class of each action unit; [..., A, 2, 2] -> [..., A]."""
    return metrics.class_f1(matrix)[..., 1]


def f1_macro(matrix: Array) -> Array:
    """Mean of the F1 of "absent" and "present" of each action unit; [..., A, 2, 2] -> [..., A]."""
    return metrics.class_f1(matrix).mean(-1)


def au_average(values: Array, matrix: Array) -> Array:
    """Mean over the action units that occur at least once; values [..., A], matrix [..., A, 2, 2] -> [...].

    INFERRED: a unit without a single positive has no binary F1 worth the name; it is left out and named in the notes.
    """
    occurs = support(matrix) > 0
    number = occurs.sum(-1)
    return (values * occurs).sum(-1) / (number + (number == 0))


SCORES: Mapping[str, Callable[[Array], Array]] = {
    "f1_binary": lambda matrix: au_average(f1_binary(matrix), matrix),
    "f1_macro": lambda matrix: au_average(f1_macro(matrix), matrix),
}


def constant_predictor(matrix: np.ndarray, value: int) -> np.ndarray:
    """The 2x2 matrices [..., A, 2, 2] that always answering `value` (0 or 1) would give on the same clips."""
    constant = np.zeros_like(matrix)
    constant[..., value] = matrix.sum(-1)
    return constant
