"""AKMNet: micro-expression recognition in video clips with adaptive key-frame mining.

Peng, Wang, Gao, Bi, Chen, Shi & Zhou, "Recognizing Micro-Expression in Video Clip with Adaptive Key-Frame Mining"
(arXiv 2009.09179). Of a clip of T grey frames, T different from clip to clip:

  P_t = ResNet18(I_t), p_t = mean over places of P_t             one network for all frames
  a_t = sigmoid(w . p_t + b), g = sum_t a_t p_t                  step 1, local attention (eq. 5, 6)
  beta_t = cosine(p_t, g)                                        step 2, global cosine (eq. 7)
  B_t = 1 if beta_t > mean of beta over the clip, else 0         step 3, sparse selection (eq. 8)
  y = mean over kept t of biGRU(B_t P_t), at each place alone    kept frames only, in time order (eq. 9)
  logits = Linear(dropout(y of all places))
  L = L_c + lambda1 L_GS + lambda2 L_MMM                         (eq. 4, 10 to 13)

Paper and released code differ; the paper's form is the default and `released` the code's, field by field.

Settings read (in brackets the paper's value; configs/akmnet.py says what a run uses):
  task emotion | au; engine.dtype; data.size [128] pixels, a multiple of model.stride; data.normalise [unit, the code's]
  model.width [1.0], model.blocks [(2, 2, 2, 2)], model.hidden [32], model.dropout [0.5]
  model.stride [32] 32 | 16: the last stage of the backbone keeps the grid, for frames smaller than the paper's
  model.statistics [clip] clip | batch | frozen: BatchNorm, see nn.clip_norm. The code forwards one clip at a time, and
    gradients of 8 are added up, which `clip` repeats exactly; "mini-batch 8" of the paper may mean `batch`
  model.convolution [direct] direct | auto | ...: form of 3x3 convolutions, see nn.convolution; only rounding differs
  pre.objective [macro_cls] macro_cls: stills of macro-expressions and their emotions, as the paper's AffectNet stage;
    none. INFERRED, since nothing else is said of that stage: a still is a clip of one frame, which needs no mining;
    backbone and GRU are carried over; BatchNorm sees the batch. Its frames are the second ones of the stream's pairs
  pre.augment: see data.augment; pre.optimizer: fields of OptimizerSettings
  ft.extent [onset_offset] onset_offset | whole: the part of a clip that is looked at
  ft.fps [0] > 0 takes the frames nearest to a slower rate; never more than were recorded
  ft.frames [0] L > 0: temporal interpolation (TIM) of every clip to L frames
  ft.random_share [0] r > 0: a random r T of the T frames, in order
  ft.mining [1+2+3] 1+2+3 | 1+2 | 1+3 | 2+3 | none, which takes all frames. INFERRED, since the paper does not say how
    its ablations are wired: 1+2 weighs all frames by beta and has L_c alone; 1+3 selects by a_t; 2+3 sums p_t plainly
  ft.threshold [above] above | at_least (released): B_t = 1 at the very mean
  ft.gradient [kept] kept | all (released): frames that the gradient of B reaches, see nn.key_frames.binarise
  ft.lambda_sparsity [0.1], ft.lambda_margin [1.0]; ft.margin_sets [kept] kept | strict (released)
  ft.zoom [1.125], ft.crop_p [1.0] | 0.5 (released): enlarged to 144/128 of its size, then one crop for all frames
  ft.buckets [6] lengths that clips are padded to at most; ft.batch [8] clips make a bucket at least
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
from mer_jax.data.buckets import fitting_lengths
from mer_jax.data.store import ClipStore
from mer_jax.errors import UserError
from mer_jax.nn import key_frames
from mer_jax.nn.clip_norm import STATISTICS
from mer_jax.nn.convolution import FORMS
from mer_jax.nn.latent import luma
from mer_jax.nn.recurrent import Recurrent, uniform
from mer_jax.nn.resnet import ResNet
from mer_jax.systems import akmnet_measures, objectives
from mer_jax.systems.base import Batch, Buckets, Defaults, Needs, Outputs, Stage
from mer_jax.systems.miacnet import one_of, scaled
from mer_jax.training.optimizer import OptimizerSettings

MINING = ("1+2+3", "1+2", "1+3", "2+3", "none")
OBJECTIVES = ("macro_cls", "none")
STRIDES = {32: (1, 2, 2, 2), 16: (1, 2, 2, 1)}  # pixels of a frame to one place of the maps -> strides of the stages
_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_XAVIER = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")


class AKMNet(nn.Module):
    """The network.

    Initial weights are the released code's: Kaiming (fan-out) convolutions, Xavier linear layers, and in the forward
    direction of the GRU orthogonal kernels and biases in 0..1.

    Attributes:
      n_outputs: classes, or action units.
      mining: steps of the mining, one of MINING.
      width: factor on the channels 64, 128, 256, 512.
      blocks: residual blocks of each stage.
      stride: pixels to one place of the maps, see STRIDES.
      hidden: of each direction of the GRU.
      dropout: rate before the classifier.
      threshold: see nn.key_frames.binarise, as is the next.
      gradient: see there.
      statistics: see nn.clip_norm.
      normalisation: see augment.normalise.
      form: see nn.convolution.FORMS.
      dtype: compute type of convolutions and GRU; scores, states and logits are float32.
    """

    n_outputs: int
    mining: str = "1+2+3"
    width: float = 1.0
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    stride: int = 32
    hidden: int = 32
    dropout: float = 0.5
    threshold: str = "above"
    gradient: str = "kept"
    statistics: str = "clip"
    normalisation: str = "unit"
    form: str = "direct"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Names the four parts; they are those of the parameters."""
        self.backbone = ResNet(
            self.blocks,
            scaled(64, self.width),
            self.dtype,
            5,
            STRIDES[self.stride],
            self.statistics,
            _FAN_OUT,
            self.form,
        )
        if "1" in self.mining:
            self.attention = key_frames.LocalAttention()
        self.gru = Recurrent(
            self.hidden, "gru", 2, True, True, nn.initializers.orthogonal(), uniform(1.0, 0.0), self.dtype
        )
        self.drop = nn.Dropout(self.dropout)
        self.classifier = nn.Dense(self.n_outputs, kernel_init=_XAVIER)

    def __call__(self, batch: Batch, train: bool) -> Outputs:
        """Scores clips.

        Args:
          batch: frames [B, T, H, W, 1] in 0..1, and mask bool [B, T]: the frames that a clip has, the others are
            padding and may lie anywhere.
          train: whether BatchNorm uses the clips, and dropout drops.

        Returns:
          logits [B, n]; kept bool [B, T], the frames that the GRU reads; where frames are mined scores [B, T], beta
          (step 1 + 3: a), and gate [B, T], what maps are multiplied by.
        """
        frames, mask = batch["frames"], batch["mask"]
        maps = self.maps(frames, mask, train)
        mined = self.mine(maps.mean(axis=(2, 3)), mask)
        gate = mined.get("gate", mask.astype(jnp.float32))
        kept = gate > 0.5 if "3" in self.mining else mask
        return {"logits": self.classify(maps * gate[..., None, None, None], kept, train), "kept": kept, **mined}

    def maps(self, frames: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        """frames [B, T, H, W, 1] -> P [B, T, h, w, C], float32."""
        flat = augment.normalise(frames, self.normalisation).reshape(-1, *frames.shape[2:])
        flat = self.backbone(flat.astype(self.dtype), train, mask)
        return flat.reshape(*frames.shape[:2], *flat.shape[1:]).astype(jnp.float32)

    def mine(self, pooled: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
        """p [B, T, C] -> scores and gate [B, T]; {} without mining."""
        if self.mining == "none":
            return {}
        weights = self.attention(pooled) if "1" in self.mining else jnp.ones(mask.shape)
        scores = key_frames.cosine_to_sum(pooled, weights, mask) if "2" in self.mining else weights
        if "3" not in self.mining:
            return {"scores": scores, "gate": scores}
        return {"scores": scores, "gate": key_frames.binarise(scores, mask, self.threshold, self.gradient)}

    def classify(self, maps: jax.Array, kept: jax.Array, train: bool) -> jax.Array:
        """Maps [B, T, h, w, C], kept bool [B, T] -> logits [B, n]."""
        batch, steps, height, width, channels = maps.shape
        places = maps.reshape(batch, steps, height * width, channels).swapaxes(1, 2)  # [B, h w, T, C]
        states, _ = self.gru(places, kept[:, None])
        mean = states.sum(axis=2) / jnp.maximum(kept.sum(axis=1), 1)[:, None, None]  # states are 0 where not kept
        return self.classifier(self.drop(mean.reshape(batch, -1), deterministic=not train))


@dataclasses.dataclass(frozen=True)
class System(Defaults):
    """The system. See systems.base.System.

    Attributes:
      settings: see the head of this file.
      n_classes: classes, or action units where task is au.
      n_macro_classes: classes of the macro-expressions.
    """

    settings: Any
    n_classes: int
    n_macro_classes: int = 0

    @property
    def needs(self) -> Needs:
        """Grey frames at the network's size."""
        return Needs(size=self.settings.data.size, channels=1)

    @property
    def oracle_inputs(self) -> str:
        """The apex is never read; onset and offset are, unless whole clips are looked at."""
        return "none" if self.settings.ft.extent == self.settings.data.extent == "whole" else "boundaries"

    def buckets(self, store: ClipStore) -> Buckets:
        """Clips by the number of frames that are looked at."""
        ft = self.settings.ft
        host: Any = {n: np.asarray(getattr(store, n)) for n in ("onset", "apex", "offset", "length", "fps")}
        first, last = sampling.extent(ft.extent, host["onset"], host["apex"], host["offset"], host["length"])
        if ft.fps and not ft.frames:
            sampling.require_fps("ft.fps", np.array([f"number {i}" for i in range(len(first))]), host["fps"])
        _, _, lengths = self._rhythm(first, last, host["fps"])
        return Buckets(*fitting_lengths(np.asarray(lengths), ft.buckets, ft.batch))

    def _rhythm(self, first: Any, last: Any, fps: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(frames from one that may be taken to the next, number of those, number taken) between two positions."""
        ft = self.settings.ft
        if ft.frames:
            return jnp.zeros(jnp.shape(first)), last - first + 1, jnp.full(jnp.shape(first), ft.frames)
        step = jnp.maximum(jnp.asarray(fps, jnp.float32) / ft.fps, 1.0) if ft.fps else jnp.ones(jnp.shape(first))
        # a whole number of steps that rounding left just short of it counts
        available = jnp.floor((last - first) / step + 1e-3).astype(jnp.int32) + 1
        if not ft.random_share:
            return step, available, available
        return step, available, jnp.clip(jnp.round(ft.random_share * available).astype(jnp.int32), 1, available)

    def view(self, store: ClipStore, index: jax.Array, key: jax.Array, train: bool, length: int) -> Batch:
        """The frames of a clip, padded: frames [length, size, size, 1] in 0..1, mask bool [length], label or units.

        Evaluation adds what `measures` reads: position float32 [length] of each frame in the clip, fps, and the true
        onset, apex and offset.
        """
        ft, size = self.settings.ft, self.settings.data.size
        apex = store.apex[index]
        first, last = sampling.extent(ft.extent, store.onset[index], apex, store.offset[index], store.length[index])
        step, available, count = self._rhythm(first, last, store.fps[index])
        number = jnp.arange(length)
        mask = number < count
        begin = store.start[index]
        if ft.frames:
            position = sampling.positions_even(first, last, ft.frames)
            frames = sampling.tim(store.frames, last - first + 1, ft.frames, begin + first)
        else:
            if ft.random_share:
                drawn = jax.random.fold_in(key, 1) if train else jax.random.fold_in(jax.random.key(0), index)
                number = _random_in_order(drawn, available, count, length, ft.random_share)
            number = jnp.minimum(number, available - 1)  # the last frame again where there is padding
            position = first + jnp.round(number * step)
            frames = store.frames[begin + position.astype(jnp.int32)].astype(jnp.float32)
        frames = augment.center(frames / 255, size)
        if train:
            frames = _crop(frames, key, ft.zoom, ft.crop_p)
        example = {"frames": frames, "mask": mask}
        if self.settings.task == "au":
            units = np.array(self.settings.data.action_units, np.int32)
            example["action_units"] = store.action_units[index][units]
        else:
            example["label"] = store.label[index]
        if train:
            return example
        facts = {name: getattr(store, name)[index] for name in akmnet_measures.FACTS}
        return example | facts | {"position": position.astype(jnp.float32)}

    def measures(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]:
        """How the key frames compare with the true event, see akmnet_measures; nothing where none are mined."""
        if self.settings.ft.mining == "none":
            return {}
        selected = "3" in self.settings.ft.mining
        return akmnet_measures.measures(outputs["scores"], outputs["kept"] if selected else None, batch)

    def objective(self, outputs: Outputs, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """L_c + lambda1 L_GS + lambda2 L_MMM [B] where frames are selected, else L_c alone."""
        ft = self.settings.ft
        base = objectives.action_unit_cross_entropy if self.settings.task == "au" else objectives.cross_entropy
        loss, terms = base(outputs, batch)
        if "3" not in self.settings.ft.mining:
            return loss, terms
        sparsity = key_frames.global_sparsity(outputs["gate"])
        margin = key_frames.mean_margin(outputs["scores"], outputs["gate"], batch["mask"], ft.margin_sets)
        share = outputs["kept"].sum(axis=-1) / batch["mask"].sum(axis=-1)
        terms = {**terms, "L_GS": sparsity, "L_MMM": margin, "kept_share": share}
        return loss + ft.lambda_sparsity * sparsity + ft.lambda_margin * margin, terms

    def pretrain_view(self, example: Batch, key: jax.Array, train: bool) -> Batch:
        """The second frame of a pair as a clip of one grey frame; other fields pass through.

        Args:
          example: first, second float32 [H, W, C] in 0..1, and any other fields.
          key: random key of the example.
          train: whether to augment.
        """
        frames, size = luma(example["second"])[None, ..., None], self.settings.data.size
        if train:
            transform = augment.draw(key, self.settings.pre.augment)
            frames = augment.apply(frames, transform, size, example.get("modality", augment.RGB))
        else:
            frames = augment.center(frames, size)
        rest = {name: x for name, x in example.items() if name not in ("before", "first", "second")}
        return {**rest, "frames": frames, "mask": jnp.ones(1, bool)}

    @property
    def finetune(self) -> Stage:
        """Recognition of micro-expressions: backbone and GRU from pre-training, or all but the classifier imported."""
        carry: tuple[str, ...] = ()
        if self.pretrain is not None:
            carry = ("backbone", "gru")
        elif getattr(self.settings, "init_from", ""):
            carry = ("backbone", *(("attention",) if "1" in self.settings.ft.mining else ()), "gru")
        return Stage(
            module=build_network(self.settings, self.n_classes),
            objective=self.objective,
            optimizer=OptimizerSettings(**self.settings.ft.optimizer),
            carry=carry,
        )

    @property
    def pretrain(self) -> Stage | None:
        """Recognition of stills of macro-expressions, or None."""
        if self.settings.pre.objective == "none":
            return None
        module = build_network(self.settings, self.n_macro_classes).clone(mining="none", statistics="batch")
        return Stage(module, objectives.cross_entropy, OptimizerSettings(**self.settings.pre.optimizer))


def _random_in_order(key: jax.Array, available: jax.Array, count: jax.Array, length: int, share: float) -> jax.Array:
    """`count` of `available` numbers drawn without replacement, ascending, [length]; what follows them is padding."""
    longest = int(np.ceil((length + 1) / share))  # no clip of this bucket has more frames
    draw = jnp.where(jnp.arange(longest) < available, jax.random.uniform(key, (longest,)), 2.0)
    chosen = jnp.argsort(draw)[:length]
    return jnp.sort(jnp.where(jnp.arange(length) < count, chosen, longest))


def _crop(frames: jax.Array, key: jax.Array, zoom: float, probability: float) -> jax.Array:
    """Frames [T, S, S, C] enlarged `zoom` times (bilinear), then one random S x S crop for all of them.

    As products with two matrices of bilinear weights: the resampling is the same for all frames and separable.
    """
    size = frames.shape[1]
    spare = round(size * zoom) - size
    if not spare:
        return frames
    ratio = size / (size + spare)
    offset_key, whether = jax.random.split(key)
    offset = jax.random.randint(offset_key, (2, 1), 0, spare + 1)
    at = (jnp.arange(size) + offset + 0.5) * ratio - 0.5  # [2, S] rows and columns that the crop looks at
    use = jax.random.uniform(whether) < probability
    at = jnp.clip(jnp.where(use, at, jnp.arange(size)), 0, size - 1)
    rows, columns = jnp.maximum(1 - jnp.abs(at[..., None] - jnp.arange(size)), 0)  # [S, S] each
    return jnp.einsum("yi,tijc,xj->tyxc", rows, frames, columns)


def build_network(settings: Any, n_outputs: int) -> AKMNet:
    """The network of `settings`.

    Raises:
      UserError: an unknown word, or sizes that do not fit.
    """
    model, ft, size = settings.model, settings.ft, settings.data.size
    one_of("ft.mining", ft.mining, MINING)
    one_of("ft.extent", ft.extent, ("onset_offset", "whole"))
    one_of("ft.threshold", ft.threshold, key_frames.THRESHOLDS)
    one_of("ft.gradient", ft.gradient, key_frames.GRADIENTS)
    one_of("model.statistics", model.statistics, STATISTICS)
    one_of("model.convolution", model.convolution, FORMS)
    one_of("ft.margin_sets", ft.margin_sets, key_frames.SETS)
    if model.stride not in STRIDES:
        raise UserError(f"model.stride: found {model.stride}; expected one of {', '.join(map(str, STRIDES))}")
    if size % model.stride or size <= 0:
        raise UserError(f"data.size: found {size}; expected a multiple of model.stride = {model.stride} pixels")
    if len(model.blocks) != 4:
        raise UserError(f"model.blocks: found {model.blocks}; expected the blocks of 4 stages")
    if not 0 <= ft.random_share < 1:
        raise UserError(f"ft.random_share: found {ft.random_share}; expected a share in 0 <= share < 1")
    if ft.frames and (ft.random_share or ft.fps):
        raise UserError("ft.frames interpolates every clip; ft.fps and ft.random_share have to be 0 beside it")
    if ft.zoom < 1:
        raise UserError(f"ft.zoom: found {ft.zoom}; expected at least 1")
    return AKMNet(
        n_outputs, ft.mining, model.width, model.blocks, model.stride, model.hidden, model.dropout, ft.threshold,
        ft.gradient, model.statistics, settings.data.normalise, model.convolution, jnp.dtype(settings.engine.dtype),
    )  # fmt: skip


def build(settings: Any, n_classes: int, n_macro_classes: int = 0) -> System:
    """The system of `settings`.

    Raises:
      UserError: an unknown option, or sizes that do not fit.
    """
    one_of("task", settings.task, ("emotion", "au"))
    one_of("pre.objective", settings.pre.objective, OBJECTIVES)
    pretrained_here = not getattr(settings, "init_from", "")  # else the macro classes do not matter
    if pretrained_here and settings.pre.objective == "macro_cls" and n_macro_classes < 2:
        raise UserError(f"pre.objective=macro_cls: found {n_macro_classes} macro classes; expected at least 2")
    system = System(settings, n_classes, n_macro_classes)
    _ = system.finetune, system.pretrain  # raises now what would be raised later
    return system
