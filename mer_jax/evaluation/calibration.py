"""Do probabilities mean what they say? Reliability and expected calibration error (ECE).

A prediction comes with a confidence, the probability of the predicted class; among predictions of confidence q a share
q should be right. For action units the statement is the probability of "present" in each known decision, and the share
of present ones answers it. With predictions in bins (Naeini et al. 2015; Guo et al. 2017, On calibration of modern
neural networks, equation 3)

    ECE = sum over bins of n_b / n |share right in b - mean confidence in b|.

Bins are of equal mass (the same number of predictions in each): a micro-expression dataset has a few hundred clips, and
most of the 15 bins of equal width of Guo et al. would hold a handful; their ECE is given beside. ECE is never 0 on
finite data, so it stands beside what a perfectly calibrated system with the same confidences would get (consistency
resampling, Bröcker and Smith 2007).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mer_jax.evaluation.metrics import percentile_interval, person_weights
from mer_jax.evaluation.results import Predictions

EQUAL_WIDTH_BINS = 15  # Guo et al. 2017
_PER_BIN = 20  # INFERRED: fewer predictions a bin say nothing about a share


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Reliability of a run; arrays over the B bins of equal mass, in the order of confidence.

    Attributes:
      confidence: [B] mean confidence.
      right: [B] share that is right (action units: present).
      low: [B] interval of `right` over persons.
      high: [B].
      n: [B] predictions of a seed in the bin (mean over seeds).
      ece: with bins of equal mass; mean over seeds.
      ece_std: over seeds; 0 for one seed.
      ece_equal_width: with 15 bins of equal width; mean over seeds.
      ece_if_calibrated: mean ECE of a perfectly calibrated system with these confidences.
      ece_if_calibrated_high: its upper quantile at the level of the intervals: an ECE below it is no evidence.
      excess: mean confidence minus share right; above 0 is overconfident.
      level: of the intervals.
    """

    confidence: np.ndarray
    right: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray
    ece: float
    ece_std: float
    ece_equal_width: float
    ece_if_calibrated: float
    ece_if_calibrated_high: float
    excess: float
    level: float


def calibration(
    p: Predictions, *, bins: int = 10, replicates: int = 1000, level: float = 0.95, seed: int = 0
) -> Calibration | None:
    """Calibration of the predictions of one or several seeds.

    Args:
      p: predictions; each seed over the same clips.
      bins: bins of equal mass; fewer where a bin would hold less than 20 predictions.
      replicates: resamples of persons (intervals) and of answers (`ece_if_calibrated`).
      level: of the intervals.
      seed: of the resampling.

    Returns:
      The calibration; None where the predictions have no probabilities.
    """
    if p.probability is None or not len(p):
        return None
    confidence, right, person = _statements(p)
    n_runs = len(confidence)
    bins = max(1, min(bins, confidence.shape[1] // _PER_BIN))
    place = equal_mass(confidence.ravel(), bins).reshape(confidence.shape)
    persons, who = np.unique(person, return_inverse=True)
    cell = (who * bins + place).ravel()
    facts = (np.ones(confidence.shape), confidence, right)
    total, sure, hits = (np.bincount(cell, x.ravel(), len(persons) * bins).reshape(-1, bins) for x in facts)
    used = total.any(0)
    weights = person_weights(len(persons), replicates, seed)
    drawn = weights @ total
    shares = np.where(drawn > 0, weights @ hits / np.maximum(drawn, 1), np.nan)  # a resample may leave a bin empty
    bounds = [percentile_interval(column[np.isfinite(column)], level) for column in shares.T[used]]
    own = [equal_mass(c, bins) for c in confidence]
    errors = np.array([ece(c, r, b) for c, r, b in zip(confidence, right, own, strict=True)])
    wide = [ece(c, r, equal_width(c, EQUAL_WIDTH_BINS)) for c, r in zip(confidence, right, strict=True)]
    # A clip is as hard for one seed as for another: one draw a clip answers all seeds.
    luck = np.random.default_rng(seed).random((replicates, confidence.shape[1]))
    ideal = np.mean([_ece_of_draws(c, luck < c, b) for c, b in zip(confidence, own, strict=True)], axis=0)
    return Calibration(
        confidence=(sure.sum(0) / np.maximum(total.sum(0), 1))[used],
        right=(hits.sum(0) / np.maximum(total.sum(0), 1))[used],
        low=np.array([low for low, _ in bounds]),
        high=np.array([high for _, high in bounds]),
        n=total.sum(0)[used] / n_runs,
        ece=float(errors.mean()),
        ece_std=float(errors.std(ddof=1)) if n_runs > 1 else 0.0,
        ece_equal_width=float(np.mean(wide)),
        ece_if_calibrated=float(ideal.mean()),
        ece_if_calibrated_high=float(np.quantile(ideal, level)),
        excess=float(confidence.mean() - right.mean()),
        level=level,
    )


def equal_mass(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Bin of each confidence [n] in 0 .. bins - 1: as equally filled as ties, which stay together, allow."""
    _, inverse, count = np.unique(confidence, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - count / 2
    return np.asarray((middle * bins / len(confidence)).astype(np.int64)[inverse])


def equal_width(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Bin of each confidence [n]: ((k - 1) / bins, k / bins], 0 in the first one."""
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def ece(confidence: np.ndarray, right: np.ndarray, place: np.ndarray) -> float:
    """Expected calibration error.

    Args:
      confidence: [n].
      right: [n] 1 or 0.
      place: int [n], bin of each prediction.
    """
    return float(_ece_of_draws(confidence, np.asarray(right)[None], place)[0])


def _ece_of_draws(confidence: np.ndarray, right: np.ndarray, place: np.ndarray) -> np.ndarray:
    """ECE of each row of `right` [R, n]: [R]. The bin's n_b cancels: sum_b |sum_b right - sum_b confidence| / n."""
    member = (place[:, None] == np.arange(place.max() + 1)).astype(np.float64)
    return np.asarray(np.abs((right - confidence) @ member).sum(-1) / len(confidence))


def _statements(p: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence [S, n], whether it was right [S, n], and the person [n] behind each of the n statements of a seed."""
    assert p.probability is not None
    n_runs = len(p.seeds)
    if p.task == "au":
        first = p.truth[: len(p) // n_runs]
        known = np.tile(first >= 0, (n_runs, 1))
        person = np.repeat(p.person[: len(first)], (first >= 0).sum(1))
        return (
            p.probability[known].reshape(n_runs, -1),
            (p.truth[known] == 1).astype(float).reshape(n_runs, -1),
            person,
        )
    confidence = p.probability[np.arange(len(p)), p.predicted]
    right = (p.predicted == p.truth).astype(float)
    return confidence.reshape(n_runs, -1), right.reshape(n_runs, -1), p.person[: len(p) // n_runs]
