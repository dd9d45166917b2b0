"""Reads and replaces what flows through a network at a named place, without touching the network."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn


@dataclasses.dataclass(frozen=True)
class Place:
    """A call inside a network.

    Attributes:
      path: names of the modules that lead there; () is the network itself.
      method: which method of the module.
      side: "output", or "input" for its first argument.
    """

    path: tuple[str, ...]
    method: str = "__call__"
    side: str = "output"


# The last linear layer of each system: its input is the feature of a clip, its output are the logits.
CLASSIFIER = {
    "akmnet": Place(("classifier",), side="input"),
    "atnet": Place(("classifier",), side="input"),
    "fdp": Place(("classifier",), side="input"),
    "ma2mi": Place(("head", "linear"), side="input"),
    "mol": Place(("classifier",), side="input"),
    "ststnet": Place(("linear",), side="input"),
}


def apply(
    module: nn.Module,
    variables: Any,
    batch: Any,
    read: tuple[Place, ...] = (),
    replace: Mapping[Place, Any] | None = None,
) -> tuple[Any, list[Any]]:
    """Runs a network in evaluation mode, reads at some places and puts other values at others; traced.

    Args:
      module: `apply(variables, batch, False)` gives the outputs.
      variables: of the module.
      batch: examples.
      read: places to read.
      replace: what is put at other places, in the stead of the network's own.

    Returns:
      the outputs, and what was found at each place of `read`: of the last call there.

    Raises:
      ValueError: a place is never come by.
    """
    replace = replace or {}
    found: dict[Place, Any] = {}
    passed: set[Place] = set()

    def at(context: Any, side: str, places: Iterable[Place]) -> list[Place]:
        here = (context.module.path, context.method_name, side)
        return [p for p in places if (p.path, p.method, p.side) == here]

    def watch(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        for place in at(context, "input", replace):
            args = (replace[place], *args[1:])
            passed.add(place)
        for place in at(context, "input", read):
            found[place] = args[0]
        result = call(*args, **kwargs)
        for place in at(context, "output", replace):
            result = replace[place]
            passed.add(place)
        for place in at(context, "output", read):
            found[place] = result
        return result

    with nn.intercept_methods(watch):
        outputs = module.apply(variables, batch, False)
    missed = [p for p in (*read, *replace) if p not in found and p not in passed]
    if missed:
        where = "/".join(missed[0].path) or "its top"
        raise ValueError(f"{type(module).__name__} never calls {missed[0].method} at {where}")
    return outputs, [found[place] for place in read]
