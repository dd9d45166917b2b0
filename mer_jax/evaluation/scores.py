"""From predictions to `metrics.json` and to the table on the terminal: the one reducer of every protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mer_jax.errors import UserError
from mer_jax.evaluation import au_metrics, metrics
from mer_jax.evaluation.results import Predictions

COMPARABLE = {"last": True, "inner": True, "oracle": False, "unknown": None}  # by how the epoch was chosen
SELECTS = tuple(COMPARABLE)
ORACLE_INPUTS = ("none", "boundaries", "boundaries+apex", "unknown")
ORACLE_BRAND = "NOT COMPARABLE: select=oracle chose the epoch on the test persons"
# Protocols whose folds are different experiments: their parts are also averaged. A pooled protocol is not (MEGC 2019).
AVERAGED_PROTOCOLS = ("hde_megc2018", "hde_atnet", "hde_from_base", "cross_dataset", "loso_within", "cd6me")


def summarise(
    predictions: Predictions,
    *,
    select: str = "last",
    oracle_inputs: str = "none",
    protocol: str | None = None,
    label_set: str | None = None,
    split_hash: str | None = None,
    apex_source: Mapping[str, int] | None = None,
    count_differences: Sequence[str] = (),
    notes: Sequence[str] = (),
    replicates: int = 2000,
    level: float = 0.95,
    bootstrap_seed: int = 0,
) -> dict[str, Any]:
    """The content of `metrics.json`.

    Args:
      predictions: of one or several seeds over the same clips.
      select: how the epoch was chosen: "last", "inner" or "oracle"; oracle results are branded not comparable.
        "unknown" for other people's predictions (then `comparable` is None).
      oracle_inputs: which annotations the system saw at test time: "none", "boundaries", "boundaries+apex", "unknown".
      protocol: name of the protocol.
      label_set: name of the label set.
      split_hash: hash of the splits (`protocols.split_hash`).
      apex_source: number of scored clips by apex_source.
      count_differences: where the data at hand differ from published counts.
      notes: further sentences for the reader.
      replicates: resamples of the bootstrap over persons.
      level: coverage of its intervals.
      bootstrap_seed: its seed.

    Returns:
      A JSON-ready dictionary: select, comparable, oracle_inputs, task, protocol, label_set, n, persons, classes,
      overall {score: {mean, std, low, high}} (mean and std over seeds, std 0 for one seed; interval over persons),
      per_class (or per_au and baselines), per_dataset, per_seed, confusion (summed over seeds, rows truth),
      dataset_average where the protocol has one, bootstrap, apex_source, count_differences, split_hash, notes.

    Raises:
      UserError: no prediction, seeds that predict different clips, an unknown `select` or `oracle_inputs`.
    """
    for what, value, known in (("select", select, SELECTS), ("oracle_inputs", oracle_inputs, ORACLE_INPUTS)):
        if value not in known:
            raise UserError(f"{what} is {value!r}; expected one of {', '.join(known)}")
    truth, persons, datasets = align(predictions)
    is_au = predictions.task == "au"
    scorer = _Scorer(predictions, is_au, replicates, level, bootstrap_seed)
    pooled, overall, boot = scorer.score(np.arange(len(predictions)))
    result: dict[str, Any] = {
        "select": select,
        "comparable": COMPARABLE[select],
        "oracle_inputs": oracle_inputs,
        "task": predictions.task,
        "protocol": protocol,
        "label_set": label_set,
        "n": len(truth),
        "persons": len(set(persons.tolist())),
        "classes": list(predictions.classes),
        "overall": overall,
    }
    found = list(notes)
    if select == "oracle":
        found.insert(0, ORACLE_BRAND)
    if select == "unknown":
        found.append("how the epoch was chosen is unknown: not comparable if it was on the test persons")
    if is_au:
        result["per_au"] = _per_unit(pooled, predictions.classes)
        result["baselines"] = {
            name: {score: float(f(au_metrics.constant_predictor(pooled[0], value))) for score, f in scorer.scores}
            for name, value in (("all_ones", 1), ("all_zeros", 0))
        }
        absent = np.flatnonzero(au_metrics.support(pooled[0]) == 0)
        where = "has no positive clip and is left out of the averages"
    else:
        result["per_class"] = _per_class(pooled, predictions.classes)
        absent = metrics.missing_classes(pooled[0])
        where = "has no clip: UAR averages over fewer classes than the protocol has, UF1 unless it is predicted"
    found += [f"{predictions.classes[k]} {where}" for k in absent]
    result["per_dataset"] = {}
    for dataset in sorted(set(datasets.tolist())):
        rows = np.flatnonzero(predictions.dataset == dataset)
        part, scores, part_boot = scorer.score(rows)
        result["per_dataset"][dataset] = {
            "n": len(rows) // len(predictions.seeds),
            "persons": part_boot.persons,
            **scores,
            "confusion": part.sum(0).tolist(),
        }
    if protocol in AVERAGED_PROTOCOLS:
        parts = result["per_dataset"].values()
        result["dataset_average"] = {
            name: {"mean": float(np.mean([part[name]["mean"] for part in parts]))} for name, _ in scorer.scores
        }
    result["per_seed"] = {
        str(seed): {name: float(f(pooled[k])) for name, f in scorer.scores} | {"confusion": pooled[k].tolist()}
        for k, seed in enumerate(predictions.seeds)
    }
    result["confusion"] = pooled.sum(0).tolist()
    result["bootstrap"] = {
        "unit": "person",
        "replicates": boot.replicates,
        "level": boot.level,
        "incomplete": boot.incomplete,
    }
    result["apex_source"] = dict(apex_source or {})
    result["count_differences"] = list(count_differences)
    result["split_hash"] = split_hash
    if boot.persons < 2:
        found.append("one person: the interval over persons says nothing")
    result["notes"] = list(dict.fromkeys(found))  # a file scored again brings the notes of its run
    return result


class _Scorer:
    """Scores subsets of the rows of one set of predictions, for each seed and with intervals over persons."""

    def __init__(self, predictions: Predictions, is_au: bool, replicates: int, level: float, seed: int) -> None:
        self._p = predictions
        self._is_au = is_au
        self._bootstrap: dict[str, Any] = {"replicates": replicates, "level": level, "seed": seed}
        table: Mapping[str, Callable[[Any], Any]] = au_metrics.SCORES if is_au else metrics.SCORES
        self.scores = tuple(table.items())

    def score(self, rows: np.ndarray) -> tuple[np.ndarray, dict[str, dict[str, float]], metrics.Bootstrap]:
        """Counts of each seed [S, ...], the scores and the bootstrap of the given rows (the same clips each seed)."""
        _, counts = person_counts(self._p.select(rows))
        extra: dict[str, Any] = {"scores": au_metrics.SCORES, "support": au_metrics.support} if self._is_au else {}
        pooled = counts.sum(1)
        boot = metrics.bootstrap(counts, **extra, **self._bootstrap)
        summary = {}
        for name, function in self.scores:
            values = np.array([float(function(matrix)) for matrix in pooled])
            low, high = boot.intervals[name]
            std = float(values.std(ddof=1)) if len(values) > 1 else 0.0
            summary[name] = {"mean": float(values.mean()), "std": std, "low": low, "high": high}
        return pooled, summary, boot


def person_counts(p: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Confusion matrices of each seed and person.

    Args:
      p: predictions of one or several seeds over the same clips.

    Returns:
      Names of the P persons, and int64 [S, P, C, C], rows truth (action units: [S, P, A, 2, 2], known decisions).
    """
    seeds, seed = np.unique(p.seed, return_inverse=True)
    # Persons in the order of the rows: the resampling does not depend on how cohorts are called.
    names, first, person = np.unique(p.person, return_index=True, return_inverse=True)
    person = np.argsort(np.argsort(first))[person]
    group, n_groups = seed * len(names) + person, len(seeds) * len(names)
    if p.task == "au":
        counts = au_metrics.au_confusion(p.truth, p.predicted, group, n_groups)
    else:
        counts = metrics.grouped_confusion(p.truth, p.predicted, group, n_groups, len(p.classes))
    return names[np.argsort(first)], counts.reshape(len(seeds), len(names), *counts.shape[1:])


