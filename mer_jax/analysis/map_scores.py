"""`maps.csv`: how much of each map lies where the face moves, clip by clip, and what that says over persons."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax.errors import UserError
from mer_jax.evaluation.metrics import percentile_interval, person_weights
from mer_jax.evaluation.paired_tests import sign_swap
from mer_jax.files import atomic_open

SCORES = "maps.csv"
MAPS = "analysis/maps.npz"
GRADCAM, GRADIENTS = "Grad-CAM", "integrated gradients"
COLUMNS = ("seed", "fold", "dataset", "subject", "clip", "map", "weights", "disturbed")
VALUES = ("au_share", "au_area", "own", "other", "event_share", "event_moments", "gap")
TRAINED, RANDOM, MEAN, NONE = "trained", "random", "mean of others", "none"
DIFFERENCE = "difference image"
MOMENTS = ("onset", "apex", "offset")  # at which maps are drawn
REPLICATES = 2000
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class MapScores:
    """Content of `maps.csv`: n rows, one a clip, map and weights.

    Attributes:
      text: column of COLUMNS -> str [n].
      value: column of VALUES -> float [n], NaN where unknown.
    """

    text: Mapping[str, np.ndarray]
    value: Mapping[str, np.ndarray]

    @property
    def maps(self) -> list[str]:
        """Maps of the networks, in the file's order."""
        return list(dict.fromkeys(self.text["map"][self.text["weights"] == TRAINED].tolist()))

    def column(self, name: str, which: str, weights: str, clips: Sequence[str]) -> np.ndarray:
        """A value of a map for the given clips, NaN where there is none: float [len(clips)]."""
        mine = (self.text["map"] == which) & (self.text["weights"] == weights)
        known = dict(zip(self.text["clip"][mine].tolist(), self.value[name][mine].tolist(), strict=True))
        return np.array([known.get(clip, np.nan) for clip in clips])


def top(values: np.ndarray, share: float) -> np.ndarray:
    """The largest values, exactly that share of the places (of equal ones the first): bool, of the same shape."""
    order = np.argsort(-values.ravel(), kind="stable")
    mask = np.zeros(values.size, bool)
    mask[order[: round(share * values.size)]] = True
    return mask.reshape(values.shape)


