"""The clip: the one data contract of the house (every builder writes it, every system and protocol reads it).

A *record* is one clip with its encoded frames; a *table* holds the facts of many clips, column by column, without
frames. Positions (`onset`, `apex`, `offset`) count frames of the clip from 0; -1 is "unknown".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mer_jax.errors import UserError

MODALITIES = ("rgb", "grey", "nir", "flow_strain")
APEX_SOURCES = ("annotated", "imputed", "corrected", "missing")
EXPRESSION_TYPES = ("micro", "macro", "neutral")
AU_SLOTS = 100  # FACS codes run to 92: slot k of an action-unit vector is AU k
AU_SIDES = ("unspecified", "left", "right", "top", "bottom", "asymmetric")
N_LANDMARKS = 68  # iBUG order


@dataclasses.dataclass(frozen=True)
class ClipRecord:
    """One clip.

    Attributes:
      clip: `dataset/subject/clip[/onset]`, unique everywhere.
      dataset: name of the dataset.
      subject: subject as the dataset writes it, padded.
      cohort: the group of people; a *person* is `cohort/subject`.
      frames: T encoded images (PNG, or the original JPEG bytes), margins included.
      modality: one of MODALITIES.
      fps: frames a second; NaN where unknown.
      onset: position of the first frame of the movement.
      apex: position of its strongest frame, -1 where unknown.
      offset: position of its last frame.
      apex_source: one of APEX_SOURCES.
      emotion: the dataset's own word.
      expression_type: one of EXPRESSION_TYPES.
      action_units: int8 [AU_SLOTS], 1 present, 0 absent, -1 unknown; slot k is AU k.
      action_unit_sides: int8 [AU_SLOTS], index into AU_SIDES.
      action_unit_intensity: int8 [AU_SLOTS], 0 not given, 1..5 = A..E.
      landmarks: float32 [T, 68, 2], (x, y) in pixels of the stored frames, iBUG order; NaN where unknown.
      true_onset: exact position where a generator knows it (fractional positions are rounded), else -1.
      true_apex: see true_onset.
      true_offset: see true_onset.
    """

    clip: str
    dataset: str
    subject: str
    cohort: str
    frames: Sequence[bytes]
    modality: str
    fps: float
    onset: int
    apex: int
    offset: int
    apex_source: str
    emotion: str
    expression_type: str
    action_units: np.ndarray
    action_unit_sides: np.ndarray
    action_unit_intensity: np.ndarray
    landmarks: np.ndarray
    true_onset: int = -1
    true_apex: int = -1
    true_offset: int = -1


TEXT_COLUMNS = (
    "clip", "dataset", "subject", "cohort", "modality", "apex_source", "emotion", "expression_type",
)  # fmt: skip
NUMBER_COLUMNS: Mapping[str, Any] = {
    "length": np.int32,
    "fps": np.float32,
    "onset": np.int32,
    "apex": np.int32,
    "offset": np.int32,
    "true_onset": np.int32,
    "true_apex": np.int32,
    "true_offset": np.int32,
}
AU_COLUMNS = ("action_units", "action_unit_sides", "action_unit_intensity")
OPTIONAL_COLUMNS = ("objective_class",)  # texts that some sheets give beyond the contract; "" where a clip has none


@dataclasses.dataclass(frozen=True)
class ClipTable:
    """Facts of n clips, one numpy array [n] a column (action units [n, AU_SLOTS]), in the source's order."""

    columns: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        missing = [c for c in (*TEXT_COLUMNS, *NUMBER_COLUMNS, *AU_COLUMNS) if c not in self.columns]
        if missing:
            raise ValueError(f"a clip table lacks the columns {missing}")

    def __len__(self) -> int:
        return len(self.columns["clip"])

    def __getitem__(self, column: str) -> np.ndarray:
        return self.columns[column]

    @property
    def person(self) -> np.ndarray:
        """`cohort/subject` of every clip [n]: the unit of splits, leak checks and bootstraps."""
        return np.char.add(np.char.add(self["cohort"].astype(str), "/"), self["subject"].astype(str))

    def select(self, rows: np.ndarray) -> ClipTable:
        """The table of the given rows (boolean mask [n] or positions)."""
        return ClipTable({name: column[rows] for name, column in self.columns.items()})

    @classmethod
    def from_records(cls, records: Iterable[ClipRecord]) -> ClipTable:
        """Collects the facts of records; frames and landmarks are left behind."""
        rows = [
            {f.name: getattr(r, f.name) for f in dataclasses.fields(r) if f.name not in ("frames", "landmarks")}
            | {"length": len(r.frames)}
            for r in records
        ]
        columns: dict[str, np.ndarray] = {c: np.array([r[c] for r in rows], dtype=str) for c in TEXT_COLUMNS}
        columns |= {c: np.array([r[c] for r in rows], dtype=t) for c, t in NUMBER_COLUMNS.items()}
        columns |= {c: np.array([r[c] for r in rows], dtype=np.int8).reshape(-1, AU_SLOTS) for c in AU_COLUMNS}
        return cls(columns)

    @classmethod
    def concatenate(cls, tables: Sequence[ClipTable]) -> ClipTable:
        """Joins tables row-wise; refuses a clip that appears twice."""
        optional = [c for c in OPTIONAL_COLUMNS if any(c in t.columns for t in tables)]
        shared = [*(n for n in tables[0].columns if n not in optional), *optional]
        blank = [{c: np.full(len(t), "", dtype=str) for c in optional} for t in tables]
        columns = [b | dict(t.columns) for b, t in zip(blank, tables, strict=True)]
        joined = cls({name: np.concatenate([c[name] for c in columns]) for name in shared})
        names, counts = np.unique(joined["clip"], return_counts=True)
        if (counts > 1).any():
            raise UserError(f"clip {names[counts > 1][0]!r} appears twice; names of clips must be unique")
        return joined
