"""How each system is looked into, by name; see `lenses.base`."""

from __future__ import annotations

from typing import Any

from mer_jax.analysis.lenses.akmnet import AKMNet
from mer_jax.analysis.lenses.atnet import ATNet
from mer_jax.analysis.lenses.base import Heats, Lens, nearest
from mer_jax.analysis.lenses.fdp import FDP
from mer_jax.analysis.lenses.ma2mi import MA2MI, PRETEXT
from mer_jax.analysis.lenses.mol import MOL
from mer_jax.analysis.lenses.ststnet import STSTNetLens

__all__ = ["LENSES", "PRETEXT", "Heats", "Lens", "nearest", "of"]

LENSES: dict[str, type[Lens]] = {
    "akmnet": AKMNet,
    "atnet": ATNet,
    "fdp": FDP,
    "ma2mi": MA2MI,
    "mol": MOL,
    "ststnet": STSTNetLens,
}


def of(system: Any) -> Lens:
    """The lens of a system."""
    return LENSES[system.settings.system](system)
