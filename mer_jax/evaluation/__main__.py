"""Score predictions and write splits, without training.

python -m mer_jax.evaluation score predictions.csv [--json]
python -m mer_jax.evaluation splits --protocol loso --labels casme2_5 --data_dir DIR --out splits.csv
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from mer_jax.errors import MerError, UserError
from mer_jax.evaluation import labels, megc_log, protocols, results, scores
from mer_jax.evaluation.datasets import builder_of, canonical
from mer_jax.evaluation.label_set import LabelSet
from mer_jax.evaluation.table import format_table

_FACTS = ("select", "oracle_inputs", "protocol", "label_set", "split_hash", "apex_source", "count_differences", "notes")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.command(arguments)
        sys.stdout.flush()
    except MerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mer_jax.evaluation", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="score|splits")
    score = commands.add_parser(
        "score",
        help="score predictions of one or several seeds",
        description="Scores a predictions.csv of ours, or a log of MEGC 2019 (`database subject`, then lines "
        "`clip truth prediction`), from one confusion matrix over all folds.",
    )
    score.add_argument("file", type=pathlib.Path, help="predictions.csv or a log")
    score.add_argument("--json", action="store_true", help="print JSON (the content of metrics.json), not a table")
    score.add_argument("--labels", help="label set: names the classes and compares the counts with published ones")
    score.add_argument("--classes", help="names of the classes, in order, separated by commas")
    score.add_argument("--select", choices=scores.SELECTS, help="how the epoch was chosen, where the file cannot say")
    score.add_argument("--replicates", type=_positive, default=2000, help="resamples of the bootstrap over persons")
    score.set_defaults(command=_score)
    splits = commands.add_parser(
        "splits",
        help="write the table of a protocol's folds",
        description="Writes protocol,fold,dataset,subject,clip,role for a label set of built datasets.",
    )
    splits.add_argument("--protocol", required=True, help=", ".join(protocols.PROTOCOLS))
    splits.add_argument("--labels", required=True, help="label set, for example casme2_5, megc2019, cd6me or own")
    splits.add_argument("--dataset", action="append", metavar="NAME[/CONFIG]", help="built dataset; repeat for several")
    splits.add_argument("--data_dir", type=pathlib.Path, help="where the datasets are built")
    splits.add_argument("--out", type=pathlib.Path, required=True, help="the CSV file to write")
    splits.add_argument("--seed", type=int, default=0, help="seed of the choice of validation persons")
    splits.add_argument("--select", choices=("last", "inner", "oracle"), default="last", help="inner holds out persons")
    splits.add_argument("--n_folds", type=_positive, default=10, help="folds of kfold")
    splits.set_defaults(command=_splits)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def _score(arguments: argparse.Namespace) -> None:
    label_set = labels.get(arguments.labels) if arguments.labels else None
    classes = arguments.classes.split(",") if arguments.classes else None
    if label_set is not None:
        if classes is not None:
            raise UserError("give --labels or --classes, not both")
        if not isinstance(label_set, LabelSet):
            raise UserError(f"--labels {label_set.name}: action units are named by the file itself")
        classes = list(label_set.classes)
    is_log = megc_log.is_log(arguments.file)
    predictions = (megc_log.read_log if is_log else results.read_predictions)(arguments.file, classes)
    facts: dict[str, Any] = {"select": "unknown", "oracle_inputs": "unknown"}
    beside = arguments.file.parent / "metrics.json"
    if not is_log and arguments.file.name == "predictions.csv" and beside.is_file():
        run = results.read_metrics(beside)
        facts |= {key: run[key] for key in _FACTS if run.get(key) is not None}
    if arguments.select:
        if facts["select"] not in ("unknown", arguments.select):
            raise UserError(f"--select is {arguments.select}, but {beside} says {facts['select']}")
        facts["select"] = arguments.select
    if label_set is not None:
        facts["label_set"] = label_set.name
        facts["count_differences"] = labels.differences_of(label_set, predictions)
    result = scores.summarise(predictions, replicates=arguments.replicates, **facts)
    if arguments.json:
        print(json.dumps(result, indent=2, allow_nan=False))
    else:
        print(format_table(result), end="")


def _splits(arguments: argparse.Namespace) -> None:
    from mer_jax.data import source  # reading datasets imports more than scoring needs

    names = arguments.dataset or _built(arguments.labels, arguments.data_dir)
    table = source.open_datasets(names, arguments.data_dir).table
    labelled = labels.apply(arguments.labels, table)
    folds = protocols.make(
        arguments.protocol,
        table,
        labelled.labels,
        arguments.seed,
        select=arguments.select,
        n_folds=arguments.n_folds,
    )
    digest = protocols.write_splits(arguments.out, arguments.protocol, folds, table)
    for difference in labelled.differences:
        print(f"COUNTS DIFFER: {difference}")
    for dataset, counts in labelled.counts.items():
        print(f"{dataset}: " + ", ".join(f"{c} {n}" for c, n in zip(labelled.classes, counts, strict=True)))
    for reason, number in labelled.exclusion_counts().items():
        print(f"left out: {number} clips: {reason}")
    print(protocols.subject_table(folds, table), end="")
    print(f"{arguments.out}: {len(folds)} folds, sha256 {digest}")


def _built(label_set: str, data_dir: pathlib.Path | None) -> list[str]:
    """The built datasets that a label set is for, where there is one choice for each."""
    from mer_jax.data import source

    wanted = labels.datasets_of(label_set)
    if not wanted:
        raise UserError(f"label set {label_set!r} is for any dataset; name one with --dataset")
    root = source.default_data_dir() if data_dir is None else data_dir
    found: dict[str, list[str]] = {d: [] for d in wanted}
    for name in source.built_datasets(root):
        if "macro" in name.partition("/")[2].split("_"):  # the other part of the same dataset
            continue
        found.get(canonical(name.replace("/", "_")), []).append(name)
    chosen = []
    for dataset, names in found.items():
        if len(names) > 1:
            raise UserError(f"{root} holds {len(names)} builds of {dataset}: {', '.join(names)}; choose with --dataset")
        chosen.append(names[0] if names else builder_of(dataset))  # opening the missing one says how to build it
    return chosen


if __name__ == "__main__":
    sys.exit(main())
