"""Released MOL weights: the authors' names and ours. The network is that of `configs/mol.py:released`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.convert import CONV2D, CONV3D, LINEAR, Entry, assemble, layer, norm
from mer_jax.errors import UserError
from mer_jax.nn.mol import STEM, scaled
from mer_jax.systems.mol import build_network
from mer_jax.training.state import Variables

_UPCONV = (0, 2, 3, 1)  # PyTorch's transposed convolution: [in, out, h, w]
CLASSIFIER = "mer_3dcnn.fc2"


def variables(tensors: Mapping[str, np.ndarray], settings: Any) -> Variables:
    """Variables of the network of `settings` from a released state dict; the classes are those of the file.

    Raises:
      UserError: names that are unknown or missing, shapes that do not fit.
    """
    if f"{CLASSIFIER}.weight" not in tensors:
        raise UserError(f"found no {CLASSIFIER}.weight among {len(tensors)} tensors; expected a state dict of MOL")
    data, model = settings.data, settings.model
    module = build_network(settings, len(tensors[f"{CLASSIFIER}.weight"]))
    batch = {"frames": jax.ShapeDtypeStruct((1, model.frames, data.crop, data.crop, 1), jnp.float32)}
    template = jax.eval_shape(lambda b: module.init(jax.random.key(0), b, False), batch)
    constants = {k: np.zeros(v.shape, v.dtype) for k, v in template["constants"]["statistics"].items()}
    constants["scale"] = np.ones((), np.float32)  # fitted again to the training clips of every fold
    whole = {**template, "constants": {"statistics": constants}}
    unused = () if model.fcc != "circular" or model.fcc_ffn != "none" else (r"FCC_[12]\.ffn\..*",)
    return assemble(tensors, entries(settings), whole, unused)


def entries(settings: Any) -> dict[str, Entry]:
    """Released name -> where it goes, for the parts that the network of `settings` has."""
    model = settings.model
    found: dict[str, Entry] = {}
    for i in range(4):
        found |= layer(f"conv_stack.conv_stack.{i}", f"conv_stack/conv_{i + 1}", CONV2D)
    for number, block in ((1, "f5c_first"), (2, "f5c_second")):
        found |= _fcc(f"FCC_{number}", f"{block}/fcc", model) if model.fcc == "circular" else {}
        found |= _ccc(f"CCC_{number}", f"{block}/ccc", settings) if model.ccc != "none" else {}
    found |= {"mer_3dcnn.conv3d.weight": Entry("params/recognition/kernel", CONV3D)}
    found |= {"mer_3dcnn.conv3d.bias": Entry("params/recognition/bias")}
    found |= layer("mer_3dcnn.fc1", "recognition/hidden/dense", LINEAR)
    found |= layer(CLASSIFIER, "classifier/dense", LINEAR)
    if model.landmarks:
        found |= layer("ldm_predictor.convldm", "landmarks/conv", CONV2D)
        found |= layer("ldm_predictor.fc1", "landmarks/hidden/dense", LINEAR)
        found |= layer("ldm_predictor.fc2", "landmarks/points/dense", LINEAR)
    return found | (_flow(model.flow_depth) if model.flow else {})


def _fcc(released: str, ours: str, model: Any) -> dict[str, Entry]:
    """The first half of the channels goes along the rows first (hw), the second along the columns (wh)."""
    found: dict[str, Entry] = {}
    half = scaled(STEM[-1][0], model.width, 4) // 2
    for path, order in (("hw", "HW"), ("wh", "WH")):
        for number, axis in enumerate(order, start=1):
            line = (model.fcc_meta, 1) if axis == "H" else (1, model.fcc_meta)
            turned = (2, 3) if axis == "H" else (3, 2)
            place = f"params/{ours}/{path}_{{}}_{axis.lower()}"
            found[f"{released}.meta_kernel_{number}_{axis}"] = Entry(
                place.format("kernel"), (*turned, 1, 0), (half, 1, *line)
            )
            found[f"{released}.meta_pe_{number}_{axis}"] = Entry(
                place.format("position"), (*turned, 0, 1), (1, half, *line)
            )
            found[f"{released}.meta_{number}_{axis}_bias"] = Entry(place.format("bias"))
    found |= norm(f"{released}.pre_Norm_1", f"{ours}/hw_norm") | norm(f"{released}.pre_Norm_2", f"{ours}/wh_norm")
    if model.fcc_ffn != "none":
        wide, narrow = 2 * half, max(1, 2 * half // 64)
        found |= norm(f"{released}.ffn.0", f"{ours}/ffn_norm")
        for place, name, shape in (("1", "ffn_in", (narrow, wide, 1, 1)), ("4", "ffn_out", (wide, narrow, 1, 1))):
            found[f"{released}.ffn.{place}.weight"] = Entry(f"params/{ours}/{name}/kernel", CONV2D, shape)
            found[f"{released}.ffn.{place}.bias"] = Entry(f"params/{ours}/{name}/bias")
    return found


def _ccc(released: str, ours: str, settings: Any) -> dict[str, Entry]:
    places = _side(settings.data.crop) ** 2
    found: dict[str, Entry] = {}
    for i in (1, 2):  # convolutions of one channel with a kernel as long as the signal
        found[f"{released}.conv{i}.weight"] = Entry(f"params/{ours}/kernel_{i}", (2, 1, 0), (places, 1, places))
        found[f"{released}.conv{i}.bias"] = Entry(f"params/{ours}/bias_{i}")
    return found


def _side(size: int) -> int:
    for _, kernel, stride, padding in STEM:
        size = (size + 2 * padding - kernel) // stride + 1
    return size


def _flow(depth: int) -> dict[str, Entry]:
    names = ["conv1", "conv2", "conv3", "conv_redir", "conv3_1"]
    names += [f"conv{i}{part}" for i in range(4, 4 + depth) for part in ("", "_1")]
    found: dict[str, Entry] = {}
    for name in names:
        found |= layer(f"flownet.{name}.0", f"flow/{name}", CONV2D, bias=False)
        found |= norm(f"flownet.{name}.1", f"flow/{name}_norm")
    for i in range(3 + depth):
        found[f"flownet.deconv{i}.0.weight"] = Entry(f"params/flow/deconv{i}/kernel", _UPCONV)
        upper = f"flownet.upsampled_flow{i + 1}_to_{i}.weight"
        found[upper] = Entry(f"params/flow/up{i + 1}/kernel", _UPCONV)
        found |= layer(f"flownet.predict_flow{i}", f"flow/predict{i}", CONV2D, bias=False)
    return found | layer(f"flownet.predict_flow{3 + depth}", f"flow/predict{3 + depth}", CONV2D, bias=False)