def align(p: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, person and dataset of the clips of the first seed.

    Raises:
      UserError: no prediction, or seeds over different clips.
    """
    if not len(p):
        raise UserError("there is no prediction to score")
    first = p.select(p.seed == p.seeds[0])
    for seed in p.seeds[1:]:
        other = p.select(p.seed == seed)
        if not np.array_equal(first.clip, other.clip):
            odd = sorted(set(first.clip.tolist()) ^ set(other.clip.tolist()))
            raise UserError(f"seeds {p.seeds[0]} and {seed} predict different clips, for example {odd[0]!r}")
        if not np.array_equal(first.truth, other.truth):
            row = np.flatnonzero((first.truth != other.truth).reshape(len(first), -1).any(1))[0]
            raise UserError(f"seeds {p.seeds[0]} and {seed} disagree on the truth of clip {str(first.clip[row])!r}")
    return first.truth, first.person, first.dataset


def _per_class(pooled: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 (means over seeds), support and mean number of predictions of each class."""
    columns = {
        "precision": metrics.class_precision(pooled).mean(0),
        "recall": metrics.class_recall(pooled).mean(0),
        "f1": metrics.class_f1(pooled).mean(0),
        "support": pooled[0].sum(-1),
        "predicted": pooled.sum(-2).mean(0),
    }
    return {c: {name: values[k].item() for name, values in columns.items()} for k, c in enumerate(classes)}


def _per_unit(pooled: np.ndarray, units: Sequence[str]) -> dict[str, dict[str, float]]:
    """Scores (means over seeds), support and known clips of each action unit, beside the two constant predictors."""
    ones, zeros = (au_metrics.constant_predictor(pooled[0], value) for value in (1, 0))
    columns = {
        "f1_binary": au_metrics.f1_binary(pooled).mean(0),
        "f1_macro": au_metrics.f1_macro(pooled).mean(0),
        "precision": metrics.class_precision(pooled)[..., 1].mean(0),
        "recall": metrics.class_recall(pooled)[..., 1].mean(0),
        "support": au_metrics.support(pooled[0]),
        "known": pooled[0].sum((-2, -1)),
        "all_ones_f1_binary": au_metrics.f1_binary(ones),
        "all_ones_f1_macro": au_metrics.f1_macro(ones),
        "all_zeros_f1_macro": au_metrics.f1_macro(zeros),
    }
    return {u: {name: values[k].item() for name, values in columns.items()} for k, u in enumerate(units)}


def person_scores(predictions: Predictions) -> list[dict[str, Any]]:
    """Clips and share of right answers of each person (action units: of known decisions), means over seeds."""
    p = predictions
    right, known = p.truth == p.predicted, p.truth >= 0
    if p.task == "au":
        right, known = (right & known).sum(1), known.sum(1)
    rows = []
    for person in sorted(set(p.person.tolist())):
        mine = p.person == person
        share = float(right[mine].sum() / max(known[mine].sum(), 1))
        rows.append({"person": person, "n": int(mine.sum()) // len(p.seeds), "acc": share})
    return rows
