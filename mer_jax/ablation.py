"""`:ablation` and its like: the named rows of a config, one run each under `rows/`, and the table `ablation.csv`."""

from __future__ import annotations

import copy
import csv
import io
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mer_jax.errors import UserError
from mer_jax.files import atomic_open, read_json, write_json
from mer_jax.training import mesh
from mer_jax.training.checkpoint import read_arrays

# What a pre-training depends on: rows that agree in all of it share one.
PRETRAINING = ("system", "task", "seeds", "data", "model", "pre", "engine")


def run_rows(config: Any, workdir: Path, run: Callable[..., dict[str, Any]], plan_only: bool) -> dict[str, Any]:
    """Runs every row of `config.rows` in `workdir/rows/<name>`; finished rows are kept, equal pre-trainings shared.

    Args:
      config: a ConfigDict with `rows`: name -> the fields that differ (nested), and `row_names`, their
        order; the first row is the full model. A row that a variant has made the same as an earlier one is left out.
      workdir: folder of all rows.
      run: `(config, workdir) -> metrics`, runs one row.
      plan_only: plan the rows only.

    Returns:
      name -> metrics of the row.

    Raises:
      UserError: a row changes a field that does not exist.
    """
    found: dict[str, Any] = {}
    owners: dict[str, Path] = {}
    known: dict[str, str] = {}
    for name in config.row_names:
        changes = config.rows[name]
        row, place = copy.deepcopy(config), workdir / "rows" / name
        row.ablation = ""
        try:
            row.update(changes)
        except (KeyError, AttributeError, TypeError) as error:
            raise UserError(f"row {name!r} of the config: {error}; expected fields of the config only") from None
        fields = row.to_dict()
        whole = json.dumps(fields, sort_keys=True, default=list)
        if known.setdefault(whole, name) != name:
            print(f"row {name}: here the same as {known[whole]}; left out", file=sys.stderr, flush=True)
            continue
        if row.pre.objective != "none" and not row.init_from:
            same = json.dumps({key: fields[key] for key in PRETRAINING}, sort_keys=True, default=list)
            if same in owners:
                row.init_from = str(owners[same])
            owners.setdefault(same, place)
        print(f"row {name}", file=sys.stderr, flush=True)
        begin = time.monotonic()
        try:
            found[name] = run(row, place)
        finally:
            if mesh.is_writer() and not plan_only and place.is_dir():
                _add_seconds(place, time.monotonic() - begin, name in found)
    if mesh.is_writer() and not plan_only and all(found.values()):  # empty where only pre-training was asked for
        text = table(found, {n: _parameters(workdir / "rows" / n) for n in found}, _seconds(workdir, found))
        with atomic_open(workdir / "ablation.csv") as file:
            file.write(text)
        print(f"{short_table(found)}table: {workdir / 'ablation.csv'}", flush=True)
    return found


def table(found: Mapping[str, Any], parameters: Mapping[str, int], seconds: Mapping[str, float]) -> str:
    """The rows as CSV: mean and std over seeds, interval over persons, difference of the mean to the first row.

    Measures of any row have columns of their own, empty where a row lacks them.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    full = next(iter(found.values()))
    scores = list(full["overall"])
    columns = [f"{score}_{part}" for score in scores for part in ("mean", "std", "low", "high", "difference")]
    facts = ["select", "comparable", "oracle_inputs"]
    parts = ("mean", "std", "low", "high")
    measures = list(dict.fromkeys(name for metrics in found.values() for name in metrics.get("measures", {})))
    measured = [f"{name}_{part}" for name in measures for part in parts]
    writer.writerow(["row", "seeds", "n", *facts, *columns, "parameters", "seconds", *measured, "notes"])
    for name, metrics in found.items():
        cells: list[str] = []
        for score in scores:
            values = metrics["overall"][score]
            cells += [f"{values[part]:.4f}" for part in parts]
            cells.append(f"{values['mean'] - full['overall'][score]['mean']:+.4f}")
        seeds = len(metrics["per_seed"])
        told = [metrics[fact] for fact in facts]
        notes = "; ".join(metrics["notes"])
        known = [metrics.get("measures", {}).get(m, {}).get(part) for m in measures for part in parts]
        extra = ["" if value is None else f"{value:.6g}" for value in known]
        costs = [parameters[name], round(seconds[name])]
        writer.writerow([name, seeds, metrics["n"], *told, *cells, *costs, *extra, notes])
    return text.getvalue()


def short_table(found: Mapping[str, Any]) -> str:
    """The rows for the terminal: the first two scores with deviation over seeds and interval over persons."""
    full = next(iter(found.values()))["overall"]
    width = max(map(len, found))
    lines = []
    for name, metrics in found.items():
        cells = []
        for score in [s for s in ("uf1", "uar") if s in full] or list(full)[:2]:
            v = metrics["overall"][score]
            interval = f"[{v['low']:.3f}, {v['high']:.3f}]"
            cells.append(f"{score} {v['mean']:.3f} ± {v['std']:.3f} {interval} {v['mean'] - full[score]['mean']:+.3f}")
        lines.append(f"{name:{width}}  " + "  ".join(cells))
    return "\n".join(lines) + "\n"


def _parameters(place: Path) -> int:
    """Parameters of the recognition network, from any finished fold."""
    seeds = ("checkpoints/finetune", "checkpoints/seed_*/finetune")
    fold = next(iter(sorted(p for where in seeds for p in place.glob(f"{where}/folds/*/state"))))
    return int(sum(np.size(x) for x in jax.tree.leaves(read_arrays(fold.parent)["params"])))


def _add_seconds(place: Path, seconds: float, finished: bool) -> None:
    """Counts the time of a row over all starts, not that of looking again at a finished row."""
    path = place / "seconds.json"
    known = read_json(path) if path.exists() else {"seconds": 0.0, "finished": False}
    if not known["finished"]:
        write_json(path, {"seconds": known["seconds"] + seconds, "finished": finished})


def _seconds(workdir: Path, names: Mapping[str, Any]) -> dict[str, float]:
    return {name: read_json(workdir / "rows" / name / "seconds.json")["seconds"] for name in names}
