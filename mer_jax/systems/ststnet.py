"""STSTNet: the reference baseline of micro-expression recognition, a shallow network on flow and strain.

Liong, Gan, See, Khor & Huang, "Shallow Triple Stream Three-dimensional CNN (STSTNet) for Micro-expression Recognition"
(FG 2019, arXiv 1902.03634). One picture a clip: horizontal flow u, vertical flow v and optical strain between onset and
apex, each scaled to 0..255 by its own range, 28x28 pixels. Three parallel streams see all three maps:

  stream with k filters (k = 3, 5, 8):  conv 3x3, padding 2 (30x30) -> ReLU -> BatchNorm -> max-pool 3x3, stride 3,
                                        padding 1 (10x10) -> dropout 0.5
  streams side by side (16 channels) -> average-pool 2x2 (5x5) -> flatten, channel by channel (400) -> linear

Streams that see the same input and do not mix before they are joined are one layer with 16 filters, and are computed
as one (`nn.shallow`). INFERRED, from the released PyTorch version, as the paper is silent: bias in the convolutions,
initialisation U(-1/sqrt(fan in), 1/sqrt(fan in)), BatchNorm with momentum 0.9 and eps 1e-5, whose running variance is
that of a sample (N - 1).

Settings read here:
  data.size            pixels of the frames that the flow is computed on; of the pictures themselves (28) where
                       model.input is `pictures`
  model.input          frames: flow and strain of our own TV-L1 between onset and apex; pictures: a clip's first frame
                       holds u, v and strain already, as the field exchanges them (modality flow_strain)
  model.side           pixels of a picture
  model.border         share of the frame's sides that its flow picture leaves out, see data.motion.flow_image
  model.order          which map is which input channel. The released weights want strain, v, u (their files were read
                       as BGR)
  model.filters        filters of the streams
  model.dropout        rate
  ft.flip_p            probability of a left/right flip, which negates u; 0 in the paper
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.data.motion import MotionSpec
from mer_jax.data.store import ClipStore
from mer_jax.errors import UserError
from mer_jax.nn import shallow
from mer_jax.systems import objectives
from mer_jax.systems.base import Batch, Defaults, Needs, Outputs, Stage
from mer_jax.training.optimizer import OptimizerSettings

MAPS = ("u", "v", "strain")  # of a picture
INPUTS = ("frames", "pictures")
_MOMENTUM = 0.9


def _uniform(fan_in: int) -> nn.initializers.Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), for kernels and biases alike."""

    def draw(key: jax.Array, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        bound = 1 / math.sqrt(fan_in)
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


class Stream(nn.Module):
    """The parameters of one stream: its filters and their BatchNorm.

    Attributes:
      filters: number of filters F.
    """

    filters: int

    def setup(self) -> None:  # noqa: D102
        fan_in = shallow.SIDE**2 * len(MAPS)
        f = (self.filters,)
        self.kernel = self.param("kernel", _uniform(fan_in), (shallow.SIDE, shallow.SIDE, len(MAPS), self.filters))
        self.bias = self.param("bias", _uniform(fan_in), f)
        self.scale = self.param("scale", nn.initializers.ones, f)
        self.shift = self.param("shift", nn.initializers.zeros, f)
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, f)
        self.var = self.variable("batch_stats", "var", jnp.ones, f)

    def parameters(self) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Kernel [3, 3, 3, F], bias, scale and shift [F]."""
        return self.kernel, self.bias, self.scale, self.shift

    def statistics(self) -> tuple[jax.Array, jax.Array]:
        """Running mean and variance [F]."""
        return self.mean.value, self.var.value

    def observe(self, mean: jax.Array, variance: jax.Array) -> None:
        """Moves the running statistics towards those of a batch [F]."""
        self.mean.value = _MOMENTUM * self.mean.value + (1 - _MOMENTUM) * mean
        self.var.value = _MOMENTUM * self.var.value + (1 - _MOMENTUM) * variance


class STSTNet(nn.Module):
    """Pictures of flow and strain -> logits.

    Attributes:
      n_outputs: classes, or action units.
      filters: filters of each stream.
      dropout: rate of the pooled maps.
      side: pixels of a picture, 3n - 2.
    """

    n_outputs: int
    filters: tuple[int, ...] = (3, 5, 8)
    dropout: float = 0.5
    side: int = 28

    def setup(self) -> None:  # noqa: D102
        self.streams = [Stream(f, name=f"stream_{i}") for i, f in enumerate(self.filters, start=1)]
        cells = shallow.pooled_size(self.side) // 2
        fan_in = sum(self.filters) * cells**2
        self.linear = nn.Dense(self.n_outputs, kernel_init=_uniform(fan_in), bias_init=_uniform(fan_in))

    def __call__(self, batch: Batch, train: bool) -> Outputs:
        """Batch with maps [B, S, S, 3] in 0..255 -> logits [B, n_outputs]."""
        maps = self.pool(batch["maps"], train)
        if train and self.dropout:
            maps = shallow.dropout(maps, self.dropout, self.make_rng("dropout"))
        return {"logits": self.classify(maps)}

    def pool(self, maps: jax.Array, train: bool) -> jax.Array:
        """What the streams see of maps [B, S, S, 3]: [B / b, 16, n, n, b], as `nn.shallow.conv_norm_pool` gives it."""
        kernel, bias, scale, shift = (
            jnp.concatenate(p, axis=-1) for p in zip(*(s.parameters() for s in self.streams), strict=True)
        )
        running = tuple(jnp.concatenate(p) for p in zip(*(s.statistics() for s in self.streams), strict=True))
        statistics = None if train else (running[0], running[1])
        pooled, mean, variance = shallow.conv_norm_pool(maps, kernel, bias, scale, shift, statistics)
        if train:
            count = len(maps) * (self.side + 2) ** 2
            ends = np.cumsum(self.filters)[:-1]
            means, variances = jnp.split(mean, ends), jnp.split(variance * (count / (count - 1)), ends)
            for stream, m, v in zip(self.streams, means, variances, strict=True):
                stream.observe(m, v)
        return pooled

    def classify(self, pooled: jax.Array) -> jax.Array:
        """[B / b, F, n, n, b] -> logits [B, n_outputs]: average over 2x2, then linear, channel by channel."""
        blocks, filters, n, _, lanes = pooled.shape
        cells = n // 2
        squares = pooled[:, :, : 2 * cells, : 2 * cells].reshape(blocks, filters, cells, 2, cells, 2, lanes)
        flat = jnp.moveaxis(squares.mean((3, 5)), -1, 1).reshape(blocks * lanes, -1)
        return self.linear(flat).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class System(Defaults):
    """STSTNet; see systems.base for the contract.

    Attributes:
      settings: frozen settings, see the top of this file.
      n_classes: classes, or action units where task is au.
    """

    settings: Any
    n_classes: int
    oracle_inputs = "boundaries+apex"

    @property
    def needs(self) -> Needs:
        """Frames and their flow pictures, or pictures alone."""
        size, model = self.settings.data.size, self.settings.model
        if model.input == "pictures":
            return Needs(size=size, channels=3, modality="flow_strain")
        return Needs(size=size, channels=1, motion=(MotionSpec("flow_image", side=model.side, border=model.border),))

    def view(self, store: ClipStore, index: jax.Array, key: jax.Array, train: bool) -> Batch:
        """The picture of a clip: maps [side, side, 3] in 0..255 in the order of `model.order`, and label."""
        model, ft = self.settings.model, self.settings.ft
        picture = store.frames[store.start[index]] if model.input == "pictures" else store.motion["flow_image"][index]
        if train and ft.flip_p:
            picture = jnp.where(jax.random.uniform(key) < ft.flip_p, mirror(picture), picture)
        maps = picture[..., np.array([MAPS.index(name) for name in model.order])].astype(jnp.float32)
        if self.settings.task == "au":
            units = np.array(self.settings.data.action_units, np.int32)
            return {"maps": maps, "action_units": store.action_units[index][units]}
        return {"maps": maps, "label": store.label[index]}

    @property
    def finetune(self) -> Stage:
        """The whole network, from scratch or from released weights."""
        au = self.settings.task == "au"
        return Stage(
            module=build_network(self.settings, self.n_classes),
            objective=objectives.action_unit_cross_entropy if au else objectives.cross_entropy,
            optimizer=OptimizerSettings(**self.settings.ft.optimizer),
            carry=(*(f"stream_{i + 1}" for i in range(len(self.settings.model.filters))), "linear"),
            loops=True,
        )


def mirror(picture: jax.Array) -> jax.Array:
    """The picture (uint8 [H, W, 3]: u, v, strain) of the mirrored clip: u has the other sign, by its own range."""
    return picture[:, ::-1].at[..., 0].set(255 - picture[:, ::-1, 0])


def build_network(settings: Any, n_outputs: int) -> STSTNet:
    """The network of `settings.model`.

    Raises:
      UserError: an unknown option, or sizes that do not fit.
    """
    model = settings.model
    if model.input not in INPUTS:
        raise UserError(f"model.input: found {model.input!r}; expected one of {', '.join(INPUTS)}")
    if sorted(model.order) != sorted(MAPS):
        raise UserError(f"model.order: found {tuple(model.order)}; expected {', '.join(MAPS)} in some order")
    if model.side < 4 or model.side % shallow.SIDE != 1:
        raise UserError(f"model.side: found {model.side}; expected 1 more than a multiple of 3, such as 28")
    if not 0 <= model.border < 0.5:
        raise UserError(f"model.border: found {model.border}; expected a share of 0 or more below one half")
    if model.input == "pictures" and settings.data.size != model.side:
        raise UserError(f"data.size: found {settings.data.size}; expected model.side = {model.side} for pictures")
    return STSTNet(n_outputs, tuple(model.filters), model.dropout, model.side)


def build(settings: Any, n_classes: int, n_macro_classes: int = 0) -> System:
    """The system of `settings`; raises UserError as `build_network`."""
    system = System(settings, n_classes)
    _ = system.finetune  # raises now what would be raised later
    return system
