"""The data of a run: builds what is missing, then labels, folds, store and the clips that may be pre-trained on."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax.data import source as sources
from mer_jax.data.clips import ClipTable
from mer_jax.data.source import ClipSource
from mer_jax.errors import UserError
from mer_jax.evaluation import labels as label_sets
from mer_jax.evaluation import protocols
from mer_jax.evaluation.labels import Labelled
from mer_jax.evaluation.protocols import Fold
from mer_jax.files import is_remote, path_of
from mer_jax.training.folds import Folds
from tfds_builders.build import ensure_built


@dataclasses.dataclass(frozen=True)
class Micro:
    """What is recognised.

    Attributes:
      source: all clips of the datasets.
      rows: positions in the source of the m clips with a label.
      table: facts of those clips.
      labelled: the label set applied to all clips of the source.
      labels: int32 [m] classes, or int8 [m, A] action units.
      folds: masks over the m clips.
    """

    source: ClipSource
    rows: np.ndarray
    table: ClipTable
    labelled: Labelled
    labels: np.ndarray
    folds: tuple[Fold, ...]

    def arrays(self, select: str) -> Folds:
        """The folds as the engine takes them; `oracle` is the only way for test clips to reach the selection."""
        train, validation, test = (
            np.stack([getattr(f, k) for f in self.folds]) for k in ("train", "validation", "test")
        )
        return Folds(tuple(f.name for f in self.folds), train, test if select == "oracle" else validation, test)


@dataclasses.dataclass(frozen=True)
class Macro:
    """What is pre-trained on.

    Attributes:
      source: all clips of the datasets.
      train: rows that the network learns from.
      held_out: rows of persons kept aside for the health metrics.
      labels: int32 [n] over the source, classes of the emotion words; -1 for other clips.
      classes: the emotion words.
      excluded: clips left out because their person is tested in a fold.
    """

    source: ClipSource
    train: np.ndarray
    held_out: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    excluded: int

    @property
    def persons(self) -> list[str]:
        """Persons that the network learns from."""
        return sorted(set(self.source.table.person[self.train].tolist()))


def open_or_build(names: str, data_dir: str, manual_dir: str) -> ClipSource:
    """Opens datasets (`a+b`), building the missing ones in a child process (which alone imports TensorFlow).

    Raises:
      UserError: a dataset cannot be built.
    """
    root = path_of(data_dir) if data_dir else sources.default_data_dir()
    try:
        if not is_remote(root):
            root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"data.dir {root} cannot be reached ({error.strerror}); expected the folder where datasets are built"
        ) from None
    for name in names.split("+") if not is_remote(root) else ():  # nothing is built in a bucket
        if manual_dir or not _is_built(name, root):  # a user's folder may have changed since the last build
            print(f"building {name} in {root}", file=sys.stderr, flush=True)
            ensure_built(name, root, manual_dir or None)
    return sources.open_datasets(names.split("+"), root)


def _is_built(name: str, root: Path) -> bool:
    try:
        sources.find_directory(name, root)
    except sources.NotBuiltError:
        return False
    return True


def micro(settings: Any) -> Micro:
    """The clips that are recognised, with labels and folds.

    Raises:
      UserError: data cannot be built or opened, no clip is left, a protocol does not fit.
    """
    data = settings.data
    source = open_or_build(data.name, data.dir, data.manual_dir)
    labelled = label_sets.apply(data.labels, source.table)
    if labelled.task != settings.task:
        raise UserError(f"data.labels {data.labels!r} is for task = {labelled.task}; task is {settings.task!r}")
    rows = np.flatnonzero(labelled.used)
    table = source.table.select(rows)
    folds = protocols.make(
        data.protocol,
        table,
        labelled.labels[rows],
        seed=settings.seeds[0],
        select=settings.select,
        n_folds=data.n_folds,
        validation_fraction=settings.validation_fraction,
    )
    protocols.check_no_person_overlap(folds, table)
    return Micro(source, rows, table, labelled, labelled.labels[rows], tuple(folds))


def macro(settings: Any, scored: Micro) -> Macro:
    """The clips that may be pre-trained on: macro-expressions of persons whom no fold tests.

    Raises:
      UserError: data cannot be built or opened, or no clip is left.
    """
    data = settings.data
    source = open_or_build(data.macro, data.dir, data.macro_manual_dir)
    table = source.table
    is_macro = table["expression_type"] == "macro"
    allowed = protocols.allowed_for_pretraining(table, scored.folds, scored.table)
    usable = is_macro & allowed
    if not usable.any():
        raise UserError(
            f"data.macro {data.macro!r}: {is_macro.sum()} of {len(table)} clips are macro-expressions and none of them "
            "is of a person whom no fold tests; expected some. Choose another set to pre-train on"
        )
    words = sorted(set(table["emotion"][usable].tolist()))
    labels = np.where(usable, np.searchsorted(words, table["emotion"]), -1).astype(np.int32)
    held = _held_out(table.person[usable], settings.pre.holdout)
    held_out = usable & np.isin(table.person, held)
    return Macro(
        source,
        np.flatnonzero(usable & ~held_out),
        np.flatnonzero(held_out),
        labels,
        tuple(words),
        int((is_macro & ~allowed).sum()),
    )


def _held_out(persons: Sequence[str], share: float) -> list[str]:
    """Every k-th person in sorted order, about `share` of them; never all."""
    names = sorted(set(persons))
    count = min(round(share * len(names)), len(names) - 1)
    return [names[(2 * i + 1) * len(names) // (2 * count)] for i in range(count)]
