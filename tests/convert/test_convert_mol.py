"""A released state dict of MOL, end to end: .pth -> checkpoint -> all outputs, against slow numpy formulas."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import mol as config
from mer_jax.convert import mol
from mer_jax.convert.torch_checkpoint import state_dict
from mer_jax.errors import UserError
from mer_jax.settings import Settings
from mer_jax.systems.mol import build_network
from mer_jax.training.checkpoint import read_arrays, read_meta
from tests.convert import torch_files

SIZE, SIDE, FRAMES, CHANNELS, CLASSES = 32, 4, 4, 4, 3
WORDS = f"released,data.crop={SIZE},model.frames={FRAMES},width=0.03125,model.flow_width=0.03125,model.flow_depth=2"
DECODER = {4: 8, 3: 4, 2: 4, 1: 4, 0: 4}  # channels that the transposed convolution to a level makes
ENCODER = {0: 1, 1: 4, 2: 4, 3: 8, 4: 16, 5: 16}  # channels of the skips


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes as the authors' code has them, at a small width, written from the table of its state dict."""
    found: dict[str, tuple[int, ...]] = {}

    def norm(name: str, size: int) -> None:
        found.update({f"{name}.{k}": (size,) for k in ("weight", "bias", "running_mean", "running_var")})
        found[f"{name}.num_batches_tracked"] = ()

    for i, (before, kernel) in enumerate([(1, 4), (CHANNELS, 3), (CHANNELS, 2), (CHANNELS, 1)]):
        found[f"conv_stack.conv_stack.{i}.weight"] = (CHANNELS, before, kernel, kernel)
        found[f"conv_stack.conv_stack.{i}.bias"] = (CHANNELS,)
    for block in ("1", "2"):
        for i in "12":
            for axis, line in (("H", (32, 1)), ("W", (1, 32))):
                found[f"FCC_{block}.meta_kernel_{i}_{axis}"] = (CHANNELS // 2, 1, *line)
                found[f"FCC_{block}.meta_pe_{i}_{axis}"] = (1, CHANNELS // 2, *line)
                found[f"FCC_{block}.meta_{i}_{axis}_bias"] = (CHANNELS // 2,)
            norm(f"FCC_{block}.pre_Norm_{i}", CHANNELS // 2)
            found[f"CCC_{block}.conv{i}.weight"] = (SIDE**2, 1, SIDE**2)
            found[f"CCC_{block}.conv{i}.bias"] = (SIDE**2,)
        norm(f"FCC_{block}.ffn.0", CHANNELS)
        found |= {f"FCC_{block}.ffn.1.weight": (1, CHANNELS, 1, 1), f"FCC_{block}.ffn.1.bias": (1,)}
        found |= {f"FCC_{block}.ffn.4.weight": (CHANNELS, 1, 1, 1), f"FCC_{block}.ffn.4.bias": (CHANNELS,)}
    for name, before, after, kernel in [
        ("conv1", 1, 4, 6), ("conv2", 4, 4, 4), ("conv3", 4, 8, 2), ("conv_redir", 8, 4, 1),
        ("conv3_1", 4 + 441 + 2 * CHANNELS, 8, 3), ("conv4", 8, 16, 3), ("conv4_1", 16, 16, 3), ("conv5", 16, 16, 3),
        ("conv5_1", 16, 16, 3),
    ]:  # fmt: skip
        found[f"flownet.{name}.0.weight"] = (after, before, kernel, kernel)
        norm(f"flownet.{name}.1", after)
    wide = ENCODER[5]
    for level in range(4, -1, -1):
        found[f"flownet.predict_flow{level + 1}.weight"] = (2, wide, 3, 3)
        found[f"flownet.upsampled_flow{level + 1}_to_{level}.weight"] = (2, 2, 4, 4)
        found[f"flownet.deconv{level}.0.weight"] = (wide, DECODER[level], 4, 4)
        wide = ENCODER[level] + DECODER[level] + 2
    found["flownet.predict_flow0.weight"] = (2, wide, 3, 3)
    found |= {"mer_3dcnn.conv3d.weight": (4, CHANNELS, 2, 2, 5), "mer_3dcnn.conv3d.bias": (4,)}
    found |= {"mer_3dcnn.fc1.weight": (8, 4), "mer_3dcnn.fc1.bias": (8,)}
    found |= {"mer_3dcnn.fc2.weight": (CLASSES, 8), "mer_3dcnn.fc2.bias": (CLASSES,)}
    found |= {"ldm_predictor.convldm.weight": (4, CHANNELS, 3, 3), "ldm_predictor.convldm.bias": (4,)}
    found |= {"ldm_predictor.fc1.weight": (16, 16), "ldm_predictor.fc1.bias": (16,)}
    return found | {"ldm_predictor.fc2.weight": (136, 16), "ldm_predictor.fc2.bias": (136,)}


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {}
    for name, shape in shapes().items():
        if name.endswith("num_batches_tracked"):
            found[name] = np.array(7, np.int64)
        elif name.endswith("running_var") or (name.endswith("weight") and f"{name[:-6]}running_var" in shapes()):
            found[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            deviation = (2 / max(np.prod(shape[1:]), 1)) ** 0.5 if len(shape) > 1 and "meta" not in name else 0.3
            found[name] = (deviation * rng.normal(size=shape)).astype(np.float32)
    return found


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(config.get_config(WORDS).to_dict())


# -- the network in numpy, from released tensors; maps are [N, C, H, W] --------------------


def conv(x: np.ndarray, kernel: np.ndarray, stride: int = 1, pad: int = 0) -> np.ndarray:
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, kernel)


def upconv(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """ConvTranspose2d, kernel 4, stride 2, padding 1: every pixel adds its kernel to the result."""
    n, _, height, width = x.shape
    y = np.zeros((n, kernel.shape[1], 2 * height + 2, 2 * width + 2))
    for i in range(height):
        for j in range(width):
            y[:, :, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += np.einsum("nc,cohw->nohw", x[:, :, i, j], kernel)
    return y[:, :, 1:-1, 1:-1]


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.1 * x)


class Released:
    """The released network as its specification says it, pair after pair, node after node."""

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self.t = {k: v.astype(np.float64) for k, v in tensors.items()}

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        scale, bias, mean, var = (
            self.t[f"{name}.{k}"][:, None, None] for k in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    def biased(self, x: np.ndarray, name: str, stride: int = 1, pad: int = 0) -> np.ndarray:
        return conv(x, self.t[f"{name}.weight"], stride, pad) + self.t[f"{name}.bias"][:, None, None]

    def stack(self, x: np.ndarray) -> np.ndarray:
        for i, (stride, pad) in enumerate([(2, 0), (2, 0), (2, 1), (1, 0)]):
            x = self.biased(x, f"conv_stack.conv_stack.{i}", stride, pad)
        return x

    def circular(self, x: np.ndarray, name: str, number: int, axis: str) -> np.ndarray:
        kernel = self.t[f"{name}.meta_kernel_{number}_{axis}"].reshape(x.shape[1], -1)
        line = 2 if axis == "H" else 3
        y = sum(kernel[:, r][:, None, None] * np.roll(x, -r, line) for r in range(x.shape[line]))
        return y + self.t[f"{name}.meta_{number}_{axis}_bias"][:, None, None]

    def fcc(self, x: np.ndarray, name: str) -> np.ndarray:
        halves = []
        for number, axes in ((1, "HW"), (2, "WH")):
            part = x[:, (number - 1) * CHANNELS // 2 : number * CHANNELS // 2]
            first, second = (self.t[f"{name}.meta_pe_{i}_{axis}"] for i, axis in enumerate(axes, start=1))
            first, second = (p[:, :, :SIDE] if p.shape[2] > 1 else p[..., :SIDE] for p in (first, second))
            y = self.circular(self.norm(part + first, f"{name}.pre_Norm_{number}"), name, 1, axes[0])
            halves.append(part + self.circular(y + second, name, 2, axes[1]))
        return np.concatenate(halves, axis=1)

    def ccc(self, x: np.ndarray, name: str, k: int = 4) -> np.ndarray:
        out = np.zeros(x.shape).reshape(len(x), CHANNELS, -1)
        w1, w2 = (self.t[f"{name}.conv{i}.weight"][:, 0] for i in (1, 2))
        b1, b2 = (self.t[f"{name}.conv{i}.bias"] for i in (1, 2))
        for n, maps in enumerate(x.reshape(len(x), CHANNELS, -1)):
            unit = maps / np.linalg.norm(maps, axis=0)
            near = np.argsort(-unit.T @ unit, axis=1)[:, :k]  # of each place, itself first
            assert (near[:, 0] == np.arange(SIDE**2)).all()
            for c in range(CHANNELS):
                edges = []
                for j in range(k):
                    difference = maps[c][near[:, j]] - maps[c]
                    edges.append(np.maximum(w1 @ maps[c] + b1 + w2 @ (difference - maps[c]) + b2, 0))
                out[n, c] = np.max(edges, axis=0)
        return out.reshape(x.shape)

    def f5c(self, x: np.ndarray, number: int) -> np.ndarray:
        y = self.fcc(self.stack(x), f"FCC_{number}")
        return y + self.ccc(y, f"CCC_{number}")

    def down(self, x: np.ndarray, name: str, stride: int) -> np.ndarray:
        kernel = self.t[f"flownet.{name}.0.weight"]
        return leaky(self.norm(conv(x, kernel, stride, (kernel.shape[-1] - 1) // 2), f"flownet.{name}.1"))

    def correlation(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        wide = np.pad(b, ((0, 0), (0, 0), (20, 20), (20, 20)))
        shifts = [(y, x) for y in range(-20, 21, 2) for x in range(-20, 21, 2)]
        parts = [(a * wide[:, :, 20 + y : 20 + y + SIDE, 20 + x : 20 + x + SIDE]).mean(axis=1) for y, x in shifts]
        return leaky(np.stack(parts, axis=1))

    def flow(self, a: np.ndarray, b: np.ndarray, trunk: np.ndarray) -> np.ndarray:
        levels = {0: a}
        other = b
        for number in (1, 2, 3):
            levels[number] = self.down(levels[number - 1], f"conv{number}", 2)
            other = self.down(other, f"conv{number}", 2)
        parts = [self.down(levels[3], "conv_redir", 1), self.correlation(levels[3], other), trunk]
        levels[3] = self.down(np.concatenate(parts, axis=1), "conv3_1", 1)
        for number in (4, 5):
            levels[number] = self.down(self.down(levels[number - 1], f"conv{number}", 2), f"conv{number}_1", 1)
        x = levels[5]
        for level in range(4, -1, -1):
            flow = conv(x, self.t[f"flownet.predict_flow{level + 1}.weight"], 1, 1)
            finer = upconv(flow, self.t[f"flownet.upsampled_flow{level + 1}_to_{level}.weight"])
            x = np.concatenate(
                [levels[level], leaky(upconv(x, self.t[f"flownet.deconv{level}.0.weight"])), finer], axis=1
            )
        return conv(x, self.t["flownet.predict_flow0.weight"], 1, 1)

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.t[f"{name}.weight"].T + self.t[f"{name}.bias"]

    def landmarks(self, x: np.ndarray) -> np.ndarray:
        x = np.maximum(self.biased(x, "ldm_predictor.convldm"), 0).reshape(len(x), -1)
        return self.linear(np.maximum(self.linear(x, "ldm_predictor.fc1"), 0), "ldm_predictor.fc2")

    def recognise(self, features: np.ndarray) -> np.ndarray:
        """[N, C, H, W, T] -> [N, classes]."""
        windows = np.lib.stride_tricks.sliding_window_view(features, (2, 2, 5), (2, 3, 4))[:, :, ::2, ::2]
        y = np.einsum("nchwtijs,ocijs->nohwt", windows, self.t["mer_3dcnn.conv3d.weight"])
        y = y + self.t["mer_3dcnn.conv3d.bias"][:, None, None, None]
        n, c, h, w, t = (*y.shape[:2], *(size // 2 for size in y.shape[2:]))
        y = y[:, :, : 2 * h, : 2 * w, : 2 * t].reshape(n, c, h, 2, w, 2, t, 2).max(axis=(3, 5, 7)).reshape(n, -1)
        return self.linear(np.maximum(self.linear(y, "mer_3dcnn.fc1"), 0), "mer_3dcnn.fc2")

    def __call__(self, video: np.ndarray) -> dict[str, np.ndarray]:
        """[N, T, H, W] -> logits [N, C], flow [N, T-1, H, W, 2], landmarks [N, T-1, 68, 2]."""
        features, flows, points = [], [], []
        for k in range(FRAMES - 1):
            a, b = video[:, k, None], video[:, k + 1, None]
            first, second = self.f5c(a, 1), self.f5c(b, 2)
            features += [first, second]
            flows.append(self.flow(a, b, np.concatenate([first, second], axis=1)).transpose(0, 2, 3, 1))
            points.append(self.landmarks(second).reshape(-1, 68, 2))
        logits = self.recognise(np.stack(features, axis=-1))
        return {"logits": logits, "flow": np.stack(flows, axis=1), "landmarks": np.stack(points, axis=1)}


def test_released_weights_give_the_released_numbers(
    tmp_path: Path, tensors: dict[str, np.ndarray], settings: Settings
) -> None:
    """Trunk, correlation volume, decoder, landmark and recognition head at once; odd map sizes inside the decoder."""
    torch_files.save(tmp_path / "x.pth", {f"module.{k}": v for k, v in tensors.items()})
    variables = mol.variables(state_dict(tmp_path / "x.pth"), settings)
    video = np.random.default_rng(1).uniform(size=(2, FRAMES, SIZE, SIZE))
    module = build_network(settings, CLASSES)
    found = jax.jit(lambda v, x: module.apply(v, {"frames": x}, False))(
        variables, jnp.asarray(video, jnp.float32)[..., None]
    )
    for name, expected in Released(tensors)(video).items():
        assert np.abs(expected).max() > 0.05
        np.testing.assert_allclose(found[name], expected, atol=2e-5 * np.abs(expected).max(), err_msg=name)


def test_what_does_not_fit_is_named(tensors: dict[str, np.ndarray], settings: Settings) -> None:
    wrong = {k: v for k, v in tensors.items() if k != "flownet.conv4.0.weight"} | {"extra.weight": np.zeros(2)}
    wrong["CCC_1.conv1.weight"] = np.zeros((9, 1, 9))
    with pytest.raises(UserError) as error:
        mol.variables(wrong, settings)
    text = str(error.value)
    assert "1 unknown: extra.weight" in text
    assert "1 missing: flownet.conv4.0.weight" in text
    assert "CCC_1.conv1.weight (9, 1, 9) instead of (16, 1, 16)" in text
    with pytest.raises(UserError, match=r"no mer_3dcnn\.fc2\.weight"):
        mol.variables({"a": np.zeros(1)}, settings)


def test_a_network_without_a_task_refuses_its_weights(tensors: dict[str, np.ndarray]) -> None:
    settings = Settings(config.get_config(f"{WORDS},model.landmarks=False").to_dict())
    with pytest.raises(UserError, match=r"6 unknown: ldm_predictor\.convldm\.weight"):
        mol.variables(tensors, settings)


def test_the_command_writes_a_run(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Exit code 0 and a finished pre-training; a second time, 2 and one message."""
    torch_files.save(tmp_path / "x.pth", tensors, legacy=True)
    command: list[Any] = [sys.executable, "-m", "mer_jax.convert", "mol", tmp_path / "x.pth", tmp_path / "out"]
    command += [f"--config=configs/mol.py:{WORDS}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    checkpoint = tmp_path / "out" / "checkpoints" / "pretrain" / "0"
    meta, state = read_meta(checkpoint), read_arrays(checkpoint)
    assert meta["finished"]
    assert meta["persons"] is None
    assert meta["imported"] == "mol"
    kernel = state["params"]["flow"]["deconv0"]["kernel"]
    np.testing.assert_array_equal(kernel, tensors["flownet.deconv0.0.weight"].transpose(0, 2, 3, 1))
    assert (tmp_path / "out" / "config.json").is_file()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert again.stderr.startswith("mer_jax: ")
    assert "is not empty" in again.stderr
    assert "Traceback" not in again.stderr


def test_fine_tuning_starts_from_imported_weights(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    """A run with `init_from` and a learning rate of 0 ends with the released weights, but for its own classifier."""
    torch_files.save(tmp_path / "x.pth", tensors)
    words = f"{WORDS},synthetic_tiny,model.sequences=1,model.k=3,data.size={SIZE + 4}"
    convert: list[Any] = [sys.executable, "-m", "mer_jax.convert", "mol", tmp_path / "x.pth", tmp_path / "out"]
    subprocess.run([*convert, f"--config=configs/mol.py:{words}"], capture_output=True, check=True)
    flags = [
        f"--config=configs/mol.py:{words}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.init_from={tmp_path / 'out'}",
    ]
    flags += [f"--compilation_cache={os.environ['MER_JAX_TEST_CACHE']}", "--config.ft.optimizer.learning_rate=0.0"]
    flags += ["--config.data.align=none", "--config.data.protocol=kfold", "--config.data.n_folds=2"]
    flags += ["--config.ft.steps=2", "--config.ft.batch=4", "--config.ft.augment.shift_px=2"]
    environment = {**os.environ, "MER_JAX_DATA": os.environ["MER_JAX_TEST_DATA"]}
    done = subprocess.run(
        [sys.executable, "-m", "mer_jax.main", *flags], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "the persons that they were trained on are unknown" in done.stderr
    imported = read_arrays(tmp_path / "out" / "checkpoints" / "pretrain" / "0")["params"]
    folds = sorted((tmp_path / "run" / "checkpoints" / "finetune" / "folds").iterdir())
    assert len(folds) == 2
    for fold in folds:
        tuned = read_arrays(fold)["params"]
        assert tuned.keys() == imported.keys()
        for name in tuned:
            same = jax.tree.map(np.array_equal, tuned[name], imported[name])
            assert all(jax.tree.leaves(same)) == (name != "classifier"), name
