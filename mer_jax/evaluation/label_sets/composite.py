"""Label sets over several datasets, and by action units instead of emotions."""

from __future__ import annotations

from mer_jax.evaluation.label_set import ActionUnitSet, Counts, LabelSet
from mer_jax.evaluation.label_sets import casme, micro
from mer_jax.evaluation.label_sets.words import THREE, drop, same

_OBJECTIVE_5 = ("I", "II", "III", "IV", "V")
_OBJECTIVE_MAP = {c.lower(): c for c in _OBJECTIVE_5}
_OBJECTIVE_DROPPED = drop("vi", "vii", why="objective class VI or VII") | drop("", why="action units are unknown")


def _objective(*counts: int) -> dict[str, int]:
    return dict(zip(_OBJECTIVE_5, counts, strict=True))


_OBJECTIVE_EXPECTED = {
    "casme2": (
        Counts(_objective(25, 15, 99, 26, 20), 26, "objective-class file (MEGC 2018)"),
        Counts(_objective(30, 18, 93, 15, 18), None, "Objective Classes column of the 2019 sheet"),
    ),
    "samm": (Counts(_objective(24, 13, 20, 8, 3), 21, "v2 sheet"),),
}


def _objective_set(name: str, source: str, *datasets: str) -> LabelSet:
    return LabelSet(
        name,
        _OBJECTIVE_5,
        source,
        dict.fromkeys(datasets, _OBJECTIVE_MAP),
        dict.fromkeys(datasets, _OBJECTIVE_DROPPED),
        expected={d: _OBJECTIVE_EXPECTED[d] for d in datasets},
        by="objective",
    )


def _union(name: str, source: str, *parts: LabelSet) -> LabelSet:
    """Sets of the same classes over different datasets, as one; lists of the composite name the class itself."""
    return LabelSet(
        name,
        parts[0].classes,
        source,
        {d: same(*THREE) | dict(words) for part in parts for d, words in part.maps.items()},
        {d: words for part in parts for d, words in part.dropped.items()},
        {d: clips for part in parts for d, clips in part.excluded.items()},
        {d: counts for part in parts for d, counts in part.expected.items()},
    )


_PARTS = {s.name: s for s in (*casme.SETS, *micro.SETS)}
_COMPOSITE = (
    _union(
        "megc2019",
        "MEGC 2019 composite: 442 clips, 68 subjects, 250 negative, 109 positive, 83 surprise",
        *(_PARTS[name] for name in ("casme2_3_megc2019", "samm_3_megc2019", "smic_3")),
    ),
    _objective_set("megc2018", "MEGC 2018: objective classes I-V of CASME II and SAMM, 253 clips", "casme2", "samm"),
    _objective_set("casme2_objective_5", "Davison et al. 2018, objective classes I-V", "casme2"),
    _objective_set("samm_objective_5", "Davison et al. 2018, objective classes I-V", "samm"),
)

SETS = _COMPOSITE


def _own_units(dataset: str, clips: int, units: int) -> ActionUnitSet:
    """The frequent units of one database, by LOSO."""
    source = f"MEB benchmark, one database: {units} action units with at least 10 positive clips"
    return ActionUnitSet(f"{dataset}_au", (), (dataset,), source, {dataset: clips}, minimum=10, expected_units=units)


ACTION_UNIT_SETS = (
    ActionUnitSet(
        "cd6me",
        (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17),
        ("casme", "casme2", "samm", "fourdme", "mmew", "casme3"),
        "MEB benchmark (CD6ME), 2,031 clips",
        {"casme": 189, "casme2": 256, "samm": 159, "fourdme": 267, "mmew": 300, "casme3": 860},
    ),
    _own_units("casme", 189, 8),
    _own_units("casme2", 256, 11),
    _own_units("samm", 159, 6),
    _own_units("fourdme", 267, 8),
    _own_units("mmew", 300, 12),
    _own_units("casme3", 860, 15),
    ActionUnitSet(
        "synthetic_au",
        (1, 2, 4, 6, 7, 9, 10, 12, 14, 15, 17, 24),
        ("synthetic_faces",),
        "tfds_builders/synthetic_faces, units of at least 10 of the 220 clips of `micro`",
    ),
)
