"""Tables of clips without frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from mer_jax.data.clips import AU_COLUMNS, AU_SLOTS, NUMBER_COLUMNS, TEXT_COLUMNS, ClipTable

DEFAULTS = {
    "dataset": "casme2",
    "subject": "01",
    "modality": "grey",
    "apex_source": "annotated",
    "emotion": "others",
    "expression_type": "micro",
}


def build_table(rows: Sequence[dict[str, Any]]) -> ClipTable:
    """A table from partial rows; `units` lists the action units present ([] none, absent unknown)."""
    columns: dict[str, list[Any]] = {name: [] for name in (*TEXT_COLUMNS, *NUMBER_COLUMNS, *AU_COLUMNS)}
    for k, row in enumerate(rows):
        full = DEFAULTS | row
        full.setdefault("cohort", full["dataset"])
        full.setdefault("clip", f"{full['dataset']}/{full['subject']}/c{k:05d}")
        units = np.full(AU_SLOTS, -1, np.int8)
        if "units" in full:
            units[:] = 0
            units[full["units"]] = 1
        vectors = {"action_units": units} | dict.fromkeys(AU_COLUMNS[1:], np.zeros(AU_SLOTS, np.int8))
        for name in columns:
            columns[name].append(vectors[name] if name in vectors else full.get(name, 0))
    arrays: dict[str, np.ndarray] = {c: np.array(columns[c], dtype=str) for c in TEXT_COLUMNS}
    arrays |= {c: np.array(columns[c], dtype=t) for c, t in NUMBER_COLUMNS.items()}
    arrays |= {c: np.array(columns[c], dtype=np.int8).reshape(-1, AU_SLOTS) for c in AU_COLUMNS}
    return ClipTable(arrays)


@pytest.fixture(name="build_table", scope="session")
def build_table_fixture() -> Callable[[Sequence[dict[str, Any]]], ClipTable]:
    return build_table
