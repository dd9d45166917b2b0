"""Protocols: which persons train and which test, fold by fold.

    folds = protocols.make("loso", table, labelled.labels, seed=0, select="inner")
    protocols.write_splits(workdir / "splits.csv", "loso", folds, table)

A fold is three boolean masks over the clips of a table. Splits are between *persons* (`cohort/subject`), never between
clips; every maker ends in `check_no_person_overlap`, so a person on both sides cannot leave this module.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import hashlib
import io
import pathlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mer_jax.data.clips import ClipTable
from mer_jax.errors import UserError
from mer_jax.evaluation.datasets import canonical
from mer_jax.evaluation.labels import used
from mer_jax.evaluation.results import Predictions
from mer_jax.files import atomic_open, path_of

_BASE = "synthetic_faces_base"
ROLES = ("train", "val", "test")
SPLIT_COLUMNS = ["protocol", "fold", "dataset", "subject", "clip", "role"]


@dataclasses.dataclass(frozen=True)
class Fold:
    """One fold: boolean masks [n] over the clips of a table, pairwise disjoint.

    Attributes:
      name: unique in its protocol, and safe as a file name.
      train: clips that train.
      validation: clips of held-out training persons (select="inner"), else empty.
      test: clips that are predicted and scored.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Problem:
    """What a protocol divides: the clips with a label, and the names of their persons and datasets."""

    usable: np.ndarray
    person: np.ndarray
    dataset: np.ndarray
    n_folds: int


def make(
    name: str,
    table: ClipTable,
    labels: np.ndarray,
    seed: int = 0,
    *,
    select: str = "last",
    n_folds: int = 10,
    validation_fraction: float = 0.2,
) -> list[Fold]:
    """The folds of a protocol.

    Args:
      name: one of PROTOCOLS.
      table: the clips, n of them.
      labels: int [n], -1 where left out; or int8 [n, A] action units, -1 unknown. A clip without any label is in no
        fold.
      seed: seed of the choice of validation persons; the folds themselves are fixed.
      select: "last", "inner" (holds out training persons for the choice of the epoch) or "oracle".
      n_folds: number of folds of `kfold`.
      validation_fraction: share of the training persons held out by "inner".

    Returns:
      Folds sorted by name.

    Raises:
      UserError: unknown protocol, data that it cannot divide, or too few persons.
    """
    if name not in PROTOCOLS:
        near = difflib.get_close_matches(name, PROTOCOLS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(PROTOCOLS)}"
        raise UserError(f"unknown protocol {name!r}; {hint}")
    if select not in ("last", "inner", "oracle"):
        raise UserError(f"select is {select!r}; expected last, inner or oracle")
    usable = used(labels)
    if len(usable) != len(table):
        raise ValueError(f"{len(usable)} labels for {len(table)} clips")
    if not usable.any():
        raise UserError(f"protocol {name}: no clip has a label")
    datasets = np.array([canonical(d) for d in table["dataset"].tolist()])
    problem = _Problem(usable, table.person.astype(str), datasets, n_folds)
    tests = PROTOCOLS[name](problem)
    folds = []
    for fold_name, test in sorted(tests.items()):
        train = usable & ~np.isin(problem.person, np.unique(problem.person[test]))
        if name in SOURCES:
            train &= SOURCES[name](problem, test)
        if not train.any():
            raise UserError(f"protocol {name}, fold {fold_name}: no person is left to train on")
        held = np.zeros_like(train)
        if select == "inner":
            held = _inner_validation(fold_name, train, problem.person, labels, seed, validation_fraction)
        folds.append(Fold(fold_name, train & ~held, held, test))
    check_no_person_overlap(folds, table)
    return folds


# --- Makers: problem -> {fold name: test mask}. Training persons are all others, see SOURCES. ------------------------


def _loso(problem: _Problem) -> dict[str, np.ndarray]:
    """Leave one subject out: a fold for each person with a usable clip."""
    persons = sorted(set(problem.person[problem.usable].tolist()))
    if len(persons) < 2:
        raise UserError(f"leave-one-subject-out needs at least two persons; the data have {persons[0]!r} only")
    names = _safe_names(persons)
    return {names[p]: problem.usable & (problem.person == p) for p in persons}


