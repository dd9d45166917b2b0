"""FDP: fine-grained dynamic perception by ranking the frames of a clip in time.

Shao, Cheng, Zhang, Shi, Li, Ma & Yeung, "Micro-Expression Recognition via Fine-Grained Dynamic Perception" (ACM TOMM
2025, arXiv 2509.06015). Stated in what could be read of it: a local-global transformer gives one feature a frame, a
rank scorer gives each feature a score, the scores are trained towards the chronological order, the rank features are
pooled over time into one dynamic representation, and a recognition head and an encoder-decoder that constructs the
dynamic image share it. Equations and sizes were not available; what is INFERRED says so. The released code builds
neither attention nor a scorer and mixes features instead of frames; `configs/fdp.py:released` is that network.

  F_k = E(I_k)                                       frame k of T -> map [S, S] (nn.relational)
  s_k = g(F_k)                                       score of a frame (nn.rank)
  D = BN(1/T sum_k (s_k - mean s) F_k)               rank_score; INFERRED: centred, so that a static clip gives 0
  M = conv(D) [S, S, 8]                              shared by both tasks
  y = W2 ReLU(W1 pool(M)),   d = sigmoid(SegNet(M))
  d* = scale(sum_k alpha_k I_k)                      approximate rank pooling, alpha in closed form (data.motion)
  L = L_mer + w_d mean |d - d*|^2 + w_r L_rank       w_d = 100 as released; w_r = 1 INFERRED

Other poolings: arp (the fixed alpha instead of the scores), conv3d (the released operator, a learned convolution over
all frames), conv3d_mixed (the released one with its axes mixed up: T neighbouring features of one frame).

Settings read (in brackets the released or full-size value; configs/fdp.py says what a run uses):
  system ["fdp"]; task ["emotion"] emotion | au; engine.dtype ["float32"] float32 | bfloat16
  data.size [64] pixels; data.normalise ["signed"] see data.augment; data.action_units [()] as in systems.ma2mi
  data.frames [8] T; data.part ["whole"] whole | onset_offset | onset_apex: the part of a clip that is looked at
  data.phase ["first"] first: frames i * (n // T), as released; all: training draws one of the n // T sequences of such
    frames, evaluation spreads `data.views` [1] over them
  data.order_frames [16] frames of the event whose order is measured at evaluation; 0 = none
  model.depths [(3, 4, 10, 3)], model.widths [(96, 192, 384, 768)], model.stem [64], model.head_dim [8]
  model.patch [0] stride of the described stem, one plain convolution; 0 = the released one of four
  model.attention [False] global aggregators; model.local ["dense"] grouped (described) | dense (released)
  model.drop_path [0.1]; model.init ["truncated"] truncated (.02, as released) | fan_in (for other widths)
  model.head ["mean"] mean (released) | places, see nn.relational
  model.map_size [64] side S; frames' dynamic images are averaged down to it
  model.pool ["conv3d_mixed"] rank_score | arp | conv3d | conv3d_mixed; model.maps [8] channels of M
  model.scorer_hidden [0] width of the scorer's hidden layer
  model.norm_pooled [False] the BatchNorm of D (rank_score, arp): INFERRED, frames of a clip differ by little
  model.hidden [256] width of W1
  model.segnet [(64, 128, 256, 512, 512)], model.segnet_convolutions [(2, 2, 3, 3, 3)]
  model.segnet_bias [True] biases before BatchNorm, which removes them again: for released weights only
  model.standardise [True] frames minus mean, over maximum, of the fold's training clips (the authors took each set's)
  model.reference ["none"] none | first: the encoder sees `model.gain` times the difference to the first frame of the
    sequence. INFERRED: how a face looks hides a faint expression from a scorer of single frames. The released network
    sees frames. model.gain [1] INFERRED: expressions change grey values by a few per cent of their range
  model.scale ["minmax"] minmax (each dynamic image by its own range) | fixed: `model.deviations` [4] root mean squares
    of the training clips' dynamic images from mid-grey to black and to white (INFERRED)
  model.form ["auto"] see nn.convolution
  ft.dynamic_weight [100.0] w_d, 0 = no such task; ft.rank_weight [0.0] w_r; ft.margin [1.0] of the ranking loss, whose
    form (a hinge over pairs) is INFERRED, as is the scorer's (linear, or one hidden layer)
  ft.shuffle_order [False] control: every clip has a random order of its own instead of the chronological one
  ft.augment: see data.augment, one transform for all frames; ft.optimizer: fields of OptimizerSettings
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.data import augment, motion, sampling
from mer_jax.data.store import ClipStore
from mer_jax.errors import UserError
from mer_jax.nn.convolution import FORMS, Conv3x3
from mer_jax.nn.rank import RankScorer, ranking_loss, score_pooling
from mer_jax.nn.relational import HEADS, LOCALS, RelationalEncoder, average_pool, truncated
from mer_jax.nn.segnet import SegNet, max_pool_indices
from mer_jax.systems import fdp_measures, objectives
from mer_jax.systems.base import Batch, Defaults, Needs, Outputs, Stage
from mer_jax.systems.miacnet import one_of
from mer_jax.training.optimizer import OptimizerSettings

POOLS = ("rank_score", "arp", "conv3d", "conv3d_mixed")
SCALES = ("minmax", "fixed")
PARTS = ("whole", "onset_offset", "onset_apex")
REFERENCES = ("none", "first")
INITS = {"truncated": truncated, "fan_in": nn.initializers.lecun_normal()}
torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # of the released heads
CARRIED = ("encoder", "scorer", "norm", "mix", "hidden", "segnet")  # all but the classifier


class FDPNetwork(nn.Module):
    """Frames of a clip -> classes, dynamic image and scores of the frames; see the head of this file.

    Attributes:
      encoder: frames [N, H, W, 1] -> maps [N, S, S].
      scorer: features [..., S * S] -> scores [...]; None where nothing asks for an order.
      segnet: [B, S, S, maps] -> [B, S, S, 1]; None without the dynamic-image task.
      n_outputs: classes, or action units.
      pool: one of POOLS.
      maps: channels of M.
      hidden: width of W1.
      norm_pooled: see model.norm_pooled.
      map_size: side S.
      scale: one of SCALES.
      normalisation: see augment.normalise.
      standardise: see model.standardise.
      reference: one of REFERENCES.
      gain: of differences to the reference.
      deviations: see `scaled`.
      form: of the convolution to M.
    """

    encoder: nn.Module
    scorer: nn.Module | None
    segnet: nn.Module | None
    n_outputs: int
    pool: str = "rank_score"
    maps: int = 8
    hidden: int = 256
    norm_pooled: bool = True
    map_size: int = 64
    scale: str = "minmax"
    normalisation: str = "signed"
    standardise: bool = False
    reference: str = "none"
    gain: float = 1.0
    deviations: float = 4.0
    form: str = "auto"

    @nn.compact
    def __call__(self, batch: Batch, train: bool) -> Outputs:
        """Batch with frames [B, T, H, W, 1] in 0..1, and at evaluation order_frames [B, P, H, W, 1].

        Returns:
          logits [B, n], maps [B, T, S, S], pooled [B, S, S, .]; with a scorer scores [B, T] and order_scores [B, P];
          with a SegNet image, target, mean_image and difference_image [B, S, S] in 0..1 and change [B, S, S], the
          target before scaling.
        """
        fitted = self.variable("constants", "statistics", neutral_statistics, self.map_size).value
        frames = batch["frames"]
        outputs: dict[str, jax.Array] = {}
        maps = self._encode(frames, frames[:, :1], fitted, train)
        if self.scorer is not None:
            outputs["scores"] = self._score(maps)
            if "order_frames" in batch:
                order = self._encode(batch["order_frames"], frames[:, :1], fitted, train)
                outputs["order_scores"] = self._score(order)
        pooled = self._pool(maps, outputs, train)
        mixed = Conv3x3(self.maps, use_bias=True, form=self.form, kernel_init=torch_default, name="mix")(pooled)
        x, _ = max_pool_indices(mixed, 3)
        x = nn.relu(nn.Dense(self.hidden, kernel_init=torch_default, name="hidden")(x.reshape(x.shape[0], -1)))
        logits = nn.Dense(self.n_outputs, kernel_init=torch_default, name="classifier")(x)
        outputs |= {"logits": logits, "maps": maps, "pooled": pooled}
        if self.segnet is not None:
            change = dynamic_images(frames, self.map_size)
            difference = fitted["slope"] * mean_differences(frames, self.map_size)
            outputs |= {
                "image": nn.sigmoid(self.segnet(mixed, train)[..., 0].astype(jnp.float32)),
                "change": change,
                "target": scaled(change, self.scale, fitted["deviation"], self.deviations),
                "difference_image": scaled(difference, self.scale, fitted["deviation"], self.deviations),
                "mean_image": jnp.broadcast_to(fitted["image"], change.shape),
            }
        return outputs

    def _encode(self, frames: jax.Array, first: jax.Array, fitted: Mapping[str, jax.Array], train: bool) -> jax.Array:
        """[B, T, H, W, 1] -> [B, T, S, S]; all frames in one call, so BatchNorm sees B * T of them.

        `first` [B, 1, H, W, 1] is the frame that the others are compared with, if any.
        """
        x = augment.normalise(frames, self.normalisation)
        if self.reference == "first":
            x = self.gain * (x - augment.normalise(first, self.normalisation))
        x = x.reshape(-1, *frames.shape[2:])
        if self.standardise:
            x = (x - fitted["mean"]) / fitted["maximum"]
        return self.encoder(x, train).reshape(*frames.shape[:2], self.map_size, self.map_size)

    def _score(self, maps: jax.Array) -> jax.Array:
        assert self.scorer is not None
        return jnp.asarray(self.scorer(maps.reshape(*maps.shape[:2], -1)))

    def _pool(self, maps: jax.Array, outputs: Outputs, train: bool) -> jax.Array:
        """[B, T, S, S] -> [B, S, S, 1], or T channels for the convolutions over time."""
        batch, length, side, _ = maps.shape
        if self.pool == "conv3d":
            return maps.transpose(0, 2, 3, 1)
        if self.pool == "conv3d_mixed":  # the released reshape: place (y, x, t) is feature t + T * (x + S * y)
            return maps.reshape(batch, side, side, length)
        if self.pool == "arp":
            pooled = jax.vmap(motion.dynamic_image)(maps) / length
        else:
            pooled = score_pooling(maps, outputs["scores"])
        if self.norm_pooled:
            pooled = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-8, name="norm")(pooled[..., None])[..., 0]
        return pooled[..., None]


def neutral_statistics(side: int) -> dict[str, jax.Array]:
    """What stands for `FDP.statistics` before anything is fitted."""
    known = {"mean": jnp.zeros(()), "maximum": jnp.ones(()), "deviation": jnp.ones(()), "slope": jnp.ones(())}
    return known | {"image": jnp.zeros((side, side))}


def dynamic_images(frames: jax.Array, side: int) -> jax.Array:
    """Approximate rank pooling of frames [B, T, H, W, 1], averaged down to [B, side, side]; not scaled."""
    change = jax.vmap(motion.dynamic_image)(frames)
    return average_pool(change, frames.shape[2] // side)[..., 0]


def mean_differences(frames: jax.Array, side: int) -> jax.Array:
    """Mean of frames 2 .. T minus the first of [B, T, H, W, 1], averaged down to [B, side, side]."""
    difference = frames[:, 1:].mean(axis=1) - frames[:, 0]
    return average_pool(difference, frames.shape[2] // side)[..., 0]


def scaled(change: jax.Array, scale: str, deviation: jax.Array, deviations: float) -> jax.Array:
    """Dynamic images [..., S, S] in 0..1, as targets.

    minmax: each by its own range, as released; on faint clips noise sets it. fixed: no change is mid-grey, and
    `deviations` root mean squares of the fold's training clips reach black and white.
    """
    if scale == "minmax":
        return motion.minmax(change)
    return jnp.clip(0.5 + change / (2 * deviations * deviation), 0, 1)


def objective(
    outputs: Outputs,
    batch: Batch,
    task: str = "emotion",
    dynamic: float = 100.0,
    rank: float = 1.0,
    margin: float = 1.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """L_mer + dynamic * L_dynamic + rank * L_rank, [B]; terms whose weight is 0 are left out."""
    recognition = objectives.action_unit_cross_entropy if task == "au" else objectives.cross_entropy
    loss, terms = recognition(outputs, batch)
    if dynamic:
        terms["dynamic_mse"] = ((outputs["image"] - outputs["target"]) ** 2).mean(axis=(1, 2))
        loss = loss + dynamic * terms["dynamic_mse"]
    if rank:
        terms["rank"] = ranking_loss(outputs["scores"], batch["position"], margin)
        loss = loss + rank * terms["rank"]
    return loss, terms


@dataclasses.dataclass(frozen=True)
class FDP(Defaults):
    """The system, see systems.base.System.

    Attributes:
      settings: see the head of this file.
      n_classes: classes, or action units where task is au.
    """

    settings: Any
    n_classes: int

    @property
    def needs(self) -> Needs:
        """Grey frames at the network's size."""
        return Needs(size=self.settings.data.size, channels=1)

    @property
    def n_views(self) -> int:  # type: ignore[override]
        """Sequences of frames that a clip is scored by."""
        return int(self.settings.data.views)

    @property
    def oracle_inputs(self) -> str:
        """What `data.part` and `data.extent` read of the annotation."""
        data = self.settings.data
        if data.part == "onset_apex":
            return "boundaries+apex"
        return "none" if data.part == "whole" and data.extent == "whole" else "boundaries"

    def view(self, store: ClipStore, index: jax.Array, key: jax.Array, train: bool) -> Batch:
        """T frames: {"frames": float32 [T, size, size, 1] in 0..1, "position": int32 [T], "label" or "action_units"}.

        At evaluation also order_frames [P, size, size, 1], spread over the event, with order_position [P] and
        key_frames [3] (onset, apex or -1, offset; the exact ones where known): for `measures` alone.
        """
        data, ft = self.settings.data, self.settings.ft
        start, length = store.start[index], store.length[index]
        annotated = (store.onset[index], store.apex[index], store.offset[index])
        first, last = sampling.extent(data.part, *annotated, length)
        if not train:
            draw_phase = (key + 0.5) / data.views
        else:
            phase_key, transform = jax.random.split(key)
            draw_phase = jax.random.uniform(phase_key)
        phase = draw_phase if data.phase == "all" else 0.0
        positions = first + sampling.sequence_positions(last - first + 1, data.frames, phase)
        frames = store.frames[start + positions].astype(jnp.float32) / 255
        order = positions
        if train:
            drawn = augment.draw(transform, ft.augment)
            frames = augment.apply(frames, drawn, data.size, store.modality[index])
            if ft.shuffle_order:  # the same at every visit, so that it can be learned as well as the true one
                order = jax.random.permutation(jax.random.fold_in(jax.random.key(0), index), jnp.arange(data.frames))
        else:
            frames = augment.center(frames, data.size)
        example = {"frames": frames, "position": order.astype(jnp.int32)}
        if not train and data.order_frames:
            exact = (store.true_onset[index], store.true_apex[index], store.true_offset[index])
            key_frames = [jnp.where(e >= 0, e, a) for e, a in zip(exact, annotated, strict=True)]
            spread = sampling.positions_even(key_frames[0], key_frames[2], data.order_frames)
            spread = jnp.round(spread).astype(jnp.int32)
            seen = store.frames[start + spread].astype(jnp.float32) / 255
            example |= {"order_frames": augment.center(seen, data.size), "order_position": spread}
            example["key_frames"] = jnp.stack(key_frames)
        if self.settings.task == "au":
            units = np.array(self.settings.data.action_units, np.int32)
            return example | {"action_units": store.action_units[index][units]}
        return example | {"label": store.label[index]}

    def statistics(self, store: ClipStore, mask: jax.Array) -> Mapping[str, jax.Array]:
        """Of the training clips, equally weighted: pixel mean and maximum; deviation and mean of dynamic images, and
        their least-squares slope on `mean_differences`.
        """
        views = jax.vmap(lambda i: self.view(store, i, jnp.int32(0), False))(jnp.arange(len(mask)))
        weight = mask / jnp.maximum(mask.sum(), 1)
        frames = augment.normalise(views["frames"], self.settings.data.normalise)
        mean = weight @ frames.mean(axis=(1, 2, 3, 4))
        highest = jnp.where(mask, frames.max(axis=(1, 2, 3, 4)), -jnp.inf).max()
        maximum = jnp.where(mask.any(), highest - mean, 1.0)
        change = dynamic_images(views["frames"], self.settings.model.map_size)
        deviation = jnp.sqrt(weight @ (change**2).mean(axis=(1, 2)))
        deviation = jnp.where(deviation > 0, deviation, 1.0)
        model = self.settings.model
        image = jnp.tensordot(weight, scaled(change, model.scale, deviation, model.deviations), axes=1)
        difference = mean_differences(views["frames"], model.map_size)
        square = weight @ (difference**2).mean(axis=(1, 2))
        slope = weight @ (difference * change).mean(axis=(1, 2)) / jnp.where(square > 0, square, 1.0)
        return {
            "mean": mean,
            "maximum": jnp.where(maximum > 0, maximum, 1.0),
            "deviation": deviation,
            "slope": slope,
            "image": image,
        }

    def measures(self, outputs: Outputs, batch: Batch) -> Mapping[str, jax.Array]:
        """Quality of the dynamic image and of the order of frames, beside what needs no network.

        image_*: of the constructed image; mean_image_*: of the mean of the training clips' true images; grey_image_*:
        of a constant, the mean grey of those; difference_image_*: of `mean_differences`, with one slope fitted to the
        training clips. The true image is a fixed sum of the frames that the network is given, so the last is what a
        network has to beat. tau_*: of the order. See fdp_measures.
        """
        found: dict[str, jax.Array] = {}
        if "image" in outputs:
            mean = outputs["mean_image"]
            grey = jnp.broadcast_to(mean.mean(axis=(1, 2), keepdims=True), mean.shape)
            images = {"image": outputs["image"], "mean_image": mean, "grey_image": grey}
            images["difference_image"] = outputs["difference_image"]
            found |= fdp_measures.image_measures(outputs["target"], outputs["change"], images)
            del found["grey_image_correlation"]  # of a constant there is none
        if "order_scores" in outputs:
            departure = jnp.abs(batch["order_frames"] - batch["frames"][:, :1]).mean(axis=(2, 3, 4))
            order = (batch["order_position"], batch["key_frames"])
            found |= fdp_measures.order_measures(outputs["order_scores"], departure, *order)
        return found

    @property
    def finetune(self) -> Stage:
        """Everything is trained at once; with `init_from` (released weights) only the classifier is fresh."""
        ft = self.settings.ft
        module = build_network(self.settings, self.n_classes)
        present = {"encoder": True, "mix": True, "hidden": True, "scorer": module.scorer, "segnet": module.segnet}
        present["norm"] = module.norm_pooled and module.pool in ("rank_score", "arp")
        return Stage(
            module=module,
            objective=functools.partial(
                objective, task=self.settings.task, dynamic=ft.dynamic_weight, rank=ft.rank_weight, margin=ft.margin
            ),
            optimizer=OptimizerSettings(**ft.optimizer),
            carry=tuple(name for name in CARRIED if present[name]) if self.settings.init_from else (),
        )


