"""Labels of a clip table: from a name in the registry to one label a clip, with everything left out named.

    labelled = labels.apply("casme2_5", table)
    labelled.labels       # int32 [n], -1 where left out
    labelled.exclusions   # every clip left out, with its reason
    labelled.differences  # where the counts differ from the published ones

Sets are data (`label_sets`). `own`, or `<dataset>_own`, is every emotion word of the table as
its own class; `au_own` is every action unit with enough positives.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from mer_jax.data.clips import AU_SLOTS, EXPRESSION_TYPES, ClipTable
from mer_jax.errors import UserError
from mer_jax.evaluation import label_sets, objective
from mer_jax.evaluation.datasets import canonical
from mer_jax.evaluation.label_set import ActionUnitSet, Counts, LabelSet
from mer_jax.evaluation.results import Predictions

REGISTRY: Mapping[str, LabelSet | ActionUnitSet] = {s.name: s for s in (*label_sets.SETS, *label_sets.ACTION_UNIT_SETS)}
OWN = "own"
AU_OWN = "au_own"


@dataclasses.dataclass(frozen=True)
class Exclusion:
    """A clip left out of a label set, and why."""

    clip: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Labels of the n clips of a table.

    Attributes:
      label_set: name of the set.
      task: "emotion" (one class a clip) or "au" (any number of action units a clip).
      classes: the C classes, or action units ("AU1", ...), in the order of the labels.
      labels: int32 [n], -1 where left out; for "au" int8 [n, C] with 1 present, 0 absent, -1 unknown or left out.
      exclusions: the clips left out, in the order of the table.
      counts: dataset -> clips of each class, in the order of `classes`; for "au" clips with each unit.
      differences: one sentence for each dataset whose counts differ from every published version.
      matches: dataset -> the published version whose counts are those of the table.
    """

    label_set: str
    task: str
    classes: tuple[str, ...]
    labels: np.ndarray
    exclusions: tuple[Exclusion, ...]
    counts: Mapping[str, tuple[int, ...]]
    differences: tuple[str, ...]
    matches: Mapping[str, str]

    @property
    def used(self) -> np.ndarray:
        """Which clips take part: bool [n]."""
        return used(self.labels)

    def exclusion_counts(self) -> dict[str, int]:
        """How many clips were left out for each reason, the most frequent first."""
        return dict(Counter(e.reason for e in self.exclusions).most_common())


def used(labels: np.ndarray) -> np.ndarray:
    """Which clips have a label (int [n]) or at least one known action unit (int [n, A]): bool [n]."""
    labels = np.asarray(labels)
    return np.asarray(labels >= 0) if labels.ndim == 1 else np.asarray((labels >= 0).any(-1))


def get(name: str) -> LabelSet | ActionUnitSet:
    """The registered set of a name.

    Raises:
      UserError: no set of that name (suggests near ones).
    """
    if name in REGISTRY:
        return REGISTRY[name]
    near = difflib.get_close_matches(name, [*REGISTRY, OWN, AU_OWN], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(REGISTRY))}"
    raise UserError(f"unknown label set {name!r}; {hint} (`own` takes the emotion words of the data as classes)")


def apply(label_set: str | LabelSet | ActionUnitSet, table: ClipTable) -> Labelled:
    """Labels every clip of a table.

    Args:
      label_set: a set, or its name in the registry, `own`, `<dataset>_own` or `au_own`.
      table: the clips, of one or several datasets.

    Returns:
      Labels, exclusions with reasons and differences to the published counts.

    Raises:
      UserError: unknown set; an emotion word that the set neither maps nor drops; no clip left.
    """
    if isinstance(label_set, str):
        if label_set == AU_OWN:
            label_set = ActionUnitSet(AU_OWN, (), (), "the action units of the data", minimum=10)
        elif label_set == OWN or label_set.endswith(f"_{OWN}"):
            label_set = own(table, label_set.removesuffix(OWN).removesuffix("_"))
        else:
            label_set = get(label_set)
    if isinstance(label_set, ActionUnitSet):
        return _apply_action_units(label_set, table)
    return _apply_classes(label_set, table)


