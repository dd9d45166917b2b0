"""Objective classes: micro-expressions sorted by their action units instead of by an estimated emotion.

Davison, Merghani and Yap 2018 (J. Imaging 4:119, arXiv 1708.07549), Table 1: a clip belongs to the class that lists
exactly its combination of action units, whatever their side or intensity; every other combination is class VII.

Sheets carry their own column of objective classes, and it does not always follow the table (37 rows of CASME II differ
between two releases): where a table of clips has the column `objective_class`, it is taken as it is.
"""

from __future__ import annotations

import numpy as np

from mer_jax.data.clips import ClipTable

COLUMN = "objective_class"
COMBINATIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "I": ((6,), (12,), (6, 12), (6, 7, 12), (7, 12)),
    "II": ((1, 2), (5,), (25,), (1, 2, 25), (25, 26), (5, 24)),
    "III": ((23,), (4,), (4, 7), (4, 5), (4, 5, 7), (17, 24), (4, 6, 7), (4, 38)),
    "IV": (
        (10,), (9,), (4, 9), (4, 40), (4, 5, 40), (4, 7, 9), (4, 9, 17), (4, 7, 10), (4, 5, 7, 9), (7, 10),
    ),
    "V": ((1,), (15,), (1, 4), (6, 15), (15, 17)),
    "VI": ((1, 2, 4), (20,)),
}  # fmt: skip
OTHERS = "VII"
_CLASS = {frozenset(units): name for name, sets in COMBINATIONS.items() for units in sets}


def objective_class(units: frozenset[int] | set[int]) -> str:
    """The objective class, "I" to "VII", of a combination of action units."""
    return _CLASS.get(frozenset(units), OTHERS)


def classes_of(table: ClipTable) -> list[str]:
    """The objective class of each clip: the sheet's where the table has one, else from the action units.

    Returns:
      n words; "" where the action units are unknown and no class is given.
    """
    units = table["action_units"]
    derived = [objective_class(set(np.flatnonzero(row == 1).tolist())) if (row >= 0).any() else "" for row in units]
    if COLUMN not in table.columns:
        return derived
    given = [str(cell).strip().upper() for cell in table[COLUMN].tolist()]
    return [mine or fallback for mine, fallback in zip(given, derived, strict=True)]