def build_network(settings: Any, n_outputs: int) -> FDPNetwork:
    """The network of `settings`.

    Raises:
      UserError: an unknown option, or sizes that do not fit.
    """
    model, data, dtype = settings.model, settings.data, jnp.dtype(settings.engine.dtype)
    for field, found, known in (
        ("model.pool", model.pool, POOLS), ("model.local", model.local, LOCALS), ("model.scale", model.scale, SCALES),
        ("model.init", model.init, tuple(INITS)), ("model.head", model.head, HEADS),
        ("model.form", model.form, FORMS), ("data.part", data.part, PARTS),
        ("model.reference", model.reference, REFERENCES), ("data.phase", data.phase, ("first", "all")),
    ):  # fmt: skip
        one_of(field, found, known)
    _check_sizes(settings)
    encoder = RelationalEncoder(
        model.depths, model.widths, model.stem, model.patch, model.attention, model.local, model.head_dim,
        model.drop_path, model.map_size, model.head, model.form, INITS[model.init], dtype,
    )  # fmt: skip
    ordered = model.pool == "rank_score" or settings.ft.rank_weight > 0
    segnet = SegNet(
        model.segnet, model.segnet_convolutions, use_bias=model.segnet_bias, form=model.form, dtype=dtype
    )  # fmt: skip
    return FDPNetwork(
        encoder, RankScorer(model.scorer_hidden, dtype) if ordered else None,
        segnet if settings.ft.dynamic_weight > 0 else None, n_outputs, model.pool, model.maps, model.hidden,
        model.norm_pooled, model.map_size, model.scale, data.normalise, model.standardise, model.reference,
        model.gain, model.deviations, model.form,
    )  # fmt: skip