def own(table: ClipTable, dataset: str = "") -> LabelSet:
    """The set whose classes are the emotion words of a table, sorted; of one dataset where it is given."""
    names = np.array([canonical(name) for name in table["dataset"].tolist()])
    words = np.array([_word(w) for w in table["emotion"].tolist()])
    if dataset:
        if not (names == dataset).any():
            raise UserError(
                f"label set {dataset}_{OWN}: the data hold no clip of {dataset!r}; they hold {_list(names)}"
            )
        names, words = names[names == dataset], words[names == dataset]
    classes = tuple(sorted(set(words.tolist()) - {""}))
    maps = {d: {w: w for w in classes} for d in sorted(set(names.tolist()))}
    dropped = {d: {"": "no emotion word"} for d in maps}
    name = f"{dataset}_{OWN}" if dataset else OWN
    return LabelSet(name, classes, "the emotion words of the data", maps, dropped, expression_types=EXPRESSION_TYPES)


def _word(cell: str) -> str:
    """An emotion word as sets spell it: sheets differ in case and trailing blanks."""
    return cell.strip().lower()


def _list(values: np.ndarray) -> str:
    return ", ".join(sorted(set(values.tolist()))) or "nothing"


def _apply_classes(label_set: LabelSet, table: ClipTable) -> Labelled:
    words = objective.classes_of(table) if label_set.by == "objective" else table["emotion"]
    position = {name: k for k, name in enumerate(label_set.classes)}
    labels = np.full(len(table), -1, np.int32)
    exclusions = []
    rows = zip(*(table[c].tolist() for c in ("clip", "dataset", "subject", "expression_type")), words, strict=True)
    for row, (clip, dataset, subject, kind, cell) in enumerate(rows):
        dataset, word = canonical(dataset), _word(str(cell))
        reason = _reason(label_set, dataset, kind, subject, clip, word)
        if reason is None:
            labels[row] = position[label_set.maps[dataset][word]]
        else:
            exclusions.append(Exclusion(clip, reason))
    names = np.array([canonical(name) for name in table["dataset"].tolist()])
    if not (labels >= 0).any():
        why = exclusions[0].reason if exclusions else "the data are empty"
        raise UserError(
            f"label set {label_set.name}: no clip is left of the {len(table)} of {_list(names)} (for example: {why}); "
            f"the set is for {', '.join(label_set.maps)}"
        )
    counts, persons = {}, {}
    for dataset in label_set.maps:
        mine = (names == dataset) & (labels >= 0)
        persons[dataset] = len(set(table.person[mine].tolist()))
        if mine.any():
            counts[dataset] = tuple(np.bincount(labels[mine], minlength=len(position)).tolist())
    differences, matches = compare_counts(label_set, counts, persons)
    return Labelled(
        label_set.name, "emotion", label_set.classes, labels, tuple(exclusions), counts, differences, matches
    )


