"""What crossing databases costs, from a finished study of several protocols.

    python -m mer_jax.analysis.cross_database WORKDIR

Rows of the study that differ in protocol and length alone are one system. For each database the table has the UF1 of
every protocol, from the same clips: inside the database (`loso_within`) and, beside it, pooled or held out, with the
difference inside minus crossing. Its interval is a bootstrap over the persons of the database, drawn alike for both
sides and all seeds; UF1 is the mean of the seeds. The majority predictor says the largest class of the database.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax.errors import MerError, UserError
from mer_jax.evaluation import metrics
from mer_jax.evaluation.results import Predictions, read_predictions
from mer_jax.files import atomic_open, read_json

WITHIN = "loso_within"
TABLE = "cross_database.csv"
_FREE = (("data", "protocol"), ("ft", "epochs"), ("init_from",), ("row_names",))  # what may differ inside a system


@dataclasses.dataclass(frozen=True)
class Cell:
    """One protocol of one system on one database.

    Attributes:
      system: name of the row that stays inside the databases.
      dataset: the database.
      protocol: of this cell.
      n: clips.
      persons: of the database.
      majority: UF1 of the database's largest class.
      uf1: mean over seeds.
      std: standard deviation over seeds, 0 for one.
      difference: UF1 inside the database minus `uf1`; None for `loso_within` itself.
      interval: of the difference.
    """

    system: str
    dataset: str
    protocol: str
    n: int
    persons: int
    majority: float
    uf1: float
    std: float
    difference: float | None = None
    interval: tuple[float, float] | None = None


def person_confusion(p: Predictions) -> tuple[np.ndarray, tuple[str, ...]]:
    """Confusion of each seed and person [S, P, C, C], and the names of the clips."""
    seeds, seed = np.unique(p.seed, return_inverse=True)
    persons, person = np.unique(p.person, return_inverse=True)
    groups = len(seeds) * len(persons)
    counts = metrics.grouped_confusion(p.truth, p.predicted, seed * len(persons) + person, groups, len(p.classes))
    clips = tuple(sorted(set(p.clip.tolist())))
    return counts.reshape(len(seeds), len(persons), *counts.shape[1:]), clips


def majority_uf1(counts: np.ndarray) -> float:
    """UF1 of always saying the largest class, from [S, P, C, C]."""
    truth = counts[0].sum(0).sum(-1)
    matrix = np.zeros((len(truth), len(truth)), np.int64)
    matrix[:, truth.argmax()] = truth
    return float(metrics.uf1(matrix))


def paired_difference(
    within: np.ndarray, crossing: np.ndarray, level: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """UF1 of `within` minus UF1 of `crossing`, counts [S, P, C, C] over the same persons, and its interval.

    Raises:
      ValueError: other persons or classes. Seeds are repeated where one side has fewer (the lesser common multiple).
    """
    if within.shape[1:] != crossing.shape[1:]:
        raise ValueError(f"counts of {within.shape[1:]} and {crossing.shape[1:]}: the same persons and classes wanted")
    seeds = int(np.lcm(len(within), len(crossing)))
    both = np.stack([np.resize(x, (seeds, *x.shape[1:])) for x in (within, crossing)], axis=2)  # [S, P, 2, C, C]
    boot = metrics.bootstrap(both, scores={"difference": _difference}, replicates=2000, level=level)
    pooled = both.sum(1)
    return float((metrics.uf1(pooled[:, 0]) - metrics.uf1(pooled[:, 1])).mean()), boot.intervals["difference"]


def _difference(counts: Any) -> Any:
    score = metrics.RESAMPLED_SCORES["uf1"](counts)
    return score[..., 0] - score[..., 1]


def cells(runs: Mapping[str, tuple[Mapping[str, Any], Predictions]]) -> list[Cell]:
    """The table of finished rows.

    Args:
      runs: name of the row -> (its config, its predictions).

    Raises:
      UserError: no row stays inside its databases, or rows of one system tested other clips.
    """
    systems: dict[str, dict[str, tuple[str, Predictions]]] = {}
    for name, (config, predictions) in runs.items():
        protocol = str(config["data"]["protocol"])
        systems.setdefault(_identity(config), {})[protocol] = (name, predictions)
    found: list[Cell] = []
    for protocols in systems.values():
        if WITHIN not in protocols:
            continue
        name, inside = protocols[WITHIN]
        for dataset in sorted(set(inside.dataset.tolist())):
            within, clips = person_confusion(inside.select(inside.dataset == dataset))
            for protocol, (row, predictions) in sorted(protocols.items(), key=lambda item: item[0] != WITHIN):
                mine = predictions.select(predictions.dataset == dataset)
                if not len(mine):
                    continue  # a database that this protocol trains on only
                counts, tested = person_confusion(mine)
                if tested != clips:
                    raise UserError(
                        f"rows {name} and {row}: {dataset} has {len(clips)} and {len(tested)} tested clips; expected "
                        "the same ones. Run both on the same data"
                    )
                scores = metrics.uf1(counts.sum(1))
                std = float(scores.std(ddof=1)) if len(scores) > 1 else 0.0
                cell = Cell(
                    name,
                    dataset,
                    protocol,
                    len(clips),
                    counts.shape[1],
                    majority_uf1(counts),
                    float(scores.mean()),
                    std,
                )
                if protocol != WITHIN:
                    difference, interval = paired_difference(within, counts)
                    cell = dataclasses.replace(cell, difference=difference, interval=interval)
                found.append(cell)
    if not found:
        raise UserError(
            f"found rows with the protocols {', '.join(sorted({p for s in systems.values() for p in s})) or 'none'}; "
            f"expected at least one with {WITHIN}, which the others are compared with"
        )
    return found


def _identity(config: Mapping[str, Any]) -> str:
    """The config without what rows of one system may differ in."""
    rest = json.loads(json.dumps(config))
    for *parents, last in _FREE:
        node = rest
        for parent in parents:
            node = node.get(parent, {})
        node.pop(last, None)
    return json.dumps(rest, sort_keys=True)


def open_rows(workdir: Path) -> dict[str, tuple[Mapping[str, Any], Predictions]]:
    """The finished rows of a study.

    Raises:
      UserError: there is none.
    """
    found = {}
    for path in sorted((workdir / "rows").glob("*/metrics.json")):
        row = path.parent
        classes = read_json(path)["classes"]
        found[row.name] = (read_json(row / "config.json"), read_predictions(row / "predictions.csv", classes))
    if not found:
        raise UserError(
            f"{workdir}: found no finished row; expected rows/<name>/metrics.json, as a table of rows leaves"
        )
    return found


def table(found: Sequence[Cell]) -> str:
    """The cells as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["system", "dataset", "protocol", "n", "persons", "majority_uf1", "uf1", "std", "within_minus", "low", "high"]
    )
    for c in found:
        gap = ["", "", ""] if c.difference is None or c.interval is None else [c.difference, *c.interval]
        numbers = [f"{x:.4f}" if isinstance(x, float) else x for x in (c.majority, c.uf1, c.std, *gap)]
        writer.writerow([c.system, c.dataset, c.protocol, c.n, c.persons, *numbers])
    return text.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m mer_jax.analysis.cross_database",
        description="UF1 inside each database minus UF1 across databases, from the rows of a finished study.",
    )
    parser.add_argument("workdir", metavar="WORKDIR", type=Path, help="workdir of a table of rows")
    try:
        workdir = parser.parse_args(arguments).workdir
        text = table(cells(open_rows(workdir)))
        with atomic_open(workdir / TABLE) as file:
            file.write(text)
        print(text + f"table: {workdir / TABLE}")
    except MerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
