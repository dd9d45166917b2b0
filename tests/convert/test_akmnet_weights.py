"""A released state dict of AKMNet, end to end: .pth -> variables -> logits and key frames, against numpy formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from configs import akmnet as config
from mer_jax.convert import akmnet
from mer_jax.convert.torch_checkpoint import state_dict
from mer_jax.errors import UserError
from mer_jax.settings import Settings
from tests.convert import torch_files

SIZE, FRAMES, CHANNELS, HIDDEN = 64, 5, 4, 3
NARROW = "released,data.size=64,model.width=0.0625,model.hidden=3"


def shapes(channels: int, hidden: int, places: int, classes: int = 4) -> dict[str, tuple[int, ...]]:
    """Names and shapes as the authors' code has them, written from the table of its state dict."""
    found: dict[str, tuple[int, ...]] = {"conv1.weight": (channels, 1, 5, 5)}

    def norm(name: str, size: int) -> None:
        found.update({f"{name}.{k}": (size,) for k in ("weight", "bias", "running_mean", "running_var")})
        found[f"{name}.num_batches_tracked"] = ()

    norm("bn1", channels)
    before = channels
    for stage in range(1, 5):
        width = channels * 2 ** (stage - 1)
        for i in range(2):
            block = f"layer{stage}.{i}"
            found[f"{block}.conv1.weight"] = (width, before, 3, 3)
            norm(f"{block}.bn1", width)
            found[f"{block}.conv2.weight"] = (width, width, 3, 3)
            norm(f"{block}.bn2", width)
            if before != width:
                found[f"{block}.downsample.0.weight"] = (width, before, 1, 1)
                norm(f"{block}.downsample.1", width)
            before = width
    found |= {"alpha.0.weight": (1, before), "alpha.0.bias": (1,)}
    for depth, features in enumerate((before, 2 * hidden)):
        for end in (f"l{depth}", f"l{depth}_reverse"):
            found |= {f"gru.weight_ih_{end}": (3 * hidden, features), f"gru.weight_hh_{end}": (3 * hidden, hidden)}
            found |= {f"gru.bias_ih_{end}": (3 * hidden,), f"gru.bias_hh_{end}": (3 * hidden,)}
    return found | {"fc.1.weight": (classes, places * 2 * hidden), "fc.1.bias": (classes,)}


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {}
    for name, shape in shapes(CHANNELS, HIDDEN, 4).items():
        if name.endswith("num_batches_tracked"):
            found[name] = np.array(7, np.int64)
        elif name.endswith("running_var") or (("bn" in name or "downsample.1" in name) and name.endswith("weight")):
            found[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            deviation = (2 / max(np.prod(shape[1:]), 1)) ** 0.5 if len(shape) > 1 else 0.3
            found[name] = (deviation * rng.normal(size=shape)).astype(np.float32)
    return found


# -- the network in numpy, from released tensors -----------------------------------------------------------------------


def conv(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """[T, C, H, W] with [O, C, k, k]."""
    size = kernel.shape[-1]
    x = np.pad(x, ((0, 0), (0, 0), (size // 2, size // 2), (size // 2, size // 2)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("tchwij,ocij->tohw", windows, kernel)


def network(t: dict[str, np.ndarray], frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """frames [T, 1, H, W] -> logits [M], beta [T], B [T]; float64."""
    t = {k: v.astype(np.float64) for k, v in t.items()}

    def unit(x: np.ndarray, kernel: str, name: str, stride: int) -> np.ndarray:
        gain, bias, mean, var = (
            t[f"{name}.{k}"][:, None, None] for k in ("weight", "bias", "running_mean", "running_var")
        )
        return (conv(x, t[f"{kernel}.weight"], stride) - mean) / np.sqrt(var + 1e-5) * gain + bias

    x = np.maximum(unit(frames, "conv1", "bn1", 2), 0)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    x = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2, ::2].max((-2, -1))
    for stage in range(1, 5):
        for i in range(2):
            block, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            y = np.maximum(unit(x, f"{block}.conv1", f"{block}.bn1", stride), 0)
            y = unit(y, f"{block}.conv2", f"{block}.bn2", 1)
            if f"{block}.downsample.0.weight" in t:
                x = unit(x, f"{block}.downsample.0", f"{block}.downsample.1", stride)
            x = np.maximum(x + y, 0)
    p = x.mean((2, 3))
    a = sigmoid(p @ t["alpha.0.weight"][0] + t["alpha.0.bias"])
    g = a @ p
    beta = p @ g / (np.linalg.norm(p, axis=1) * np.linalg.norm(g))
    kept = beta >= beta.mean()
    places = []
    for place in x[kept].reshape(kept.sum(), x.shape[1], -1).transpose(2, 0, 1):
        steps = place
        for depth in range(2):
            forward, reverse = gru(t, f"l{depth}", steps), gru(t, f"l{depth}_reverse", steps[::-1])[::-1]
            steps = np.concatenate([forward, reverse], axis=1)
        places.append(steps.mean(0))
    return np.concatenate(places) @ t["fc.1.weight"].T + t["fc.1.bias"], beta, kept


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gru(t: dict[str, np.ndarray], end: str, x: np.ndarray) -> np.ndarray:
    h, out = np.zeros(HIDDEN), []
    for now in x:
        i = (t[f"gru.weight_ih_{end}"] @ now + t[f"gru.bias_ih_{end}"]).reshape(3, HIDDEN)
        s = (t[f"gru.weight_hh_{end}"] @ h + t[f"gru.bias_hh_{end}"]).reshape(3, HIDDEN)
        r, z = sigmoid(i[0] + s[0]), sigmoid(i[1] + s[1])
        h = (1 - z) * np.tanh(i[2] + r * s[2]) + z * h
        out.append(h)
    return np.array(out)


def settings(words: str = NARROW) -> Settings:
    return Settings(config.get_config(words).to_dict())


def test_released_weights_give_the_logits_and_key_frames_of_the_formulas(tmp_path: Path) -> None:
    torch_files.save(tmp_path / "akmnet.pth", tensors())
    read = state_dict(tmp_path / "akmnet.pth")
    own = settings()
    variables: Any = akmnet.variables(read, own)
    rng = np.random.default_rng(1)
    frames = rng.uniform(size=(2, FRAMES, SIZE, SIZE, 1)).astype(np.float32)
    mask = np.array([[True] * FRAMES, [True] * 3 + [False] * 2])
    module = akmnet.network(read, own)
    found: Any = jax.jit(lambda v: module.apply(v, {"frames": frames, "mask": mask}, False))(variables)
    for i, n in enumerate(mask.sum(1)):
        logits, beta, kept = network(read, frames[i, :n].transpose(0, 3, 1, 2).astype(np.float64))
        assert 0 < kept.sum() < n
        np.testing.assert_allclose(found["scores"][i, :n], beta, atol=1e-5)
        np.testing.assert_array_equal(found["kept"][i, :n], kept)
        np.testing.assert_allclose(found["logits"][i], logits, atol=1e-4)


def test_the_full_state_dict_fits() -> None:
    """Every name and shape of the released file has its place; nothing is computed."""
    empty = {k: np.broadcast_to(np.float32(0), s) for k, s in shapes(64, 32, 16, classes=3).items()}
    variables = akmnet.variables(empty, settings("released"))
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == 11_295_940
    assert variables["params"]["classifier"]["kernel"].shape == (1024, 3)


def test_other_weights_are_refused() -> None:
    own = tensors()
    changed = {**own, "alpha.0.weight": np.zeros((1, 64), np.float32), "alpha.1.weight": np.zeros(3, np.float32)}
    del changed["layer2.0.downsample.0.weight"]
    with pytest.raises(UserError, match=r"(?s)unknown: alpha.1.weight.*missing: layer2.0.down.*misshapen: alpha.0.wei"):
        akmnet.variables(changed, settings())
    with pytest.raises(UserError, match=r"no fc.1.bias"):
        akmnet.variables({k: v for k, v in own.items() if k != "fc.1.bias"}, settings())
    with pytest.raises(UserError, match=r"released weights are of 1\+2\+3"):
        akmnet.variables(own, settings(NARROW + ",ft.mining=none"))