def _check_sizes(settings: Any) -> None:
    model, data = settings.model, settings.data
    if data.frames < 2 or data.views < 1:
        raise UserError(f"data.frames, data.views: found {data.frames}, {data.views}; expected at least 2 and 1")
    if data.phase == "first" and data.views > 1:
        raise UserError(f"data.views: found {data.views}; data.phase=first has one sequence of frames a clip")
    if model.standardise and model.reference != "none":
        raise UserError(
            "model.standardise: found True with model.reference=first; differences have no common mean. Set one of them"
        )
    if len(model.depths) != len(model.widths) or len(model.segnet) != len(model.segnet_convolutions):
        raise UserError("model.depths and model.widths, and both fields of the SegNet, must be as long as each other")
    unit = 2 ** len(model.segnet)
    if data.size % model.map_size or model.map_size % unit:
        raise UserError(
            f"model.map_size: found {model.map_size}; expected a divisor of data.size {data.size} and a multiple of "
            f"{unit}, which {len(model.segnet)} poolings need"
        )
    grid = -(-data.size // ((model.patch or 4) * 2 ** (len(model.widths) - 1)))
    if model.head == "places" and model.map_size % grid:
        raise UserError(
            f"model.map_size: found {model.map_size}; expected a multiple of {grid}, the side of the last grid, with "
            "model.head=places"
        )
    for width in model.widths:
        part = 3 * model.head_dim if model.attention else model.head_dim
        if width % part:
            raise UserError(f"model.widths: found {width}; expected multiples of {part} with heads of {model.head_dim}")


def build(settings: Any, n_classes: int, n_macro_classes: int = 0) -> FDP:
    """The system of `settings`; raises UserError as `build_network`."""
    del n_macro_classes  # nothing is pre-trained
    one_of("task", settings.task, ("emotion", "au"))
    one_of("pre.objective", settings.pre.objective, ("none",))
    if settings.task == "au" and len(settings.data.action_units) != n_classes:
        raise UserError(
            f"data.action_units: found {len(settings.data.action_units)} action units; expected {n_classes}"
        )
    system = FDP(settings, n_classes)
    _ = system.finetune  # raises now what would be raised later
    return system
