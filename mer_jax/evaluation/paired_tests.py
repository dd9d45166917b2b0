"""Tests of two systems that were tried on the same people, from counts alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist

import numpy as np

from mer_jax.evaluation.metrics import Array

Scores = Mapping[str, Callable[[Array], Array]]
TIE = 1e-12  # swaps that give the observed difference back do so up to rounding


@dataclasses.dataclass(frozen=True)
class SignSwap:
    """Result of a permutation test.

    Attributes:
      p: score -> two-sided p value.
      exact: whether all swaps were enumerated.
      arrangements: number of swaps.
      persons: persons who are predicted differently by the two runs; swapping the others changes nothing.
      smallest_p: the smallest p that this many persons (or draws) can give.
    """

    p: Mapping[str, float]
    exact: bool
    arrangements: int
    persons: int
    smallest_p: float


def sign_swap(a: np.ndarray, b: np.ndarray, scores: Scores, permutations: int = 9999, seed: int = 0) -> SignSwap:
    """Two-sided permutation test of score(a) = score(b): swaps the runs' predictions person by person.

    If the runs are exchangeable, then swapping their predictions of any person (all clips, all seeds at once, seed k of
    one run with seed k of the other) changes nothing: p is the share of the swaps whose absolute difference is at
    least the observed one. Drawn swaps give p = (1 + hits) / (1 + draws) (Phipson and Smyth 2010, Permutation P-values
    should never be zero). INFERRED for different numbers of seeds: seeds are repeated up to the least common multiple,
    which keeps each run's mean over seeds; a mean over fewer seeds varies more, so p is then approximate.

    Args:
      a: int [S, P, ...], counts of each seed and person.
      b: int [T, P, ...].
      scores: name -> function of counts [R, ...] -> [R].
      permutations: number of swaps to draw; all swaps are enumerated where there are not more than these.
      seed: of the draws.

    Returns:
      p values; the observed arrangement counts as one of them, so that p is never 0.
    """
    common = math.lcm(len(a), len(b))
    first, second = (x[np.arange(common) % len(x)] for x in (a, b))
    shape = first.shape[2:]
    gap = (second - first).reshape(common, first.shape[1], -1).astype(np.float64)
    differs = gap.any((0, 2))
    persons = int(differs.sum())
    # Swapping everybody only changes the sign: half of the 2^persons arrangements, one person held, tell everything.
    exact = 2 ** max(persons - 1, 0) <= permutations
    if exact:
        bits = np.arange(2 ** max(persons - 1, 0))[:, None] >> np.arange(persons)[None] & 1
        swaps = bits.astype(np.float64)
    else:
        swaps = np.random.default_rng(seed).integers(0, 2, (permutations, persons)).astype(np.float64)
    swaps = np.concatenate([np.zeros((1, persons)), swaps])  # the observed one leads
    difference = {name: np.zeros(len(swaps)) for name in scores}
    for k in range(common):
        moved = (swaps @ gap[k][differs]).reshape(-1, *shape)
        sides = first[k].sum(0) + moved, second[k].sum(0) - moved
        for name, score in scores.items():
            difference[name] += (score(sides[0]) - score(sides[1])) / common
    p = {}
    for name, values in difference.items():
        hits = int((np.abs(values[1:]) >= abs(values[0]) - TIE).sum())
        p[name] = hits / (len(swaps) - 1) if exact else (1 + hits) / len(swaps)
    smallest = 1 / (len(swaps) - 1) if exact else 1 / len(swaps)
    return SignSwap(p, exact, len(swaps) - 1, persons, smallest)


def smallest_difference(se: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The true difference that a two-sided test at `alpha` finds with probability `power`.

    (z_{1 - alpha/2} + z_power) se, a normal approximation; `se` is the standard error of the difference, here the
    standard deviation of its bootstrap over persons.
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)) * se


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjusted p values: max over the smaller ones of (m - rank) p, at most 1."""
    order = np.argsort(p, kind="stable")
    steps = np.asarray(p, float)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return [float(value) for value in adjusted]


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar test: is the share of the discordant cases that only one run has right one half?

    Args:
      only_a: cases that only the first run has right.
      only_b: cases that only the second run has right.

    Returns:
      2 P(X <= min) for X ~ Binomial(only_a + only_b, 1/2), at most 1.
    """
    n, fewer = only_a + only_b, min(only_a, only_b)
    term, total = 1, 0
    for k in range(fewer + 1):  # whole numbers: exact for any n
        total += term
        term = term * (n - k) // (k + 1)
    return min(1.0, 2 * total / 2**n)
