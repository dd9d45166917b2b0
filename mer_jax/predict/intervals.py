"""From probabilities of windows to intervals with an expression."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Interval:
    """A stretch of time with an expression.

    Attributes:
      start: seconds.
      end: seconds.
      windows: numbers (positions in the arrays) of its first and last window.
      peak: the window with the largest score.
      score: of that window.
    """

    start: float
    end: float
    windows: tuple[int, int]
    peak: int
    score: float


def find(scores: np.ndarray, middles: np.ndarray, stride: float, threshold: float, shortest: float) -> list[Interval]:
    """Merges neighbouring windows whose score reaches a threshold.

    INFERRED: an interval goes from half a stride before the middle of its first window to half a stride after that of
    its last. Windows overlap an event already when it begins at their end; the union of windows would be longer than
    the event by a whole window.

    Args:
      scores: [n], NaN where unknown (which ends an interval).
      middles: [n], seconds, ascending.
      stride: seconds between two windows.
      threshold: least score.
      shortest: intervals shorter than this many seconds are dropped.
    """
    above = np.concatenate([[False], np.nan_to_num(scores, nan=-np.inf) >= threshold, [False]])
    begins, ends = np.flatnonzero(above[1:] & ~above[:-1]), np.flatnonzero(~above[1:] & above[:-1]) - 1
    found = []
    for first, last in zip(begins.tolist(), ends.tolist(), strict=True):
        start, end = max(float(middles[first]) - stride / 2, 0.0), float(middles[last]) + stride / 2
        if end - start >= shortest - 1e-9:
            peak = first + int(np.argmax(scores[first : last + 1]))
            found.append(Interval(start, end, (first, last), peak, float(scores[peak])))
    return found


def overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Intersection over union of two intervals."""
    shared = min(a[1], b[1]) - max(a[0], b[0])
    return max(shared, 0.0) / (max(a[1], b[1]) - min(a[0], b[0]))


def matches(found: list[tuple[float, float]], true: list[tuple[float, float]], least: float = 0.5) -> int:
    """How many intervals are found: pairs with an overlap of at least `least`, each interval in one pair at most.

    Pairs are taken from the largest overlap on, which for a `least` of 0.5 or more is the largest number of pairs
    where the true intervals do not overlap each other.
    """
    pairs = [(overlap(f, t), i, j) for i, f in enumerate(found) for j, t in enumerate(true)]
    used: tuple[set[int], set[int]] = (set(), set())
    for value, i, j in sorted(pairs, reverse=True):
        if value >= least and i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
    return len(used[0])
