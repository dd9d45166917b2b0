"""What a label set is: classes, which emotion word of which dataset belongs to which class, published counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

Map = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Counts:
    """Clips of each class as somebody published or counted them, for one version of one dataset.

    Attributes:
      clips: number of clips by class.
      persons: number of persons with at least one clip, where known.
      version: which sheet, release or list.
      verified: whether it was counted on the sheet or printed by its authors; hearsay otherwise.
    """

    clips: Mapping[str, int]
    persons: int | None = None
    version: str = ""
    verified: bool = True

    @property
    def total(self) -> int:
        """Clips of all classes."""
        return sum(self.clips.values())


@dataclasses.dataclass(frozen=True)
class LabelSet:
    """Classes and how the words of each dataset map to them.

    Attributes:
      name: its name in the registry; it carries its source where maps of that size differ.
      classes: the classes, in the order of the labels.
      source: where the map comes from.
      maps: dataset -> {emotion word (lower case): class}. Every word of a dataset is here or in `dropped`.
      dropped: dataset -> {emotion word: why its clips are left out}.
      excluded: clips left out by name: dataset -> {(subject, clip): reason}; `subject` is compared by its number.
      expected: dataset -> published counts, one entry a version; the nearest one is compared with the data at hand.
      by: "emotion" or "objective" (the objective classes of Davison et al. 2018, from action units).
      expression_types: which types of expression belong to the set.
    """

    name: str
    classes: tuple[str, ...]
    source: str
    maps: Mapping[str, Map]
    dropped: Mapping[str, Map] = dataclasses.field(default_factory=dict)
    excluded: Mapping[str, Mapping[tuple[str, str], str]] = dataclasses.field(default_factory=dict)
    expected: Mapping[str, tuple[Counts, ...]] = dataclasses.field(default_factory=dict)
    by: str = "emotion"
    expression_types: tuple[str, ...] = ("micro",)

    def __post_init__(self) -> None:
        for dataset, words in self.maps.items():
            odd = sorted(set(words.values()) - set(self.classes))
            if odd:
                raise ValueError(f"{self.name}: {dataset} maps to {odd}, which are no classes")
            twice = sorted(set(words) & set(self.dropped.get(dataset, {})))
            if twice:
                raise ValueError(f"{self.name}: {dataset} both maps and drops {twice}")
        for dataset in (*self.dropped, *self.excluded, *self.expected):
            if dataset not in self.maps:
                raise ValueError(f"{self.name}: {dataset} has no map")
        for counts in (c for versions in self.expected.values() for c in versions):
            if set(counts.clips) != set(self.classes):
                raise ValueError(f"{self.name}: counts of {sorted(counts.clips)} for the classes {self.classes}")


@dataclasses.dataclass(frozen=True)
class ActionUnitSet:
    """The action units of a detection task.

    Attributes:
      name: its name in the registry.
      units: numbers of the action units; empty for "those with at least `minimum` positive clips".
      datasets: the datasets of the benchmark; empty for any.
      source: where it comes from.
      expected: dataset -> published number of clips.
      minimum: see `units`.
      expected_units: published number of units where `units` is empty; 0 where unknown.
    """

    name: str
    units: tuple[int, ...]
    datasets: tuple[str, ...]
    source: str
    expected: Mapping[str, int] = dataclasses.field(default_factory=dict)
    minimum: int = 0
    expected_units: int = 0
