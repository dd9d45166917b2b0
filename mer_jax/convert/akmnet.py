"""AKMNet's released weights: one state dict of backbone, local attention, GRU and classifier."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.convert import CONV2D, LINEAR, Entry, assemble, layer, norm
from mer_jax.errors import UserError
from mer_jax.settings import Settings
from mer_jax.systems.akmnet import AKMNet, build_network
from mer_jax.training.state import Variables

CLASSIFIER = "fc.1"


def entries(blocks: tuple[int, ...]) -> dict[str, Entry]:
    """Released name -> place, for a backbone of `blocks` residual blocks a stage."""
    found = {"conv1.weight": Entry("params/backbone/stem/conv/kernel", CONV2D), **norm("bn1", "backbone/stem/norm")}
    for stage, count in enumerate(blocks, start=1):
        for i in range(count):
            theirs, ours = f"layer{stage}.{i}", f"backbone/stage_{stage}_block_{i}"
            units = [(f"conv{k}", f"bn{k}", f"conv_{k}") for k in (1, 2)]
            if stage > 1 and i == 0:
                units.append(("downsample.0", "downsample.1", "shortcut"))
            for conv, batch_norm, name in units:
                found |= layer(f"{theirs}.{conv}", f"{ours}/{name}/conv", CONV2D, bias=False)
                found |= norm(f"{theirs}.{batch_norm}", f"{ours}/{name}/norm")
    for depth in range(2):
        for suffix, direction in (("", "forward"), ("_reverse", "reverse")):
            place, ending = f"params/gru/layer_{depth}_{direction}", f"l{depth}{suffix}"
            for theirs, ours in (("ih", "input"), ("hh", "hidden")):
                found[f"gru.weight_{theirs}_{ending}"] = Entry(f"{place}/{ours}_kernel", LINEAR)
                found[f"gru.bias_{theirs}_{ending}"] = Entry(f"{place}/{ours}_bias")
    return found | layer("alpha.0", "attention/linear", LINEAR) | layer(CLASSIFIER, "classifier", LINEAR)


def network(tensors: Mapping[str, np.ndarray], settings: Settings) -> AKMNet:
    """The network of `settings` with as many classes as the tensors have.

    Raises:
      UserError: no classifier among the tensors, or settings without local attention, which every released file has.
    """
    if f"{CLASSIFIER}.bias" not in tensors:
        raise UserError(f"the weights have no {CLASSIFIER}.bias, which says how many classes there are")
    if "1" not in settings.ft.mining:
        raise UserError(f"ft.mining: found {settings.ft.mining!r}; released weights are of 1+2+3")
    return build_network(settings, len(tensors[f"{CLASSIFIER}.bias"]))


def variables(tensors: Mapping[str, np.ndarray], settings: Settings) -> Variables:
    """Linen variables of `network` from a released state dict.

    Raises:
      UserError: names every unknown, missing and misshapen tensor.
    """
    size, module = settings.data.size, network(tensors, settings)
    clip = {"frames": jnp.zeros((1, 1, size, size, 1)), "mask": jnp.ones((1, 1), bool)}
    template = jax.eval_shape(lambda: dict(module.init(jax.random.key(0), clip, False)))
    return assemble(tensors, entries(settings.model.blocks), template)