def _kfold(problem: _Problem) -> dict[str, np.ndarray]:
    """Subject-independent k-fold: person i of the sorted persons is tested in fold i mod k.

    The table of persons depends on their names only, not on the number of their clips, so that two label sets of one
    dataset share it (10-fold of CK+ and Oulu-CASIA by sorted subject). INFERRED for sets without a published table.
    """
    persons = sorted(set(problem.person[problem.usable].tolist()), key=_natural)
    k = problem.n_folds
    if not 2 <= k <= len(persons):
        raise UserError(f"kfold: n_folds is {k}; the data have {len(persons)} persons, expected 2 to {len(persons)}")
    width = len(str(k - 1))
    return {f"fold{i:0{width}d}": problem.usable & np.isin(problem.person, persons[i::k]) for i in range(k)}


def _composite(problem: _Problem) -> dict[str, np.ndarray]:
    """MEGC 2019 composite database evaluation: LOSO over the pool; a fold trains on the other databases too."""
    _at_least_two_datasets("cde", problem)
    return _loso(problem)


def _cross_dataset(problem: _Problem) -> dict[str, np.ndarray]:
    """Leave one dataset out. A person who is also in the tested dataset does not train."""
    _at_least_two_datasets("cross_dataset", problem)
    present = sorted(set(problem.dataset[problem.usable].tolist()))
    return {d: problem.usable & (problem.dataset == d) for d in present}


def _holdout(name: str, datasets: tuple[str, ...]) -> Callable[[_Problem], dict[str, np.ndarray]]:
    """Holdout-database evaluation over exactly these datasets: each is tested by a model of all others."""

    def maker(problem: _Problem) -> dict[str, np.ndarray]:
        present = set(problem.dataset[problem.usable].tolist())
        if present != set(datasets):
            raise UserError(
                f"protocol {name} is defined on {', '.join(datasets)}; the data with a label are of "
                f"{', '.join(sorted(present))} (for other datasets use cross_dataset)"
            )
        return _cross_dataset(problem)

    return maker


def _within(problem: _Problem) -> dict[str, np.ndarray]:
    """Leave one subject out inside every database: the same folds as `cde`, each trained on its own database alone.

    Beside a holdout-database protocol over the same databases it tells what crossing them costs.
    """
    _at_least_two_datasets("loso_within", problem)
    return _loso(problem)


def _own_dataset(problem: _Problem, test: np.ndarray) -> np.ndarray:
    return np.isin(problem.dataset, np.unique(problem.dataset[test]))


def _from_base(problem: _Problem) -> dict[str, np.ndarray]:
    """Each other family of synthetic faces tested by a model of `base` alone: one shift at a time, nothing else."""
    present = set(problem.dataset[problem.usable].tolist())
    if _BASE not in present or len(present) < 2:
        raise UserError(
            f"protocol hde_from_base trains on {_BASE} and tests every other dataset; the data with a label are of "
            f"{', '.join(sorted(present))}"
        )
    return {d: problem.usable & (problem.dataset == d) for d in sorted(present - {_BASE})}


def _at_least_two_datasets(name: str, problem: _Problem) -> None:
    present = sorted(set(problem.dataset[problem.usable].tolist()))
    if len(present) < 2:
        raise UserError(f"protocol {name} needs at least two datasets; the clips with a label are all of {present[0]}")


PROTOCOLS: Mapping[str, Callable[[_Problem], dict[str, np.ndarray]]] = {
    "loso": _loso,
    "kfold": _kfold,
    "cde": _composite,
    "hde_megc2018": _holdout("hde_megc2018", ("casme2", "samm")),
    "hde_atnet": _holdout("hde_atnet", ("casme2", "samm", "smic_hs")),
    "cross_dataset": _cross_dataset,
    "loso_within": _within,
    "hde_from_base": _from_base,
    "cd6me": _holdout("cd6me", ("casme", "casme2", "casme3", "fourdme", "mmew", "samm")),
    "au_loso": _loso,
}

