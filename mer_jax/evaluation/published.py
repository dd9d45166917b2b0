"""Published results, shown beside a run only where label map, protocol and counts are the same.

`published.csv` holds what others printed: a number is as its source prints it (as a share of 1), and an empty cell is
unknown. Many sources chose the epoch on the test persons: `test_selected` says yes or no only where their code was
read. `f1` is an F1 whose average (macro, weighted) the source does not name; `year` is that of the source.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from mer_jax.evaluation.datasets import canonical

METRICS = ("acc", "uf1", "uar", "f1", "f1_binary", "f1_binary_datasets")
_FILE = "published.csv"


@dataclasses.dataclass(frozen=True)
class Published:
    """One row of `published.csv`.

    Attributes:
      system: as its source calls it, with the variant.
      year: of the source; "" where unknown.
      datasets: that the number is of; under a pooled protocol it may be a part of those that trained.
      classes: how many; None where unknown.
      label_set: the registered set with the same map; "" where unknown.
      counts: class -> clips (action units: dataset -> clips); empty where the source does not tell.
      n: clips; None where unknown.
      protocol: a registered protocol, or words; "" where unknown.
      scores: of `METRICS`, those that are known.
      test_selected: "yes" if the epoch was chosen on the test persons, "no", or "unknown".
      source: where it was printed.
      note: what a reader must know.
    """

    system: str
    year: str
    datasets: frozenset[str]
    classes: int | None
    label_set: str
    counts: Mapping[str, int]
    n: int | None
    protocol: str
    scores: Mapping[str, float]
    test_selected: str
    source: str
    note: str


@dataclasses.dataclass(frozen=True)
class Beside:
    """Published results of what a run scored.

    Attributes:
      parts: "" (all clips) or a dataset -> the results of the same label map, protocol and counts.
      other_counts: results of the same label map and protocol with other or unknown counts: not shown.
    """

    parts: Mapping[str, tuple[Published, ...]]
    other_counts: tuple[Published, ...]


@cache
def published() -> tuple[Published, ...]:
    """All rows of `published.csv`."""
    text = resources.files(__package__).joinpath(_FILE).read_text(encoding="utf-8")
    return tuple(_parse(row) for row in csv.DictReader(io.StringIO(text)))


def _parse(row: Mapping[str, str]) -> Published:
    counts = dict(pair.rsplit(":", 1) for pair in row["counts"].split())
    return Published(
        row["system"],
        row["year"],
        frozenset(row["dataset"].split("+")),
        int(row["classes"]) if row["classes"] else None,
        row["label_set"],
        {name: int(number) for name, number in counts.items()},
        int(row["n"]) if row["n"] else None,
        row["protocol"],
        {name: float(row[name]) for name in METRICS if row[name]},
        row["test_selected"],
        row["source"],
        row["note"],
    )


def beside(metrics: Mapping[str, Any]) -> Beside:
    """The published results that may stand beside a run.

    Args:
      metrics: content of its metrics.json.

    Returns:
      Results whose label set, protocol and clips of every class (action units: of every dataset) are those of the run,
      or of one of its datasets.
    """
    parts = _parts(metrics)
    found: dict[str, list[Published]] = {}
    others = []
    for row in published():
        if not row.label_set or row.label_set != metrics.get("label_set") or row.protocol != metrics.get("protocol"):
            continue
        name = next((name for name, (datasets, _) in parts.items() if datasets == row.datasets), None)
        if name is not None and row.counts and dict(row.counts) == parts[name][1]:
            found.setdefault(name, []).append(row)
        else:
            others.append(row)
    return Beside({name: tuple(rows) for name, rows in sorted(found.items())}, tuple(others))


def _parts(metrics: Mapping[str, Any]) -> dict[str, tuple[frozenset[str], dict[str, int]]]:
    """Part of a run ("" all, or the dataset as it names it) -> its datasets and counts."""
    per_dataset: Mapping[str, Any] = metrics.get("per_dataset") or {}
    names = {dataset: canonical(dataset) for dataset in per_dataset}
    everything = frozenset(names.values())
    if len(everything) < len(names):  # two builds of one dataset: nobody published that
        return {}
    if metrics.get("task", "emotion") == "au":
        return {"": (everything, {names[d]: part["n"] for d, part in per_dataset.items()})}
    whole = {c: int(row["support"]) for c, row in (metrics.get("per_class") or {}).items()}
    parts = {"": (everything, whole)}
    if len(names) > 1:
        seeds = len(metrics.get("per_seed") or [0])
        for dataset, part in per_dataset.items():
            counts = [sum(row) // seeds for row in part["confusion"]]  # summed over seeds
            parts[dataset] = (frozenset([names[dataset]]), dict(zip(metrics["classes"], counts, strict=True)))
    return parts
