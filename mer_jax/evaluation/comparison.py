"""Does one run beat another? Paired statistics over persons, the independent units of a subject-independent protocol.

Two runs over the same splits are compared by the difference of their scores, first minus second. A run with several
seeds stands for the mean of its seeds' scores: seeds are averaged in every resample and never counted as further
clips or persons, and their standard deviation is shown beside.

- Interval: paired bootstrap. Each replicate draws persons with replacement, the same ones for both runs.
- p value: sign-swap permutation over persons (`paired_tests.sign_swap`).
- McNemar's exact test over clips comes second: it assumes independent clips, which clips of one person are not.
- Several pairs: Holm's correction, for each score over all pairs of runs.
- Resolution: the difference that this many people can resolve (`paired_tests.smallest_difference`), with the
  bootstrap's standard deviation of the difference as standard error, and alpha divided by the number of pairs.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mer_jax.errors import UserError
from mer_jax.evaluation import au_metrics, metrics
from mer_jax.evaluation.metrics import Array
from mer_jax.evaluation.paired_tests import TIE, Scores, holm, mcnemar, sign_swap, smallest_difference
from mer_jax.evaluation.results import Predictions
from mer_jax.evaluation.scores import align, person_counts

MCNEMAR_ASSUMES = {"emotion": "assumes independent clips", "au": "assumes independent clips and action units"}
_NAMES = {"emotion": ("uf1", "uar", "acc", "wf1"), "au": ("f1_binary", "f1_macro")}  # the first one decides
_OBSERVED: Mapping[str, Scores] = {"emotion": metrics.SCORES, "au": au_metrics.SCORES}
_RESAMPLED: Mapping[str, Scores] = {"emotion": metrics.RESAMPLED_SCORES, "au": au_metrics.SCORES}


@dataclasses.dataclass(frozen=True)
class Contender:
    """A scored run.

    Attributes:
      name: how the reader knows it.
      predictions: of all its seeds.
      facts: content of its metrics.json.
    """

    name: str
    predictions: Predictions
    facts: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """How to compare.

    Attributes:
      replicates: resamples of the bootstrap.
      permutations: swaps that are drawn, or enumerated if there are not more than that.
      level: coverage of the intervals; 1 - level is the error rate of the tests.
      power: of the smallest difference that can be resolved.
      seed: of the resampling.
    """

    replicates: int = 10000
    permutations: int = 9999
    level: float = 0.95
    power: float = 0.8
    seed: int = 0


def compare(runs: Sequence[Contender], options: Options = Options()) -> dict[str, Any]:
    """Compares every pair of runs.

    Args:
      runs: at least two, with different names.
      options: how.

    Returns:
      A JSON-ready dictionary: task, protocol, label_set, split_hash, n, persons, classes, primary (the score that
      decides), options, pairs. A pair is {a, b, scores, permutation, per_class, per_person, per_dataset, mcnemar}; a
      score is {a, b, difference, low, high, se, seed_std_a, seed_std_b, p, p_holm, resolvable, persons_needed}
      (seed_std is None for one seed, p_holm for two runs, resolvable where nobody is predicted differently).

    Raises:
      UserError: fewer than two runs, or two runs that cannot be compared (see `refuse_unlike`).
    """
    if len(runs) < 2 or len({run.name for run in runs}) < len(runs):
        raise UserError(f"{len(runs)} runs: expected at least two, with different names, to compare")
    for other in runs[1:]:
        refuse_unlike(runs[0], other)
    first = runs[0]
    persons, counts = zip(*(person_counts(run.predictions) for run in runs), strict=True)
    chosen = list(itertools.combinations(range(len(runs)), 2))
    pairs = []
    for i, j in chosen:
        statistics = _pair(first.predictions.task, counts[i], counts[j], options, len(chosen))
        statistics["per_class"] = _per_class(first.predictions, counts[i], counts[j], options)
        statistics["per_person"] = _per_person(persons[0], counts[i], counts[j])
        statistics["per_dataset"] = _per_dataset(runs[i].predictions, runs[j].predictions, options)
        statistics["mcnemar"] = _mcnemar_by_seed(runs[i].predictions, runs[j].predictions)
        pairs.append({"a": runs[i].name, "b": runs[j].name, **statistics})
    for name in _NAMES[first.predictions.task]:
        adjusted = holm([pair["scores"][name]["p"] for pair in pairs]) if len(pairs) > 1 else [None]
        for pair, p in zip(pairs, adjusted, strict=True):
            pair["scores"][name]["p_holm"] = p
    return {
        "task": first.predictions.task,
        "protocol": first.facts.get("protocol"),
        "label_set": first.facts.get("label_set"),
        "split_hash": first.facts.get("split_hash"),
        "n": len(first.predictions) // len(first.predictions.seeds),
        "persons": len(persons[0]),
        "classes": list(first.predictions.classes),
        "primary": _NAMES[first.predictions.task][0],
        "options": dataclasses.asdict(options),
        "pairs": pairs,
    }


# --- Refusals --------------------------------------------------------------------------------------------------------


def refuse_unlike(a: Contender, b: Contender) -> None:
    """Refuses two runs whose scores are not of the same task on the same people.

    Raises:
      UserError: with the reason: another task, label set, classes, protocol, clips, truth or splits.
    """
    p, q = a.predictions, b.predictions

    def refuse(what: str, first: Any, second: Any, advice: str) -> None:
        raise UserError(f"{a.name} and {b.name} cannot be compared: {what} {first} and {second}; {advice}")

    if p.task != q.task:
        refuse("their tasks are", p.task, q.task, "expected one task")
    for fact, advice in (
        ("label_set", "a score means something else under another label set"),
        ("protocol", "train and test both in one protocol"),
    ):
        if a.facts.get(fact) != b.facts.get(fact):
            refuse(f"{fact} is", a.facts.get(fact), b.facts.get(fact), advice)
    if p.classes != q.classes:
        refuse("the classes are", ", ".join(p.classes), ", ".join(q.classes), "expected the same in the same order")
    (truth, persons, _), (other, other_persons, _) = align(p), align(q)
    clips, other_clips = p.clip[: len(truth)], q.clip[: len(other)]
    if not np.array_equal(clips, other_clips):
        odd = sorted(set(clips.tolist()) ^ set(other_clips.tolist()))[0]
        counts = (f"{len(truth)} clips{_class_counts(p, truth)}", f"{len(other)}{_class_counts(q, other)}")
        refuse("they score", *counts, f"only one of them scores {odd!r}; score both on the same clips")
    if not np.array_equal(truth, other):
        row = np.flatnonzero((truth != other).reshape(len(truth), -1).any(1))[0]
        texts = (_truth_text(p, truth[row]), _truth_text(q, other[row]))
        refuse(f"the truth of clip {str(clips[row])!r} is", *texts, "score both with one label set on one data build")
    if not np.array_equal(persons, other_persons):
        refuse("their persons are", len(set(persons)), len(set(other_persons)), "expected the same people")
    hashes = [str(run.facts.get("split_hash") or "unknown") for run in (a, b)]
    if hashes[0] != hashes[1] or "unknown" in hashes:
        selects = [run.facts.get("select") for run in (a, b)]
        why = "they tested the same clips, but trained on different ones"
        if selects[0] != selects[1] and "inner" in selects:
            why += " (select=inner holds out training persons)"
        if "unknown" in hashes:
            why = "without a hash of the splits nobody can tell who was trained on"
        refuse("the hashes of their splits are", hashes[0][:12], hashes[1][:12], why)


def _class_counts(p: Predictions, truth: np.ndarray) -> str:
    if p.task == "au":
        return ""
    counts = np.bincount(truth, minlength=len(p.classes))
    return " (" + ", ".join(f"{c} {n}" for c, n in zip(p.classes, counts, strict=True)) + ")"


def _truth_text(p: Predictions, truth: np.ndarray) -> str:
    if p.task == "emotion":
        return p.classes[int(truth)]
    return " ".join(f"{c}={int(t)}" for c, t in zip(p.classes, truth, strict=True))


# --- One pair --------------------------------------------------------------------------------------------------------


def _pair(task: str, a: np.ndarray, b: np.ndarray, options: Options, comparisons: int) -> dict[str, Any]:
    names = _NAMES[task]
    observed = {name: _OBSERVED[task][name] for name in names}
    drawn_a, drawn_b = (_resampled(x, {name: _RESAMPLED[task][name] for name in names}, options) for x in (a, b))
    permutation = sign_swap(a, b, observed, options.permutations, options.seed)
    alpha = (1 - options.level) / comparisons
    found = {}
    for name in names:
        scores = [np.asarray(observed[name](x.sum(1)), float) for x in (a, b)]
        difference = float(scores[0].mean() - scores[1].mean())
        replicates = drawn_a[name] - drawn_b[name]
        low, high = metrics.percentile_interval(replicates, options.level)
        se = float(replicates.std(ddof=1))
        resolvable = smallest_difference(se, alpha, options.power) if permutation.persons else None
        needed = None
        if resolvable is not None and abs(difference) > TIE:
            needed = math.ceil(a.shape[1] * (resolvable / difference) ** 2)
        found[name] = {
            "a": float(scores[0].mean()),
            "b": float(scores[1].mean()),
            "difference": difference,
            "low": low,
            "high": high,
            "se": se,
            "seed_std_a": _spread(scores[0]),
            "seed_std_b": _spread(scores[1]),
            "p": permutation.p[name],
            "p_holm": None,
            "resolvable": resolvable,
            "persons_needed": needed,
        }
    facts = {
        "exact": permutation.exact,
        "arrangements": permutation.arrangements,
        "persons_that_differ": permutation.persons,
        "smallest_p": permutation.smallest_p,
    }
    return {"scores": found, "permutation": facts}


def _spread(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _pooled_resamples(counts: np.ndarray, options: Options) -> np.ndarray:
    """Counts [S, R, ...] of each seed in each resample of the persons; the same draws for every run."""
    n_seeds, n_persons, *shape = counts.shape
    weights = metrics.person_weights(n_persons, options.replicates, options.seed)
    pooled = weights @ counts.reshape(n_seeds, n_persons, -1).astype(np.float64)
    return pooled.reshape(n_seeds, options.replicates, *shape)


def _resampled(counts: np.ndarray, scores: Scores, options: Options) -> dict[str, np.ndarray]:
    """Score -> [R], each the mean over seeds."""
    pooled = _pooled_resamples(counts, options)
    return {name: np.asarray(score(pooled)).mean(0) for name, score in scores.items()}


def _mcnemar_by_seed(a: Predictions, b: Predictions) -> dict[str, Any]:
    """A test for each pair of seeds, k-th with k-th: seeds are no further clips, and a vote would be another system."""
    rows = []
    for s, t in zip(a.seeds, b.seeds, strict=False):
        p, q = a.select(a.seed == s), b.select(b.seed == t)
        known = p.truth >= 0
        right, other = (p.truth == p.predicted) & known, (q.truth == q.predicted) & known
        only_a, only_b = int((right & ~other).sum()), int((other & ~right).sum())
        rows.append({"seed_a": s, "seed_b": t, "only_a": only_a, "only_b": only_b, "p": mcnemar(only_a, only_b)})
    return {"assumes": MCNEMAR_ASSUMES[a.task], "seeds": rows}


def _per_class(
    p: Predictions, a: np.ndarray, b: np.ndarray, options: Options
) -> dict[str, dict[str, float | int | None]]:
    """F1 of each class (action units: of "present") and its difference; intervals are not corrected for number."""
    is_au = p.task == "au"
    f1, support = (au_metrics.f1_binary, au_metrics.support) if is_au else (metrics.class_f1, _class_support)
    values = [np.asarray(f1(x.sum(1))).mean(0) for x in (a, b)]
    drawn = [_pooled_resamples(x, options) for x in (a, b)]
    replicates = np.asarray(f1(drawn[0])).mean(0) - np.asarray(f1(drawn[1])).mean(0)
    replicates = np.where(support(drawn[0][0]) > 0, replicates, np.nan)  # a resample without the class says nothing
    clips = support(a[0].sum(0))
    tail = (1 - options.level) / 2
    table: dict[str, dict[str, float | int | None]] = {}
    for k, name in enumerate(p.classes):
        known = replicates[np.isfinite(replicates[:, k]), k]
        low, high = np.quantile(known, [tail, 1 - tail]).tolist() if len(known) else (None, None)
        table[name] = {
            "support": int(clips[k]),
            "a": float(values[0][k]),
            "b": float(values[1][k]),
            "difference": float(values[0][k] - values[1][k]),
            "low": low,
            "high": high,
        }
    return table


def _class_support(matrix: Array) -> Array:
    return matrix.sum(-1)


def _per_dataset(p: Predictions, q: Predictions, options: Options) -> dict[str, dict[str, Any]]:
    """The score that decides, of each dataset by itself where there are several; p is not corrected for number."""
    datasets = sorted(set(p.dataset.tolist()))
    table: dict[str, dict[str, Any]] = {}
    for dataset in datasets if len(datasets) > 1 else ():
        parts = [run.select(run.dataset == dataset) for run in (p, q)]
        first, second = (person_counts(part)[1] for part in parts)
        row = _pair(p.task, first, second, options, 1)["scores"][_NAMES[p.task][0]]
        kept = {key: row[key] for key in ("a", "b", "difference", "low", "high", "p")}
        table[dataset] = {"n": len(parts[0]) // len(p.seeds), "persons": first.shape[1], **kept}
    return table


def _per_person(persons: np.ndarray, a: np.ndarray, b: np.ndarray) -> list[dict[str, Any]]:
    """Share of right answers of each person (action units: of known decisions), mean over seeds; best for `a` first."""
    right = [x.diagonal(axis1=-2, axis2=-1).reshape(*x.shape[:2], -1).sum(-1).mean(0) for x in (a, b)]
    decided = a[0].reshape(len(persons), -1).sum(-1)
    rows = []
    for k, person in enumerate(persons.tolist()):
        if decided[k]:
            shares = [float(r[k] / decided[k]) for r in right]
            rows.append(
                {"person": person, "n": int(decided[k]), "a": shares[0], "b": shares[1]}
                | {"difference": shares[0] - shares[1]}
            )
    return sorted(rows, key=lambda row: (-row["difference"], row["person"]))