# Protocols that train on fewer datasets than all others: (problem, test mask) -> the clips that may train.
SOURCES: Mapping[str, Callable[[_Problem, np.ndarray], np.ndarray]] = {
    "loso_within": _own_dataset,
    "hde_from_base": lambda problem, test: problem.dataset == _BASE,
}


def _natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that reads runs of digits as numbers: s2 before s10."""
    return tuple((0, int(part), part) if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text) if part)


def _safe_names(persons: Sequence[str]) -> dict[str, str]:
    """Person -> file-name-safe fold name, `cohort-subject`; the name depends on the person unless two would clash."""
    plain = {p: re.sub(r"[^A-Za-z0-9._-]+", "_", p.replace("/", "-")) for p in persons}
    count = Counter(plain.values())
    return {
        p: name if count[name] == 1 else f"{name}-{hashlib.sha256(p.encode()).hexdigest()[:8]}"
        for p, name in plain.items()
    }


def _inner_validation(
    fold: str, train: np.ndarray, person: np.ndarray, labels: np.ndarray, seed: int, fraction: float
) -> np.ndarray:
    """Clips [n] of the training persons held out to choose the epoch.

    INFERRED (papers that hold out persons do not say how): persons are drawn in an order given by (seed, fold, person)
    alone, about `fraction` of them and at least one; a person is passed over while holding them out would take the
    last training clip of a class.
    """
    persons = sorted(
        set(person[train].tolist()), key=lambda p: hashlib.sha256(f"{seed}\0{fold}\0{p}".encode()).hexdigest()
    )
    if len(persons) < 2:
        raise UserError(f"select=inner, fold {fold}: {len(persons)} training person cannot be divided; use select=last")
    wanted = min(max(1, round(fraction * len(persons))), len(persons) - 1)
    one_hot = labels[:, None] == np.arange(labels.max() + 1) if labels.ndim == 1 else labels == 1
    left = one_hot[train].sum(0)
    held: list[str] = []
    for p in persons:
        mine = one_hot[train & (person == p)].sum(0)
        if len(held) < wanted and not ((mine > 0) & (mine == left)).any():
            held.append(p)
            left = left - mine
    return train & np.isin(person, held or persons[:1])


# --- Checks ----------------------------------------------------------------------------------------------------------


def check_no_person_overlap(folds: Sequence[Fold], table: ClipTable) -> None:
    """Refuses a person on two sides of a fold (training, validation, test).

    Raises:
      UserError: names the fold and a person.
      ValueError: a mask of another length than the table.
    """
    person = table.person.astype(str)
    for fold in folds:
        sides = {"train": fold.train, "validation": fold.validation, "test": fold.test}
        for side, mask in sides.items():
            if mask.shape != (len(table),):
                raise ValueError(f"fold {fold.name}: {side} is a mask over {mask.shape}, expected {(len(table),)}")
        found = {side: set(person[mask].tolist()) for side, mask in sides.items()}
        for a, b in (("train", "test"), ("validation", "test"), ("train", "validation")):
            both = sorted(found[a] & found[b])
            if both:
                raise UserError(
                    f"fold {fold.name}: person {both[0]!r} is on both sides, {a} and {b} ({len(both)} in all); "
                    "a person may be on one side only"
                )


def tested_persons(folds: Sequence[Fold], table: ClipTable) -> frozenset[str]:
    """The persons who are tested in any fold."""
    person = table.person.astype(str)
    return frozenset(p for fold in folds for p in person[fold.test].tolist())


def allowed_for_pretraining(macro_table: ClipTable, folds: Sequence[Fold], table: ClipTable) -> np.ndarray:
    """Which clips [m] of another table may pre-train: those of persons whom no fold tests.

    Pre-training counts as training (macro and micro clips of CAS(ME)^2, CAS(ME)^3, MMEW and SAMM show the same
    people), and one pre-training serves all folds.
    """
    return ~np.isin(macro_table.person.astype(str), sorted(tested_persons(folds, table)))


def check_pretraining_persons(persons: Sequence[str], folds: Sequence[Fold], table: ClipTable, source: str) -> None:
    """Refuses weights from `source` that were pre-trained on persons whom a fold tests.

    Raises:
      UserError: names a person.
    """
    both = sorted(set(persons) & tested_persons(folds, table))
    if both:
        raise UserError(
            f"{source} was pre-trained on {both[0]!r} ({len(both)} persons in all), who is tested here; "
            "pre-train without the tested persons"
        )


def check_predictions(predictions: Predictions, folds: Sequence[Fold], table: ClipTable) -> None:
    """Checks that every seed predicts every test clip of every fold, in its fold, and nothing else.

    Raises:
      ValueError: a clip is missing, is predicted in another fold or is not tested (a bug of the caller).
    """
    clips = table["clip"].astype(str)
    expected = {(fold.name, clip) for fold in folds for clip in clips[fold.test].tolist()}
    for seed in predictions.seeds:
        mine = predictions.select(predictions.seed == seed)
        found = set(zip(mine.fold.tolist(), mine.clip.tolist(), strict=True))
        if found != expected:
            missing, extra = sorted(expected - found), sorted(found - expected)
            raise ValueError(
                f"seed {seed}: {len(missing)} test clips without a prediction {missing[:1]}, "
                f"{len(extra)} predictions that no fold tests {extra[:1]}"
            )


# --- Splits as data --------------------------------------------------------------------------------------------------


def splits_text(protocol: str, folds: Sequence[Fold], table: ClipTable) -> str:
    """The content of `splits.csv`: protocol,fold,dataset,subject,clip,role, sorted; a clip in no role has no row."""
    facts = list(zip(*(table[c].tolist() for c in ("dataset", "subject", "clip")), strict=True))
    rows = []
    for fold in folds:
        for role, mask in zip(ROLES, (fold.train, fold.validation, fold.test), strict=True):
            rows += [(protocol, fold.name, *map(str, facts[k]), role) for k in np.flatnonzero(mask)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(SPLIT_COLUMNS)
    writer.writerows(sorted(rows))
    return text.getvalue()


def split_hash(protocol: str, folds: Sequence[Fold], table: ClipTable) -> str:
    """SHA-256 (hexadecimal) of `splits.csv`: equal splits give equal hashes, whatever the order of the table."""
    return hashlib.sha256(splits_text(protocol, folds, table).encode()).hexdigest()


def write_splits(path: str | pathlib.Path, protocol: str, folds: Sequence[Fold], table: ClipTable) -> str:
    """Writes `splits.csv` whole or not at all, and returns its hash."""
    text = splits_text(protocol, folds, table)
    with atomic_open(path) as file:
        file.write(text)
    return hashlib.sha256(text.encode()).hexdigest()


def read_splits(path: str | pathlib.Path) -> dict[str, dict[str, tuple[str, ...]]]:
    """Reads `splits.csv`: fold -> role (ROLES) -> names of its clips, in the file's order.

    Raises:
      UserError: other columns, or a role that there is not; names file and row.
    """
    with io.StringIO(path_of(path).read_text(encoding="utf-8"), newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != SPLIT_COLUMNS:
            raise UserError(f"{path}, row 1: found {reader.fieldnames}; expected {','.join(SPLIT_COLUMNS)}")
        folds: dict[str, dict[str, list[str]]] = {}
        for number, row in enumerate(reader, start=2):
            if row["role"] not in ROLES:
                raise UserError(f"{path}, row {number}: found the role {row['role']!r}; expected {', '.join(ROLES)}")
            folds.setdefault(row["fold"], {role: [] for role in ROLES})[row["role"]].append(row["clip"])
    return {fold: {role: tuple(clips) for role, clips in roles.items()} for fold, roles in folds.items()}


def subject_table(folds: Sequence[Fold], table: ClipTable) -> str:
    """Lines for the terminal: each fold with its clips and the persons it tests."""
    person = table.person.astype(str)
    width = max(len(fold.name) for fold in folds)
    lines = [f"{'fold':<{width}}  train    val   test  tested persons"]
    for fold in folds:
        tested = sorted(set(person[fold.test].tolist()), key=_natural)
        sizes = "  ".join(f"{int(m.sum()):5d}" for m in (fold.train, fold.validation, fold.test))
        lines.append(f"{fold.name:<{width}}  {sizes}  {' '.join(tested)}")
    return "\n".join(lines) + "\n"
