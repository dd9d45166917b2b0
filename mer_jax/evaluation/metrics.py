"""Scores of single-label recognition, all derived from one confusion matrix (rows truth, columns prediction).

For class c, TP, FP and FN are counted over ALL pooled predictions of a protocol, never averaged over folds (Forman and
Scholz 2010, Apples-to-apples in cross-validation studies; the rule of MEGC 2019). The scores are written with array
operators only: the same function serves numpy (evaluation) and jax under jit (the selection score of training), and
takes any number of leading axes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = Any  # a numpy or a jax array


def confusion(truth: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts clips by (truth, prediction).

    Args:
      truth: int [n], 0 .. n_classes - 1.
      predicted: int [n].
      n_classes: number C of classes of the protocol, present or not.

    Returns:
      int64 [C, C], rows truth, columns prediction.

    Raises:
      ValueError: a label outside 0 .. C - 1, or arrays of different lengths.
    """
    return grouped_confusion(truth, predicted, np.zeros(len(truth), np.int64), 1, n_classes)[0]


def grouped_confusion(
    truth: np.ndarray, predicted: np.ndarray, group: np.ndarray, n_groups: int, n_classes: int
) -> np.ndarray:
    """One confusion matrix a group (person, dataset, seed).

    Args:
      truth: int [n].
      predicted: int [n].
      group: int [n], 0 .. n_groups - 1.
      n_groups: number G of groups.
      n_classes: number C of classes.

    Returns:
      int64 [G, C, C].

    Raises:
      ValueError: a label or group out of range, or arrays of different lengths.
    """
    truth, predicted, group = (np.asarray(a).astype(np.int64) for a in (truth, predicted, group))
    if not len(truth) == len(predicted) == len(group):
        raise ValueError(f"{len(truth)} truths, {len(predicted)} predictions, {len(group)} groups")
    for what, values, bound in (("truth", truth, n_classes), ("prediction", predicted, n_classes)):
        if len(values) and (values.min() < 0 or values.max() >= bound):
            raise ValueError(f"a {what} is outside 0 .. {bound - 1}")
    if len(group) and (group.min() < 0 or group.max() >= n_groups):
        raise ValueError(f"a group is outside 0 .. {n_groups - 1}")
    cell = (group * n_classes + truth) * n_classes + predicted
    counts = np.bincount(cell, minlength=n_groups * n_classes**2)
    return counts.reshape(n_groups, n_classes, n_classes).astype(np.int64)


def _ratio(numerator: Array, denominator: Array) -> Array:
    """`numerator / denominator`, 0 where the denominator is 0 (defined under jit, without a warning)."""
    return numerator / (denominator + (denominator == 0))


def _mean_where(values: Array, counted: Array) -> Array:
    return _ratio((values * counted).sum(-1), counted.sum(-1))


def _true_positives(matrix: Array) -> Array:
    return matrix.diagonal(axis1=-2, axis2=-1)


def class_f1(matrix: Array) -> Array:
    """F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c) of each class; [..., C, C] -> [..., C], 0 where undefined."""
    return _ratio(2 * _true_positives(matrix), matrix.sum(-1) + matrix.sum(-2))


def class_recall(matrix: Array) -> Array:
    """TP_c / (TP_c + FN_c) of each class; [..., C, C] -> [..., C], 0 where the class has no clip."""
    return _ratio(_true_positives(matrix), matrix.sum(-1))


def class_precision(matrix: Array) -> Array:
    """TP_c / (TP_c + FP_c) of each class; [..., C, C] -> [..., C], 0 where the class is never predicted."""
    return _ratio(_true_positives(matrix), matrix.sum(-2))


def acc(matrix: Array) -> Array:
    """Accuracy (= weighted average recall = micro-F1); [..., C, C] -> [...]."""
    return _ratio(_true_positives(matrix).sum(-1), matrix.sum(-1).sum(-1))


