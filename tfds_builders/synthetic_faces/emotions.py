"""From a class to action units: two tables, one for macro- and one for micro-expressions.

A macro-expression is a whole prototype (EMFACS-like); a micro-expression is partial, often one unit, and the classes
overlap, as in CASME II (Yan et al. 2014, Table 3: AU4 in disgust, repression and others; AU12 in happiness and others).
Some classes have no counterpart on the other side.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tfds_builders.synthetic_faces.action_units import Activation
from tfds_builders.synthetic_faces.faces import SIDES

Table = Mapping[str, tuple[tuple[tuple[int, ...], float], ...]]  # class -> (pattern of units, weight)

MICRO: Table = {
    "happiness": (((12,), 0.50), ((6, 12), 0.40), ((12, 14), 0.05), ((4, 12), 0.05)),
    "disgust": (((4, 7), 0.20), ((4, 9), 0.22), ((9,), 0.14), ((10,), 0.18), ((7, 10), 0.12), ((4,), 0.14)),
    "repression": (((15,), 0.26), ((17,), 0.22), ((15, 17), 0.24), ((14, 17), 0.16), ((4, 15), 0.06), ((12, 17), 0.06)),
    "surprise": (((1, 2), 0.62), ((2,), 0.12), ((1, 2, 5), 0.20), ((1, 2, 4), 0.06)),
    "others": (
        ((4,), 0.20), ((4, 7), 0.08), ((1, 4), 0.14), ((7,), 0.10), ((14,), 0.20), ((24,), 0.10), ((4, 14), 0.06),
        ((12,), 0.03), ((17,), 0.03), ((1, 2), 0.02), ((10,), 0.02), ((20,), 0.02),
    ),
}  # fmt: skip
# CASME II, 5 classes: 32, 63, 27, 25, 99 clips
MICRO_SHARES = {"happiness": 32, "disgust": 63, "repression": 27, "surprise": 25, "others": 99}

MACRO: Table = {
    "happiness": (((6, 12), 0.35), ((6, 12, 25), 0.45), ((12, 25, 26), 0.20)),
    "sadness": (((1, 4, 15), 0.4), ((1, 15, 17), 0.3), ((1, 4, 17), 0.3)),
    "surprise": (((1, 2, 5, 26), 0.5), ((1, 2, 5, 25, 26), 0.3), ((1, 2, 26), 0.2)),
    "fear": (((1, 2, 4, 5, 20, 25), 0.5), ((1, 2, 4, 5, 25), 0.3), ((1, 2, 4, 20), 0.2)),
    "anger": (((4, 5, 7, 23), 0.4), ((4, 7, 24), 0.4), ((4, 7, 17, 23), 0.2)),
    "disgust": (((9, 10), 0.3), ((9, 17), 0.3), ((4, 7, 9, 10), 0.2), ((10, 25), 0.2)),
    "contempt": (((14,), 0.6), ((12, 14), 0.4)),
}
MACRO_SHARES = {
    "happiness": 60, "sadness": 30, "surprise": 40, "fear": 20, "anger": 30, "disgust": 30, "contempt": 16,
}  # fmt: skip

ONE_SIDED = {10: 0.2, 12: 0.15, 14: 0.45, 2: 0.1, 4: 0.05}  # share of one-sided activations, by unit
DROP_OUT = 0.12  # a unit of a pattern stays away (never the last one)


def draw(table: Table, emotion: str, rng: np.random.Generator, gain: tuple[float, float]) -> Activation:
    """Activations at the apex of one event.

    Args:
      table: MICRO or MACRO.
      emotion: class.
      rng: of the clip.
      gain: lowest and highest intensity of the strongest unit.

    Returns:
      (unit, side) -> intensity.
    """
    patterns, weights = zip(*table[emotion], strict=True)
    units = list(patterns[rng.choice(len(patterns), p=np.array(weights) / sum(weights))])
    kept = [u for u in units if rng.random() >= DROP_OUT] or [units[int(rng.integers(len(units)))]]
    strength = rng.uniform(*gain)
    activation: Activation = {}
    for unit in kept:
        own = strength * rng.uniform(0.6, 1.0)
        lonely = SIDES[int(rng.integers(2))] if rng.random() < ONE_SIDED.get(unit, 0.0) else None
        for side in SIDES:
            if lonely in (None, side):
                activation[unit, side] = own * rng.uniform(0.85, 1.0)
    return activation


def units_of(activation: Activation) -> dict[int, str]:
    """unit -> "both", "right" or "left" (the subject's)."""
    found: dict[int, str] = {}
    for unit, side in activation:
        found[unit] = side if unit not in found else "both"
    return found
