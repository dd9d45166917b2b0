"""Pictures of the systems, by name. A system's file is imported when it is asked for."""

from __future__ import annotations

import importlib
from types import ModuleType

MODULES = {
    "akmnet": "mer_jax.analysis.pictures.akmnet",
    "atnet": "mer_jax.analysis.pictures.atnet",
    "fdp": "mer_jax.analysis.pictures.fdp",
    "ma2mi": "mer_jax.analysis.pictures.ma2mi",
    "mol": "mer_jax.analysis.pictures.mol",
    "ststnet": "mer_jax.analysis.pictures.ststnet",
}


def of(system: str) -> ModuleType | None:
    """The pictures of a system, see `pictures.base`; None where it has none."""
    return importlib.import_module(MODULES[system]) if system in MODULES else None
