"""FDP's released weights: one state dict of frame encoder (frame_rep), recognition (mer) and SegNet (dyimg_net)."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.convert import CONV2D, CONV3D, LINEAR, Entry, assemble, layer, norm
from mer_jax.errors import UserError
from mer_jax.settings import Settings
from mer_jax.systems import fdp
from mer_jax.training.state import Variables

CLASSIFIER = "mer.fc2"
FLAT = "mer.fc1.weight"  # its columns are channels first, ours channels last


def _pointwise(released: str, ours: str, channels: tuple[int, int], bias: bool = True) -> dict[str, Entry]:
    """A 1x1 convolution [out, in, 1, 1] that is a linear layer [in, out] here."""
    weight = Entry(f"params/{ours}/kernel", (2, 3, 1, 0), (*channels, 1, 1))
    return {f"{released}.weight": weight} | ({f"{released}.bias": Entry(f"params/{ours}/bias")} if bias else {})


def _encoder(model: Settings) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for i in range(4):
        found |= layer(f"frame_rep.stem.{i}.conv", f"encoder/stem/conv_{i}", CONV2D, bias=False)
        found |= norm(f"frame_rep.stem.{i}.norm", f"encoder/stem/norm_{i}")
    number, before = 0, model.stem
    for stage, (depth, width) in enumerate(zip(model.depths, model.widths, strict=True), start=1):
        for i in range(depth):
            theirs, ours = f"frame_rep.features.{number}", f"encoder/stage_{stage}_local_{i}"
            if i == 0 and (stage > 1 or before != width):
                place = f"{ours}/patch_embed"
                found |= _pointwise(f"{theirs}.patch_embed.conv", f"{place}/conv", (width, before), bias=False)
                found |= norm(f"{theirs}.patch_embed.norm", f"{place}/norm")
            found |= layer(f"{theirs}.mhca.group_conv3x3", f"{ours}/mhca/conv", CONV2D, bias=False)
            found |= norm(f"{theirs}.norm", f"{ours}/norm")
            hidden = max(32, int(3 * width + 16) // 32 * 32)
            found |= _pointwise(f"{theirs}.mlp.conv1", f"{ours}/mlp/conv1", (hidden, width))
            found |= _pointwise(f"{theirs}.mlp.conv2", f"{ours}/mlp/conv2", (width, hidden))
            number, before = number + 1, width
    return found | norm("frame_rep.norm", "encoder/norm") | layer("frame_rep.proj_head.0", "encoder/head", LINEAR)


def entries(settings: Settings) -> dict[str, Entry]:
    """Released name -> place, for the sizes of `settings`."""
    model = settings.model
    found = _encoder(model)
    frames, side = settings.data.frames, model.map_size // 3
    found["mer.conv3d.weight"] = Entry("params/mix/kernel", CONV3D, (model.maps, 1, 3, 3, frames))
    found["mer.conv3d.bias"] = Entry("params/mix/bias")
    found[FLAT] = Entry("params/hidden/kernel", (2, 3, 1, 0), (model.hidden, model.maps, side, side))
    found |= {"mer.fc1.bias": Entry("params/hidden/bias")} | layer(CLASSIFIER, "classifier", LINEAR)
    for stage, count in enumerate(model.segnet_convolutions, start=1):
        for i in range(1, count + 1):
            for name in (f"{stage}{i}", f"{stage}{i}d"):
                found |= layer(f"dyimg_net.conv{name}", f"segnet/conv{name}", CONV2D)
                if name != "11d":  # the last convolution stands alone
                    found |= norm(f"dyimg_net.bn{name}", f"segnet/bn{name}")
    return found


def variables(tensors: Mapping[str, np.ndarray], settings: Settings) -> Variables:
    """Linen variables of the released network from its state dict; statistics of clips are neutral.

    Raises:
      UserError: settings of another network; names every unknown, missing and misshapen tensor.
    """
    for field, found, expected in (
        ("model.attention", settings.model.attention, (False,)),
        ("model.local", settings.model.local, ("dense",)),
        ("model.pool", settings.model.pool, ("conv3d", "conv3d_mixed")),
        ("model.segnet_bias", settings.model.segnet_bias, (True,)),
        ("ft.rank_weight", settings.ft.rank_weight, (0, 0.0)),
    ):
        if found not in expected:
            words = " or ".join(map(str, expected[:2]))
            raise UserError(f"{field}: found {found!r}; released weights are of a network with {words}")
    if f"{CLASSIFIER}.bias" not in tensors:
        raise UserError(f"the weights have no {CLASSIFIER}.bias, which says how many classes there are")
    module = fdp.build_network(settings, len(tensors[f"{CLASSIFIER}.bias"]))
    data, known = settings.data, entries(settings)
    clip = {"frames": jnp.zeros((1, data.frames, data.size, data.size, 1))}
    template = jax.eval_shape(lambda: dict(module.init(jax.random.key(0), clip, False)))
    template["constants"] = {"statistics": jax.tree.map(np.asarray, fdp.neutral_statistics(settings.model.map_size))}
    given = dict(tensors)
    shape = known[FLAT].shape
    if FLAT in given and shape is not None and given[FLAT].shape == (shape[0], int(np.prod(shape[1:]))):
        given[FLAT] = given[FLAT].reshape(shape)
    return assemble(given, known, template)
