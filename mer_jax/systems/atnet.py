"""ATNet: the apex frame beside the flow around it.

Peng, Wang, Bi, Shi, Zhou & Chen, "A Novel Apex-Time Network for Cross-Dataset Micro-Expression Recognition" (ACII
2019), and its released Caffe networks. Two streams, trained together from one loss:

  s = GAP(ResNet-10(apex frame))                  spatial, 512 numbers; pre-trained on macro-expressions
  t = mean over steps of LSTM(LSTM(flow rows))    temporal, 512 numbers; rows of data.flow_grid around the apex
  y = W dropout([s / |s|; t / |t|]) + b           eq. 7; softmax cross-entropy on y alone

Where a window reaches beyond onset .. offset its rows are missing. `centred` (the paper's window) leaves zeros there;
`right_aligned` (the released loader) moves the flows to the end, zeros first; `masked` steps over them, so that a clip
gives what the sequence of its flows alone gives. The single-stream networks of the paper's tables were not published;
INFERRED: the same head on one normalised feature, trained by itself.

Settings read (in brackets a value of the full-size network; configs/atnet.py says what a run uses):
  system ["atnet"]; task ["emotion"] emotion | au; engine.dtype ["float32"] float32 | bfloat16
  data.size [224] pixels, a multiple of model.cells; data.normalise ["unit"] see data.augment. The released network
    reads 0..255: its input BatchNorm takes the scale out, up to its epsilon
  data.action_units [()] the FACS numbers that are recognised where task is au
  model.streams ["fusion"] spatial | temporal | fusion
  model.width [1.0] factor on the 64 channels of the first stage and on the 512 units of the LSTM
  model.fraction [0.999] of BatchNorm's stored statistics (Caffe's default); shorter trainings want less
  model.window ["frames"] frames | seconds; model.side [32]; model.step_ms [5.0]; model.cells [8];
    model.angle ["plain"] plain | circular: see data.flow_grid
  model.padding ["centred"] centred | right_aligned | masked; model.pooling ["all"] all | valid: steps that are averaged
  model.unit_length [True] whether features are divided by their lengths; model.epsilon [1e-10] added to the squared
    length (INFERRED: the layer's epsilon is not known)
  model.dropout [0.5] before the classifier
  pre.objective ["macro_cls"] macro_cls: the spatial stream learns the emotions of macro-expressions from the second
    frames of the stream's pairs | none
  pre.augment, pre.augment_p, pre.bias_rate, pre.optimizer: as below
  ft.augment {flip_p, rotate_deg [5.0], shift_px, brightness [10 / 255], contrast}: of the apex frame (the flow is left
    as it is). "Pixel shift" of the paper is one of intensity in the released code
  ft.augment_p [0.5] probability of each of its parts; the released code never augments (0): a key's name is misspelt
  ft.bias_rate [2.0] factor on the learning rate of biases and shifts outside the LSTM
  ft.optimizer: fields of training.optimizer.OptimizerSettings
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.data import augment, sampling
from mer_jax.data.flow_grid import FlowGrid
from mer_jax.data.motion import MotionSpec
from mer_jax.data.store import ClipStore
from mer_jax.errors import UserError
from mer_jax.nn.preact_resnet import STAGES, XAVIER, PreActivationResNet10
from mer_jax.nn.recurrent import Recurrent
from mer_jax.systems import objectives
from mer_jax.systems.base import Batch, Defaults, Needs, Outputs, Stage
from mer_jax.systems.miacnet import one_of, scaled
from mer_jax.training.optimizer import OptimizerSettings

STREAMS = ("spatial", "temporal", "fusion")
PADDINGS = ("centred", "right_aligned", "masked")
POOLINGS = ("all", "valid")
OBJECTIVES = ("macro_cls", "none")
HIDDEN = 512
LUMA = (0.299, 0.587, 0.114)  # BT.601, as the store turns colour to grey


def right_align(rows: jax.Array, valid: jax.Array) -> jax.Array:
    """Moves the valid rows of each clip to the end, in their order, and leaves zeros before them.

    Args:
      rows: [B, T, F].
      valid: bool [B, T].
    """
    order = jnp.argsort(valid, axis=1, stable=True)
    return jnp.take_along_axis(jnp.where(valid[..., None], rows, 0.0), order[..., None], axis=1)


def unit_length(x: jax.Array, epsilon: float) -> jax.Array:
    """x / sqrt(|x|^2 + epsilon) along the last axis (eq. 7)."""
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + epsilon)


class TemporalStream(nn.Module):
    """Two LSTM layers over the rows of a flow grid, averaged over time.

    Caffe's LSTM: one bias a gate; weights normal with deviation 0.1, biases 0.

    Attributes:
      hidden: units of each layer.
      padding: one of PADDINGS.
      pooling: one of POOLINGS: the mean over all steps (the released network) or over those of the clip's flows.
      dtype: compute type.
    """

    hidden: int = HIDDEN
    padding: str = "centred"
    pooling: str = "all"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, rows: jax.Array, valid: jax.Array) -> jax.Array:
        """Rows [B, T, F], valid bool [B, T] -> [B, hidden], float32."""
        rows = jnp.where(valid[..., None], rows, 0.0)
        if self.padding == "right_aligned":
            rows, valid = right_align(rows, valid), jnp.sort(valid, axis=1)
        lstm = Recurrent(
            self.hidden, "lstm", layers=2, hidden_bias=False, kernel_init=nn.initializers.normal(0.1),
            bias_init=nn.initializers.zeros, dtype=self.dtype, name="lstm",
        )  # fmt: skip
        steps, _ = lstm(rows, valid if self.padding == "masked" else jnp.ones_like(valid))
        if self.pooling == "all":
            return steps.mean(axis=1)
        count = jnp.maximum(valid.sum(axis=1, keepdims=True), 1)
        return jnp.where(valid[..., None], steps, 0.0).sum(axis=1) / count


class ATNet(nn.Module):
    """Streams, normalisation, concatenation, dropout, linear classifier.

    Attributes:
      n_outputs: classes, or action units.
      streams: one of STREAMS.
      width: factor on channels and units.
      fraction: see nn.preact_resnet.BatchNormScale.
      padding: see TemporalStream, as is the next.
      pooling: steps that are averaged.
      unit: whether features are divided by their lengths.
      epsilon: see unit_length.
      dropout: rate.
      normalisation: see augment.normalise.
      dtype: compute type; features and logits are float32.
    """

    n_outputs: int
    streams: str = "fusion"
    width: float = 1.0
    fraction: float = 0.999
    padding: str = "centred"
    pooling: str = "all"
    unit: bool = True
    epsilon: float = 1e-10
    dropout: float = 0.5
    normalisation: str = "unit"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, batch: Batch, train: bool) -> Outputs:
        """Batch with apex [B, H, W, 1] in 0..1, flow [B, T, F] and valid [B, T] -> logits [B, n] and the features."""
        features: dict[str, jax.Array] = {}
        if self.streams != "temporal":
            apex = augment.normalise(batch["apex"], self.normalisation)
            network = PreActivationResNet10(
                scaled(STAGES[0], self.width), self.fraction, dtype=self.dtype, name="spatial"
            )
            features["spatial"] = network(apex, train)
        if self.streams != "spatial":
            hidden = scaled(HIDDEN, self.width)
            stream = TemporalStream(hidden, self.padding, self.pooling, dtype=self.dtype, name="temporal")
            features["temporal"] = stream(batch["flow"], batch["valid"])
        if self.unit:
            features = {name: unit_length(x, self.epsilon) for name, x in features.items()}
        together = jnp.concatenate(list(features.values()), axis=-1)
        together = nn.Dropout(self.dropout, deterministic=not train)(together)
        classifier = nn.Dense(
            self.n_outputs, kernel_init=XAVIER, bias_init=nn.initializers.constant(0.2), name="classifier"
        )
        return {"logits": classifier(together), **features}


def bias_paths(streams: str) -> tuple[str, ...]:
    """Parameters that learn at `bias_rate`: biases and BatchNorm shifts, without those of the LSTM.

    They are the bias-type parameters whose rate the released network files double. Decay of these parameters is not
    switched off here (5e-6 is beyond notice).
    """
    if streams == "temporal":
        return ("classifier/bias",)
    norms = ["input_norm", "norm_1", "norm_2", "block_1/norm_2"]
    norms += [f"block_{k}/norm_{i}" for k in range(2, len(STAGES) + 1) for i in (1, 2)]
    return ("classifier/bias", "spatial/conv_1/bias", *(f"spatial/{name}/bias" for name in norms))


@dataclasses.dataclass(frozen=True)
class ATNetSystem(Defaults):
    """The system. See systems.base.System.

    Attributes:
      settings: see the head of this file.
      n_classes: classes, or action units where task is au.
      n_macro_classes: classes of the macro-expressions.
    """

    settings: Any
    n_classes: int
    n_macro_classes: int = 0

    oracle_inputs = "boundaries+apex"

    @property
    def grid(self) -> FlowGrid:
        """Window and grid of the flow rows."""
        model = self.settings.model
        return FlowGrid(model.window, model.side, model.step_ms, model.cells, model.angle)

    @property
    def needs(self) -> Needs:
        """Grey frames, and flow around the apex where a temporal stream reads it."""
        motion = () if self.settings.model.streams == "spatial" else (MotionSpec("flow_grid", grid=self.grid),)
        return Needs(size=self.settings.data.size, channels=1, motion=motion)

    def view(self, store: ClipStore, index: jax.Array, key: jax.Array, train: bool) -> Batch:
        """What the streams read: {"apex": float32 [S, S, 1], "flow": float32 [T, F], "valid": bool [T], label}."""
        example: dict[str, jax.Array] = {}
        streams, settings = self.settings.model.streams, self.settings
        if streams != "temporal":
            positions = (store.onset[index], store.apex[index], store.offset[index])
            frame = store.frames[store.start[index] + sampling.known_apex(*positions)].astype(jnp.float32) / 255
            modality = store.modality[index]
            example["apex"] = self._apex(frame, key if train else None, settings.ft, modality)
        if streams != "spatial":
            rows = store.motion["flow_grid"][index]
            example |= {"flow": rows[:, :-1], "valid": rows[:, -1] > 0}
        if settings.task == "au":
            units = np.array(settings.data.action_units, np.int32)
            return example | {"action_units": store.action_units[index][units]}
        return example | {"label": store.label[index]}

    def pretrain_view(self, example: Batch, key: jax.Array, train: bool) -> Batch:
        """The second frame of a pair as the apex frame of a macro-expression; other fields pass through.

        Args:
          example: first, second float32 [H, W, C] in 0..1, and any other fields; colour is turned to grey.
          key: random key of the example.
          train: whether to augment.
        """
        frame = example["second"]
        if frame.shape[-1] == 3:
            frame = (frame @ jnp.array(LUMA))[..., None]
        modality = example.get("modality", augment.RGB)
        rest = {name: x for name, x in example.items() if name not in ("before", "first", "second")}
        return {**rest, "apex": self._apex(frame, key if train else None, self.settings.pre, modality)}

    def _apex(self, frame: jax.Array, key: jax.Array | None, stage: Any, modality: Any) -> jax.Array:
        """Centre crop of a frame [H, W, 1], with a key augmented, each part with probability `augment_p`."""
        size = self.settings.data.size
        if key is None:
            return augment.center(frame, size)
        drawn, neutral = augment.draw(jax.random.fold_in(key, 0), stage.augment), augment.identity()
        keep = jax.random.uniform(jax.random.fold_in(key, 1), (3,)) < stage.augment_p
        transform = augment.Augmentation(
            flip=drawn.flip,
            angle=jnp.where(keep[0], drawn.angle, neutral.angle),
            shift=jnp.where(keep[1], drawn.shift, neutral.shift),
            brightness=jnp.where(keep[2], drawn.brightness, neutral.brightness),
            contrast=jnp.where(keep[2], drawn.contrast, neutral.contrast),
        )
        return augment.apply(frame[None], transform, size, modality)[0]

    def measures(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """flow_steps: how many steps of the window the clip has."""
        return {"flow_steps": batch["valid"].sum(-1).astype(jnp.float32)} if "valid" in batch else {}

    @property
    def finetune(self) -> Stage:
        """Recognition of micro-expressions; the spatial stream comes from pre-training, the rest is fresh."""
        au = self.settings.task == "au"
        streams = self.settings.model.streams
        return Stage(
            module=build_network(self.settings, self.n_classes, streams),
            objective=objectives.action_unit_cross_entropy if au else objectives.cross_entropy,
            optimizer=_optimizer(self.settings.ft, streams),
            carry=("spatial",) if self.pretrain else (),
        )

    @property
    def pretrain(self) -> Stage | None:
        """Recognition of macro-expressions by the spatial stream alone, or None."""
        if self.settings.pre.objective == "none":
            return None
        module = build_network(self.settings, self.n_macro_classes, "spatial")
        return Stage(module, objectives.cross_entropy, _optimizer(self.settings.pre, "spatial"))


def _optimizer(stage: Any, streams: str) -> OptimizerSettings:
    settings = OptimizerSettings(**stage.optimizer)
    if stage.bias_rate == 1:
        return settings
    biases = tuple((path, float(stage.bias_rate)) for path in bias_paths(streams))
    return dataclasses.replace(settings, groups=settings.groups + biases)


def build_network(settings: Any, n_outputs: int, streams: str) -> ATNet:
    """The network of `settings` with the given streams."""
    model = settings.model
    return ATNet(
        n_outputs, streams, model.width, model.fraction, model.padding, model.pooling, model.unit_length, model.epsilon,
        model.dropout, settings.data.normalise, jnp.dtype(settings.engine.dtype),
    )  # fmt: skip


def build(settings: Any, n_classes: int, n_macro_classes: int = 0) -> ATNetSystem:
    """The system of `settings`.

    Raises:
      UserError: an unknown option, or options that do not fit each other.
    """
    model, data = settings.model, settings.data
    one_of("task", settings.task, ("emotion", "au"))
    for field, known in (("streams", STREAMS), ("padding", PADDINGS), ("pooling", POOLINGS)):
        one_of(f"model.{field}", getattr(model, field), known)
    one_of("pre.objective", settings.pre.objective, OBJECTIVES)
    system = ATNetSystem(settings, n_classes, n_macro_classes)
    try:
        _ = system.grid
    except ValueError as error:
        raise UserError(f"model: {error}") from None
    if model.streams != "spatial" and data.size % model.cells:
        raise UserError(f"data.size: found {data.size}; expected a multiple of model.cells = {model.cells}")
    if settings.task == "au" and len(data.action_units) != n_classes:
        raise UserError(f"data.action_units: found {len(data.action_units)} action units; expected {n_classes}")
    if model.streams != "spatial" and settings.ft.augment.flip_p:
        raise UserError(
            f"ft.augment.flip_p: found {settings.ft.augment.flip_p}; expected 0: the flow would not be flipped with "
            "the apex frame. Set it to 0, or model.streams=spatial"
        )
    if settings.pre.objective != "none" and model.streams == "temporal":
        raise UserError("pre.objective=macro_cls trains the spatial stream, which model.streams=temporal does not have;"
                        " set pre.objective=none")  # fmt: skip
    pretrained_here = not getattr(settings, "init_from", "")  # else the macro classes do not matter
    if pretrained_here and settings.pre.objective == "macro_cls" and n_macro_classes < 2:
        raise UserError(f"pre.objective=macro_cls: found {n_macro_classes} macro classes; expected at least 2")
    return system