def own_and_other(heat: np.ndarray, moving: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mass of each map in its clip's own moving region, and its mean mass in those of clips of other classes.

    Args:
      heat: [n, S, S] of unit mass.
      moving: bool [n, S, S].
      labels: [n].

    Returns:
      own [n] and other [n]; `other` is NaN where there is no other class.
    """
    n = len(heat)
    mass = heat.reshape(n, -1).astype(np.float64) @ moving.reshape(n, -1).T.astype(np.float64)
    differs = labels[:, None] != labels[None]
    count = differs.sum(1)
    other = np.where(count > 0, (mass * differs).sum(1) / np.maximum(count, 1), np.nan)
    return mass.diagonal().copy(), other


def write_scores(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes `maps.csv`; unknown values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *VALUES])
    for row in rows:
        values = ["" if not np.isfinite(row[name]) else f"{row[name]:.6g}" for name in VALUES]
        writer.writerow([*(row[name] for name in COLUMNS), *values])
    with atomic_open(path) as file:
        file.write(text.getvalue())


def read_scores(path: Path) -> MapScores:
    """Reads `maps.csv`.

    Raises:
      UserError: other columns, or a cell that is no number; names file and row.
    """
    with io.StringIO(path.read_text(encoding="utf-8"), newline="") as file:
        reader = csv.reader(file)
        head, rows = next(reader, []), list(reader)
    if tuple(head) != (*COLUMNS, *VALUES):
        raise UserError(f"{path}, row 1: found {','.join(head)}; expected {','.join((*COLUMNS, *VALUES))}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(head) or any(cell and not _is_number(cell) for cell in row[len(COLUMNS) :]):
            raise UserError(
                f"{path}, row {number}: found {','.join(row)[:80]!r}; expected {len(head)} cells, numbers last"
            )
    columns = dict(zip(head, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(head, ())
    values = {name: np.array([float(cell) if cell else np.nan for cell in columns[name]]) for name in VALUES}
    return MapScores({name: np.array(columns[name], str) for name in COLUMNS}, values)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def summarise(scores: MapScores, clips: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """What the maps are worth, over persons.

    Args:
      scores: of a run.
      clips: only these; None for all.

    Returns:
      map -> {"au": ..., "moving": ..., "event": ...}, those that are known. Each is {n, persons, share, chance and, by
      name of what the map stands beside ("uniform", "random weights", "mean of others", "difference image"), what
      `paired` says}. `share` is the mean mass in the region; of "moving" own minus others, whose chance is 0.
    """
    names = dict.fromkeys(scores.text["clip"].tolist())
    kept = [clip for clip in names if clips is None or clip in set(clips)]
    subject = dict(zip(scores.text["clip"].tolist(), _person(scores), strict=True))
    person = np.array([subject[clip] for clip in kept])

    def values(kind: str, which: str, weights: str) -> np.ndarray:
        if kind == "moving":
            return scores.column("own", which, weights, kept) - scores.column("other", which, weights, kept)
        return scores.column({"au": "au_share", "event": "event_share"}[kind], which, weights, kept)

    found: dict[str, dict[str, Any]] = {}
    for which in [*scores.maps, DIFFERENCE]:
        weights = NONE if which == DIFFERENCE else TRAINED
        for kind in ("au", "moving", "event"):
            mine = values(kind, which, weights)
            if not np.isfinite(mine).any():
                continue
            chance = np.zeros(len(kept))
            if kind != "moving":
                column = {"au": "au_area", "event": "event_moments"}[kind]
                chance = scores.column(column, which, weights, kept)
            beside = {"uniform": chance}
            if which != DIFFERENCE:
                beside |= {"random weights": values(kind, which, RANDOM), "mean of others": values(kind, which, MEAN)}
                beside[DIFFERENCE] = values(kind, DIFFERENCE, NONE)
            known = np.isfinite(mine)
            row: dict[str, Any] = {"n": int(known.sum()), "persons": len(set(person[known].tolist()))}
            row |= {"share": float(mine[known].mean()), "chance": float(chance[known].mean())}
            row |= {name: paired(mine, other, person) for name, other in beside.items() if np.isfinite(other).any()}
            found.setdefault(which, {})[kind] = row
    return found


def _person(scores: MapScores) -> list[str]:
    return [f"{d}/{s}" for d, s in zip(scores.text["dataset"].tolist(), scores.text["subject"].tolist(), strict=True)]


def paired(values: np.ndarray, other: np.ndarray, person: np.ndarray) -> dict[str, float | int]:
    """Difference of two values of the same clips.

    Args:
      values: [n], NaN where unknown.
      other: [n].
      person: [n].

    Returns:
      n: clips in which both are known; mean over them; low and high: interval over persons, who count by their clips;
      p: two-sided, of swapping the two person by person.
    """
    known = np.isfinite(values) & np.isfinite(other)
    names, place = np.unique(person[known], return_inverse=True)
    if not len(names):
        return {"n": 0, "mean": np.nan, "low": np.nan, "high": np.nan, "p": np.nan}
    count = np.bincount(place).astype(float)
    sums = [np.bincount(place, x[known], len(names)) for x in (values, other)]
    weights = person_weights(len(names), REPLICATES, 0)
    low, high = percentile_interval(weights @ (sums[0] - sums[1]) / (weights @ count), LEVEL)
    first, second = (np.stack([s, count], -1)[None] for s in sums)
    p = sign_swap(first, second, {"mean": lambda x: x[..., 0] / x[..., 1]}).p["mean"]
    mean = float((values[known] - other[known]).mean())
    return {"n": int(known.sum()), "mean": mean, "low": low, "high": high, "p": p}
