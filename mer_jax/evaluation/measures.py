"""`measures.csv`: what a system is scored by beside its class, clip by clip, and its summary over persons."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mer_jax.evaluation.metrics import percentile_interval, person_weights
from mer_jax.evaluation.results import KEYS, Predictions
from mer_jax.files import atomic_open


@dataclasses.dataclass(frozen=True)
class Measures:
    """Measures of the clips of a run.

    Attributes:
      clips: the predictions that they stand beside: row i is clip i of one seed.
      values: name -> float64 [n], NaN where unknown.
    """

    clips: Predictions
    values: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, predictions: Predictions, found: Mapping[str, Mapping[str, float | None]]) -> Measures:
        """From name -> {clip: value} of one seed; a clip that is not named, or None, is unknown."""

        def column(known: Mapping[str, float | None]) -> np.ndarray:
            values = [known.get(clip) for clip in predictions.clip.tolist()]
            return np.array([math.nan if v is None else v for v in values], np.float64)

        return cls(predictions, {name: column(known) for name, known in found.items()})


def write_measures(path: str | pathlib.Path, parts: Sequence[Measures]) -> None:
    """Writes `measures.csv` (seed,fold,dataset,subject,clip,<name>...), seed by seed; an unknown value is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(parts[0].values)
    writer.writerow([*KEYS, *names])
    for part in parts:
        keys = zip(*(getattr(part.clips, key).tolist() for key in KEYS), strict=True)
        for key, *row in zip(keys, *(part.values[n].tolist() for n in names), strict=True):
            writer.writerow([*key, *("" if math.isnan(v) else f"{v:.6g}" for v in row)])
    with atomic_open(path) as file:
        file.write(text.getvalue())


def summarise(
    parts: Sequence[Measures], replicates: int = 2000, level: float = 0.95, seed: int = 0
) -> dict[str, dict[str, float | int | None]]:
    """Means over clips, with the spread over seeds and an interval over persons.

    Args:
      parts: one a seed, over the same clips.
      replicates: resamples of the bootstrap over persons; a resample draws the same persons for all seeds.
      level: coverage of its intervals.
      seed: of the resampling.

    Returns:
      name -> {n: clips in which it is known (of the first seed), mean: over clips, then over seeds, std: over the
      seeds' means, low, high}; None where it is known nowhere. Persons count by their clips, as in the scores.
    """
    result: dict[str, dict[str, float | int | None]] = {}
    for name in parts[0].values:
        sums, counts = (np.stack(x) for x in zip(*(_by_person(p, name) for p in parts), strict=True))
        if not counts.sum(1).all():
            result[name] = {"n": 0, "mean": None, "std": None, "low": None, "high": None}
            continue
        means = sums.sum(1) / counts.sum(1)
        weights = person_weights(sums.shape[1], replicates, seed)
        drawn = counts @ weights.T  # a resample may miss everybody in whom it is known
        resampled = np.where(drawn > 0, sums @ weights.T / np.maximum(drawn, 1), means[:, None]).mean(0)
        low, high = percentile_interval(resampled, level)
        std = float(means.std(ddof=1)) if len(means) > 1 else 0.0
        result[name] = {"n": int(counts[0].sum()), "mean": float(means.mean()), "std": std, "low": low, "high": high}
    return result


def _by_person(part: Measures, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of known values of each person."""
    persons, place = np.unique(part.clips.person, return_inverse=True)
    values = part.values[name]
    known = np.isfinite(values)
    size = len(persons)
    return np.bincount(place[known], values[known], size), np.bincount(place[known], minlength=size).astype(float)


def format_measures(summary: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines for the terminal."""
    width = max(map(len, summary))
    lines = ["measures: mean over clips ± s.d. over seeds [interval over persons], clips"]
    for name, row in summary.items():
        if row["mean"] is None:
            lines.append(f"{name:{width}}  unknown")
            continue
        interval = f"[{row['low']:.4g}, {row['high']:.4g}]"
        lines.append(f"{name:{width}}  {row['mean']:.4g} ± {row['std']:.2g} {interval}  {row['n']}")
    return lines
