"""`metrics.json` as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mer_jax.evaluation.measures import format_measures
from mer_jax.evaluation.scores import ORACLE_BRAND


def format_table(result: Mapping[str, Any]) -> str:
    """Lines of text: what is wrong or special first, then the scores, overall, per dataset and per class.

    Args:
      result: the dictionary of `scores.summarise` or `results.read_metrics`.
    """
    lines = []
    if result["comparable"] is False:
        lines.append(f"*** {ORACLE_BRAND} ***")
    lines += [f"COUNTS DIFFER: {line}" for line in result.get("count_differences", [])]
    facts = [f"{result['n']} clips", f"{result.get('persons', '?')} persons", f"{len(result['classes'])} classes"]
    seeds = len(result.get("per_seed", {}))
    facts.append(f"{seeds} seed" + ("s" if seeds != 1 else ""))
    facts += [str(result[key]) for key in ("protocol", "label_set") if result.get(key)]
    facts += [f"select={result['select']}", f"oracle_inputs={result['oracle_inputs']}"]
    lines.append(", ".join(facts))
    sources = result.get("apex_source") or {}
    if sources:
        lines.append("apex: " + ", ".join(f"{count} {name}" for name, count in sources.items()))
    names = list(result["overall"])
    level = round(100 * result.get("bootstrap", {}).get("level", 0.95))
    head = ["", "n", *(f"{_title(name)} [{level} %]" for name in names)]
    brand = " (NOT COMPARABLE)" if result["comparable"] is False else ""
    rows = [[f"all{brand}", str(result["n"]), *(_score(result["overall"][name], seeds) for name in names)]]
    parts = result.get("per_dataset", {})
    if len(parts) > 1:
        for dataset, part in parts.items():
            rows.append([dataset + brand, str(part["n"]), *(_score(part[name], seeds) for name in names)])
        if "dataset_average" in result:
            average = result["dataset_average"]
            rows.append(["mean of datasets" + brand, "", *(f"{average[name]['mean']:.4f}" for name in names)])
    for name, row in result.get("baselines", {}).items():
        rows.append([name, "", *(f"{row[score]:.4f}" for score in names)])
    lines += ["", *columns([head, *rows])]
    for key in ("per_class", "per_au"):
        if key in result:
            lines += ["", *_details(result[key])]
    if "per_class" in result:
        lines += ["", *_confusion(result["classes"], result["confusion"])]
    if result.get("measures"):
        lines += ["", *format_measures(result["measures"])]
    bootstrap = result.get("bootstrap")
    if bootstrap:
        lines += [
            "",
            f"intervals: bootstrap over persons, {bootstrap['replicates']} resamples, "
            f"{bootstrap['incomplete']} of them lack a class and average over the present ones",
        ]
    lines += [f"note: {note}" for note in result.get("notes", []) if note != ORACLE_BRAND]
    return "\n".join(lines) + "\n"


def _title(name: str) -> str:
    return {"acc": "Acc", "uf1": "UF1", "uar": "UAR", "wf1": "weighted F1"}.get(name, name)


def _score(value: Mapping[str, float], seeds: int) -> str:
    spread = f" ±{value['std']:.4f}" if seeds > 1 else ""
    return f"{value['mean']:.4f}{spread} [{value['low']:.3f}, {value['high']:.3f}]"


def _details(table: Mapping[str, Mapping[str, float]]) -> list[str]:
    names = list(next(iter(table.values())))
    rows = [["", *names]]
    for row, values in table.items():
        rows.append([row, *(_cell(name, values[name]) for name in names)])
    return columns(rows)


def _cell(column: str, value: float) -> str:
    return f"{value:g}" if column in ("support", "predicted", "known") else f"{value:.4f}"


def _confusion(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> list[str]:
    head = ["truth \\ predicted", *classes]
    return columns([head, *([c, *map(str, row)] for c, row in zip(classes, matrix, strict=True))])


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as aligned lines, the first column to the left, the others to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
    return lines
