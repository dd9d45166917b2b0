"""What every system's pictures are made from, and what they hand to the report.

`pictures/<system>.py` has three names: `DIMENSIONS` (array -> number of dimensions), `arrays(tested)`, which runs the
networks of the folds once, and `pictures(panels)`, which draws from those arrays alone: a report can be rebuilt where
neither data nor checkpoints are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mer_jax.data.clips import ClipTable
from mer_jax.files import atomic_open

CLIPS = 8
PANELS = "analysis/panels.npz"


@dataclasses.dataclass(frozen=True)
class Tested:
    """The first seed of a finished run, open for looking.

    Attributes:
      settings: of the run.
      system: the system.
      store: the scored clips, on the default device.
      table: their facts; positions as stored.
      classes: names of the classes, or of the action units.
      folds: (variables of a fold, rows of the store that it tested); can be iterated again, one fold in memory.
      shown: rows of the clips that are drawn.
      landmarks: row -> [68, 2] at the apex, in pixels of the stored frames; NaN where unknown.
      pretraining: variables of the pre-training stage and a batch of pairs (of held-out people where there are any);
        None without pre-training.
    """

    settings: Any
    system: Any
    store: Any
    table: ClipTable
    classes: tuple[str, ...]
    folds: Iterable[tuple[Any, np.ndarray]]
    shown: list[int]
    landmarks: Callable[[int], np.ndarray]
    pretraining: tuple[Any, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture of the report.

    Attributes:
      name: of the file in figures/.
      heading: of its part of the page.
      figure: the picture.
      caption: below it.
      wide: scrolls sideways on narrow screens instead of shrinking.
      text: a paragraph after it.
    """

    name: str
    heading: str
    figure: Figure
    caption: str
    wide: bool = False
    text: str = ""


def choose_clips(labels: np.ndarray, count: int = CLIPS) -> list[int]:
    """Rows of the store to show: clips of every class in turn, spread over the store."""
    per_class = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    turns = [(len(rows) * k // -(-count // len(per_class)), rows) for k in range(count) for rows in per_class]
    chosen = [int(rows[place]) for place, rows in turns if place < len(rows)]
    return list(dict.fromkeys(chosen))[:count]


def write(workdir: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the arrays where the report looks for them."""
    with atomic_open(workdir / PANELS, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
