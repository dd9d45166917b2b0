"""The papers, by name. A system's file is imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import Any

from mer_jax.errors import UserError
from mer_jax.systems.base import System

MODULES = {
    "akmnet": "mer_jax.systems.akmnet",
    "atnet": "mer_jax.systems.atnet",
    "fdp": "mer_jax.systems.fdp",
    "ma2mi": "mer_jax.systems.ma2mi",
    "mol": "mer_jax.systems.mol",
    "ststnet": "mer_jax.systems.ststnet",
}


def build(settings: Any, n_classes: int, n_macro_classes: int = 0) -> System:
    """The system that `settings.system` names.

    Args:
      settings: frozen settings; each system's file lists the fields that it reads.
      n_classes: classes of the recognition stage, or action units where `settings.task` is au.
      n_macro_classes: classes of the macro-expressions, for systems that are pre-trained on their labels.

    Raises:
      UserError: no system of that name.
    """
    if settings.system not in MODULES:
        raise UserError(f"system: found {settings.system!r}; expected one of {', '.join(sorted(MODULES))}")
    module = importlib.import_module(MODULES[settings.system])
    system: System = module.build(settings, n_classes, n_macro_classes)
    return system
