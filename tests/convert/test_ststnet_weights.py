"""A released state dict of STSTNet, end to end: .pth -> variables -> logits, against numpy formulas."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from configs import ststnet as config
from mer_jax.convert import ststnet
from mer_jax.convert.torch_checkpoint import state_dict
from mer_jax.errors import UserError
from mer_jax.settings import Settings
from tests.convert import torch_files
from tests.systems import ststnet_reference as reference


def tensors() -> dict[str, np.ndarray]:
    """Names and shapes from the table of the released state dict."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i, filters in ((1, 3), (2, 5), (3, 8)):
        shapes |= {f"conv{i}.weight": (filters, 3, 3, 3), f"conv{i}.bias": (filters,)}
        shapes |= {f"bn{i}.{k}": (filters,) for k in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"bn{i}.num_batches_tracked"] = ()
    shapes |= {"fc.weight": (3, 400), "fc.bias": (3,)}
    rng = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {n: rng.normal(size=s).astype(np.float32) / 8 for n, s in shapes.items()}
    for name in found:
        if name.endswith("running_var"):
            found[name] = np.abs(found[name]) + 1
        if name.endswith("num_batches_tracked"):
            found[name] = np.array(1600, np.int64)
    return found


@pytest.fixture(scope="module")
def settings() -> Any:
    return Settings(config.get_config("released").to_dict())


def test_released_weights_give_the_logits_of_the_released_network(tmp_path, settings):
    torch_files.save(tmp_path / "006.pth", tensors())
    read = state_dict(tmp_path / "006.pth")
    maps = np.random.default_rng(1).integers(0, 256, (2, 28, 28, 3)).astype(np.float32)

    variables = ststnet.variables(read, settings)
    network = ststnet.network(read, settings)
    found = jax.jit(lambda x: network.apply(variables, {"maps": x}, False)["logits"])(maps)

    expected = reference.logits(maps, {n: t.astype(np.float64) for n, t in tensors().items()}, running=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    assert network.n_outputs == 3


def test_weights_of_another_network_are_named(settings):
    read = tensors()
    read["conv2.weight"] = read["conv2.weight"][:4]
    read["extra"] = read.pop("bn3.bias")
    with pytest.raises(UserError, match=r"1 unknown: extra; 1 missing: bn3\.bias; 1 misshapen: conv2\.weight"):
        ststnet.variables(read, settings)
    with pytest.raises(UserError, match=r"no fc\.bias"):
        ststnet.variables({}, settings)