def uf1(matrix: Array) -> Array:
    """Unweighted (macro) F1 over the classes of the protocol; [..., C, C] -> [...].

    A class with neither truth nor prediction has no F1 and is left out (see `missing_classes`); one that is predicted
    but never true counts 0.
    """
    return _mean_where(class_f1(matrix), (matrix.sum(-1) + matrix.sum(-2)) > 0)


def uar(matrix: Array) -> Array:
    """Unweighted average recall (balanced accuracy); [..., C, C] -> [...]. A class without clips is left out."""
    return _mean_where(class_recall(matrix), matrix.sum(-1) > 0)


def wf1(matrix: Array) -> Array:
    """F1 weighted by the number of clips of a class, sum n_c F1_c / N; [..., C, C] -> [...]."""
    return _ratio((class_f1(matrix) * matrix.sum(-1)).sum(-1), matrix.sum(-1).sum(-1))


SCORES: Mapping[str, Callable[[Array], Array]] = {"acc": acc, "uf1": uf1, "uar": uar, "wf1": wf1}


def missing_classes(matrix: np.ndarray) -> np.ndarray:
    """Positions of the classes of [C, C] without a single clip: they make UF1 and UAR averages over fewer classes."""
    return np.flatnonzero(matrix.sum(-1) == 0)


def _uf1_of_present(matrix: Array) -> Array:
    return _mean_where(class_f1(matrix), matrix.sum(-1) > 0)


# In a resample a class may vanish with its persons; false positives of a class that cannot be hit would bias UF1 down.
RESAMPLED_SCORES: Mapping[str, Callable[[Array], Array]] = dict(SCORES) | {"uf1": _uf1_of_present}


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """Percentile intervals of a bootstrap over persons.

    Attributes:
      intervals: score -> (low, high).
      replicates: number of resamples.
      incomplete: how many of them lacked a class that the whole has.
      persons: number of persons resampled.
      level: coverage, for example 0.95.
    """

    intervals: Mapping[str, tuple[float, float]]
    replicates: int
    incomplete: int
    persons: int
    level: float


def person_weights(n_persons: int, replicates: int, seed: int) -> np.ndarray:
    """How often each person is drawn in each resample with replacement: float64 [replicates, n_persons]."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_persons, np.full(n_persons, 1 / n_persons), size=replicates).astype(np.float64)


def percentile_interval(values: np.ndarray, level: float) -> tuple[float, float]:
    """The central `level` of values [R], as (low, high)."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap(
    per_person: np.ndarray,
    *,
    scores: Mapping[str, Callable[[Array], Array]] = RESAMPLED_SCORES,
    support: Callable[[Array], Array] = lambda matrix: matrix.sum(-1),
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Bootstrap:
    """Intervals by resampling persons, the independent units of a subject-independent protocol.

    Every replicate draws the same persons for all seeds and averages the score over seeds. A replicate that lacks a
    class averages UF1 and UAR over the classes it has, and is counted in `incomplete`.

    Args:
      per_person: int [S, P, ...], counts of each seed and person; [..., C, C] for confusion matrices.
      scores: name -> function of counts [S, R, ...] -> [S, R].
      support: counts [..., C, C] -> clips of each class [..., C].
      replicates: number R of resamples.
      level: coverage of the interval.
      seed: seed of the resampling.

    Returns:
      The intervals.

    Raises:
      ValueError: no person.
    """
    n_seeds, n_persons, *shape = per_person.shape
    if n_persons == 0:
        raise ValueError("a bootstrap over persons needs at least one person")
    weights = person_weights(n_persons, replicates, seed)
    # Sums of counts are exact in float64, which has the fast matrix product.
    pooled = weights @ per_person.reshape(n_seeds, n_persons, -1).astype(np.float64)
    pooled = pooled.reshape(n_seeds, replicates, *shape)
    intervals = {name: percentile_interval(score(pooled).mean(0), level) for name, score in scores.items()}
    has_class = support(per_person[0].sum(0)) > 0
    incomplete = (support(pooled[0])[:, has_class] == 0).any(-1).sum()
    return Bootstrap(intervals, replicates, int(incomplete), n_persons, level)