def compare_counts(
    label_set: LabelSet, counts: Mapping[str, Sequence[int]], persons: Mapping[str, int]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Compares clips of each class with the published counts.

    Args:
      label_set: the set with its published counts.
      counts: dataset -> clips of each class, in the order of the classes; a dataset without clips may be absent.
      persons: dataset -> number of persons.

    Returns:
      One sentence for each dataset that differs from every published version, and {dataset: version} for the others.
    """
    differences, matches = [], {}
    for dataset, versions in label_set.expected.items():
        found = dict(zip(label_set.classes, counts.get(dataset, (0,) * len(label_set.classes)), strict=True))
        version, difference = _compare(dataset, found, persons.get(dataset, 0), versions)
        if difference:
            differences.append(difference)
        else:
            matches[dataset] = version
    return tuple(differences), matches


def differences_of(label_set: LabelSet, predictions: Predictions) -> tuple[str, ...]:
    """Where the truth counts of predictions of a set's classes differ from the published ones."""
    first = predictions.select(predictions.seed == predictions.seeds[0])
    names = np.array([canonical(name) for name in first.dataset.tolist()])
    counts, persons = {}, {}
    for dataset in sorted(set(names.tolist())):
        mine = names == dataset
        counts[dataset] = np.bincount(first.truth[mine], minlength=len(label_set.classes)).tolist()
        persons[dataset] = len(set(first.person[mine].tolist()))
    return compare_counts(label_set, counts, persons)[0]


def datasets_of(name: str) -> tuple[str, ...]:
    """The datasets that a named set is for; empty for any."""
    if name in (OWN, AU_OWN):
        return ()
    if name.endswith(f"_{OWN}"):
        return (name.removesuffix(f"_{OWN}"),)
    label_set = get(name)
    return label_set.datasets if isinstance(label_set, ActionUnitSet) else tuple(label_set.maps)


def _reason(label_set: LabelSet, dataset: str, kind: str, subject: str, clip: str, word: str) -> str | None:
    """Why a clip is left out, or None. Raises where the set has no opinion on its word."""
    if dataset not in label_set.maps:
        return f"dataset {dataset} is not part of {label_set.name}"
    if kind not in label_set.expression_types:
        return f"expression type {kind} is not part of {label_set.name}"
    dropped = label_set.dropped.get(dataset, {})
    if word in dropped:
        return dropped[word]
    for (number, name), why in label_set.excluded.get(dataset, {}).items():
        if clip.split("/")[2:3] == [name] and _number(subject) == _number(number):
            return why
    if word not in label_set.maps[dataset] and "+" in word:
        return "the clip carries several emotions"
    if word not in label_set.maps[dataset]:
        expected = ", ".join(sorted({*label_set.maps[dataset], *dropped}))
        raise UserError(
            f"clip {clip}: label set {label_set.name} does not know the {label_set.by} {word!r} of {dataset}; "
            f"it knows {expected}"
        )
    return None


def _number(subject: str) -> int | str:
    """The number in a subject's name: sheets write 4, 04 and sub04."""
    digits = re.findall(r"\d+", subject)
    return int(digits[-1]) if digits else subject


def _compare(
    dataset: str, found: Mapping[str, int], persons: int, versions: Sequence[Counts]
) -> tuple[str, str | None]:
    """The nearest published version, and how the counts at hand differ from it (None if they do not)."""

    def distance(counts: Counts) -> int:
        wrong_persons = counts.persons is not None and counts.persons != persons
        return 2 * sum(abs(found[c] - counts.clips[c]) for c in found) + wrong_persons

    nearest = min(versions, key=distance)
    if distance(nearest) == 0:
        return nearest.version, None
    where = ", ".join(f"{c} {found[c]} instead of {nearest.clips[c]}" for c in found if found[c] != nearest.clips[c])
    people = ""
    if nearest.persons is not None and nearest.persons != persons:
        people = f"; {persons} persons instead of {nearest.persons}"
    origin = ", ".join(filter(None, (nearest.version, "" if nearest.verified else "unverified")))
    return nearest.version, (
        f"{dataset}: {sum(found.values())} clips at hand, {nearest.total} published ({origin})"
        + (f": {where}" if where else "")
        + people
    )


def _apply_action_units(units: ActionUnitSet, table: ClipTable) -> Labelled:
    names = np.array([canonical(name) for name in table["dataset"].tolist()])
    inside = np.isin(names, units.datasets) if units.datasets else np.ones(len(table), bool)
    micro = table["expression_type"] == "micro"
    vectors = table["action_units"].astype(np.int8)
    known = (vectors >= 0).any(1)
    keep = inside & micro & known
    numbers = np.array(units.units, int)
    if not units.units:
        numbers = np.arange(1, AU_SLOTS)[((vectors[keep] == 1).sum(0) >= units.minimum)[1:]]
    if not keep.any() or not len(numbers):
        raise UserError(
            f"label set {units.name}: no clip with action units is left of the {len(table)} of {_list(names)}"
            + (f" (or no unit has {units.minimum} positives)" if not units.units else "")
        )
    labels = np.where(keep[:, None], vectors[:, numbers], np.int8(-1))
    unknown = keep & (labels < 0).all(1)
    reasons = [
        (~inside, "dataset is not part of the set"),
        (~micro, "expression type is not micro"),
        (~known, "action units are unknown"),
        (unknown, "none of the set's action units is known"),
    ]
    exclusions = []
    for row in np.flatnonzero(~keep | unknown):
        exclusions.append(Exclusion(str(table["clip"][row]), next(why for mask, why in reasons if mask[row])))
    counts, differences, matches = {}, [], {}
    for dataset in units.datasets or sorted(set(names[keep].tolist())):
        mine = (names == dataset) & keep & ~unknown
        counts[dataset] = tuple((labels[mine] == 1).sum(0).tolist())
        total = units.expected.get(dataset)
        if total is not None and total != mine.sum():
            differences.append(f"{dataset}: {mine.sum()} clips at hand, {total} published ({units.source})")
        elif total is not None:
            matches[dataset] = units.source
    if units.expected_units and len(numbers) != units.expected_units:
        differences.append(
            f"{', '.join(units.datasets)}: {len(numbers)} action units with {units.minimum} positive clips at hand, "
            f"{units.expected_units} published ({units.source})"
        )
    classes = tuple(f"AU{k}" for k in numbers.tolist())
    return Labelled(units.name, "au", classes, labels, tuple(exclusions), counts, tuple(differences), matches)
