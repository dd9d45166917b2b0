"""STSTNet's released weights: three convolutions, their BatchNorms, one linear layer."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.convert import CONV2D, LINEAR, Entry, assemble, layer
from mer_jax.errors import UserError
from mer_jax.settings import Settings
from mer_jax.systems.ststnet import MAPS, STSTNet, build_network
from mer_jax.training.state import Variables

CLASSIFIER = "fc"


def entries(streams: int) -> dict[str, Entry]:
    """Released name -> place."""
    found = layer(CLASSIFIER, "linear", LINEAR)
    for i in range(1, streams + 1):
        found |= layer(f"conv{i}", f"stream_{i}", CONV2D)
        found |= {
            f"bn{i}.weight": Entry(f"params/stream_{i}/scale"),
            f"bn{i}.bias": Entry(f"params/stream_{i}/shift"),
            f"bn{i}.running_mean": Entry(f"batch_stats/stream_{i}/mean"),
            f"bn{i}.running_var": Entry(f"batch_stats/stream_{i}/var"),
        }
    return found


def network(tensors: Mapping[str, np.ndarray], settings: Settings) -> STSTNet:
    """The network of `settings` with as many classes as the tensors have.

    Raises:
      UserError: no classifier among the tensors.
    """
    if f"{CLASSIFIER}.bias" not in tensors:
        raise UserError(f"the weights have no {CLASSIFIER}.bias, which says how many classes there are")
    return build_network(settings, len(tensors[f"{CLASSIFIER}.bias"]))


def variables(tensors: Mapping[str, np.ndarray], settings: Settings) -> Variables:
    """Linen variables of `network` from a released state dict.

    Raises:
      UserError: names every unknown, missing and misshapen tensor.
    """
    module = network(tensors, settings)
    batch = {"maps": jnp.zeros((1, module.side, module.side, len(MAPS)))}
    template = jax.eval_shape(lambda: dict(module.init(jax.random.key(0), batch, False)))
    return assemble(tensors, entries(len(module.filters)), template)
