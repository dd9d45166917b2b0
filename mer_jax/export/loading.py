"""Opens an exported network. Needs jax and numpy, nothing else of mer_jax; without it these lines do the same:

import json, jax, numpy as np
network = jax.export.deserialize(open("OUT/network.stablehlo", "rb").read())
facts = json.load(open("OUT/network.json"))  # inputs, classes, preprocessing
clips = {name: np.zeros([9 if n == "t" else 4 if n == "b" else n for n in x["shape"]], x["dtype"]) ... }
probabilities = np.asarray(network.call(clips))  # [b, classes]
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mer_jax.errors import UserError

NETWORK, FACTS, CARD = "network.stablehlo", "network.json", "model_card.md"


@dataclasses.dataclass(frozen=True)
class Exported:
    """An exported network.

    Attributes:
      classes: names of the classes or action units.
      inputs: name -> {shape, dtype, meaning}; "b" clips and "t" frames in a shape are free.
      facts: all of network.json.
      network: as jax.export gives it.
    """

    classes: tuple[str, ...]
    inputs: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, Any]
    network: Any

    def __call__(self, **arrays: Any) -> np.ndarray:
        """Probabilities float32 [b, C] of clips given as `inputs` describes them.

        Raises:
          UserError: an input is missing, unknown, or of another shape or type.
        """
        if set(arrays) != set(self.inputs):
            raise UserError(f"found the inputs {', '.join(sorted(arrays))}; expected {', '.join(sorted(self.inputs))}")
        free: dict[str, int] = {}
        for name, expected in self.inputs.items():
            array, shape = np.asarray(arrays[name]), expected["shape"]
            pairs = zip(shape, array.shape, strict=False)
            sizes = [free.setdefault(n, found) if isinstance(n, str) else n for n, found in pairs]
            if array.ndim != len(shape) or list(array.shape) != sizes or str(array.dtype) != expected["dtype"]:
                raise UserError(
                    f"input {name}: found {array.dtype} {list(array.shape)}; expected {expected['dtype']} {shape}, "
                    "with the same b and t in all inputs"
                )
        return np.asarray(self._call({name: np.asarray(x) for name, x in arrays.items()}))

    @functools.cached_property
    def _call(self) -> Any:
        return jax.jit(self.network.call)  # compiled once for each number of clips and frames


def load(out: Path | str) -> Exported:
    """Opens the OUT of `python -m mer_jax.export`.

    Raises:
      UserError: no export there, or a file of it that is damaged.
    """
    out = Path(out).expanduser()
    if not (out / NETWORK).is_file() or not (out / FACTS).is_file():
        raise UserError(f"{out}: found no {NETWORK} and {FACTS}; expected the OUT of python -m mer_jax.export")
    try:
        facts = json.loads((out / FACTS).read_text(encoding="utf-8"))
        network = jax.export.deserialize(bytearray((out / NETWORK).read_bytes()))
        return Exported(tuple(facts["classes"]), facts["inputs"], facts, network)
    except Exception as error:  # what the readers raise on damage is theirs to choose
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{out}: the export cannot be read ({reason}); export it again") from error
