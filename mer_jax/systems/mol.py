"""MOL: joint recognition, optical flow and facial landmarks from raw frames, with the F5C block.

Shao, Cheng, Li, Zhou, Lu, Xie & Ma, "MOL: Joint estimation of micro-expression, optical flow, and landmark via
transformer-graph-style convolution" (TPAMI 2025, arXiv 2506.14511). Abstract and overview figure were available, the
rest is from the released code; where it contradicts the figure or itself, the described form is the default and the
code's form is an option ("released").

  I_1 .. I_T          frames i r + j of a clip, r = floor(length / T), phase j; T = 8
  X_k = stack(I_k)    shared convolutions, 1/8 of the size
  F_k, F_{k+1}        F5C of the first and of the second frame of pair k (two blocks, or one shared)
  flow      O^_k = FlowNet(I_k, I_{k+1}, [F_k; F_{k+1}])     T - 1 fields, in pixels
  landmark  l^_{k+1} = head(F_{k+1})                         68 points, in pixels
  MER       logits = head([F_1, F_2, F_2, F_3, ...])         2 (T - 1) maps in time
  L = L_e + lambda_f L_f + lambda_m L_m
  L_f = mean_k mean |O^_k - O_k|^2                           O: TV-L1 flow
  L_m = 1/68 sum_{k=2..T} |l^_k - l_k|_1 / d_k               d: distance of the eye centres

Settings read (configs/mol.py has the values):
  system; task emotion | au; engine.dtype float32 | bfloat16: compute type of all convolutions and products
  data.size pixels of stored frames; data.crop pixels that the network sees; data.action_units where task is au
  model.normalise std: (x - mean) / standard deviation over the training persons' frames (INFERRED) | max: divided by
    the largest centred value, the released code's (which takes both over each person's own clips, tested ones included)
    | none: 0..1
  model.frames T; model.extent whole | onset_offset: part of the clip that the phases divide. The paper claims to need
    no key frames: whole
  model.sequences most phases of a clip that have flow targets, are drawn in training and looked at in evaluation (then
    as many views, spread evenly; where a clip has fewer phases, some count twice)
  model.width factor on trunk and heads; model.stem none | norm_relu (nn.mol.ConvStack)
  model.fcc circular | conv | none; model.fcc_kernel size | crop | resize; model.fcc_meta; model.fcc_positions;
    model.fcc_spread; model.fcc_ffn none | unused | applied; model.ccc channel | released | none; model.k;
    model.ccc_itself: see nn.f5c. fcc and ccc none: without F5C
  model.share_f5c one block for both frames of a pair (INFERRED: the figure draws two boxes, the code has two)
  model.dropout of the MER head
  model.flow, model.landmarks: whether these tasks are there
  model.flow_width, model.flow_depth, model.flow_search, model.flow_dilation; model.flow_basis pair (the paper) |
    difference (needs share_f5c); model.flow_zero: see nn.flow.FlowNet
  model.landmark_base mean: offsets to the mean shape of the training persons (INFERRED: nothing has to be learnt that
    every face shares) | zero: absolute pixels, the released code's
  model.moving_px pixels a frame pair, from which on a place counts as moving in the measures
  ft.flow_weight lambda_f, ft.landmark_weight lambda_m; ft.flow_loss mean | released (divided by T - 1 once more)
  ft.flow_pairs pairs of a sequence, drawn at random, whose flow is estimated in a training step; 0: all. With some, the
    mean of L_f and its gradient stay what they are and a step costs less (INFERRED: for few cores)
  ft.augment fields of data.augment; a random crop is shift_px = (size - crop) / 2; the same transform for frames, flow
    and landmarks. The released code crops and does nothing else
  ft.carry_classifier whether `init_from` brings the last layer too; ft.optimizer: fields of OptimizerSettings
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mer_jax.data import augment, sampling
from mer_jax.data.motion import MotionSpec
from mer_jax.data.store import ClipStore
from mer_jax.errors import UserError
from mer_jax.nn.f5c import F5C, FCC_KERNELS, FFNS
from mer_jax.nn.flow import BASES, FlowNet
from mer_jax.nn.mol import N_LANDMARKS, ConvStack, Dense, LandmarkHead, RecognitionHead, scaled
from mer_jax.systems import objectives
from mer_jax.systems.base import Batch, Defaults, Needs, Outputs, Stage
from mer_jax.systems.miacnet import one_of
from mer_jax.training.optimizer import OptimizerSettings

EYES = (slice(36, 42), slice(42, 48))  # iBUG order


class MOL(nn.Module):
    """The joint network; see the head of this file.

    Attributes:
      classes: number of logits.
      model: `settings.model`.
      dtype: compute type.
    """

    classes: int
    model: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, batch: Batch, train: bool) -> Outputs:
        """Logits, and flow and landmarks where they are estimated.

        Args:
          batch: frames float32 [B, T, S, S, 1] in 0..1, and pairs int [B, P] where flow is wanted of some pairs only.
          train: whether BatchNorm and dropout are those of training.

        Returns:
          logits [B, C]; flow [B, P, S, S, 2] (P = T-1 without `pairs`) and landmarks [B, T-1, 68, 2] (of frames 2 .. T)
          in pixels; in evaluation also what the training persons have on average, mean_flow [B, S, S, 2] and mean_shape
          [B, 68, 2].
        """
        frames, m = batch["frames"], self.model
        n, length, size = frames.shape[:3]
        known = self.variable("constants", "statistics", neutral_statistics, m, size).value
        frames = (frames - known["mean"]) / known["scale"] if m.normalise != "none" else frames
        stack = ConvStack(m.width, m.stem, self.dtype, name="conv_stack")
        maps = stack(frames.reshape(-1, *frames.shape[2:]), train)
        first, second = self._trunk(maps.reshape(n, length, *maps.shape[1:]), train)
        outputs: dict[str, jax.Array] = {}
        if m.flow:
            net = FlowNet(
                m.flow_width, m.flow_depth, m.flow_search, m.flow_dilation, m.flow_basis, m.flow_zero, self.dtype,
                name="flow",
            )  # fmt: skip
            trunk, pairs = jnp.concatenate([first, second], axis=-1), batch.get("pairs")
            if pairs is not None:
                trunk = jnp.take_along_axis(trunk, pairs[..., None, None, None], axis=1)
            outputs["flow"] = net(frames, trunk, train, pairs)
        if m.landmarks:
            head = LandmarkHead(m.width, self.dtype, name="landmarks")
            points = head(second.reshape(-1, *second.shape[2:])).reshape(n, length - 1, N_LANDMARKS, 2)
            outputs["landmarks"] = points + known["shape"] if m.landmark_base == "mean" else points
        stacked = jnp.stack([first, second], axis=2)  # [B, T-1, 2, h, w, C]
        over_time = stacked.reshape(n, -1, *first.shape[2:]).transpose(0, 2, 3, 1, 4)
        code = RecognitionHead(m.width, m.dropout, self.dtype, name="recognition")(over_time, train)
        outputs["logits"] = Dense(self.classes, self.dtype, name="classifier")(code).astype(jnp.float32)
        if not train:
            means = {"mean_flow": "flow", "mean_shape": "shape"}
            outputs |= {k: jnp.broadcast_to(known[v], (n, *known[v].shape)) for k, v in means.items() if v in known}
        return outputs

    def _trunk(self, maps: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Maps of all frames [B, T, h, w, C] -> F of the first and second frames of all pairs [B, T-1, h, w, C]."""
        m = self.model

        def block(name: str, x: jax.Array) -> jax.Array:
            f5c = F5C(
                m.fcc, m.ccc, m.k, m.ccc_itself, m.fcc_kernel, m.fcc_meta, m.fcc_positions, m.fcc_spread, m.fcc_ffn,
                self.dtype, name=name,
            )  # fmt: skip
            return f5c(x.reshape(-1, *x.shape[2:]), train).reshape(x.shape)

        if m.share_f5c:
            every = block("f5c", maps)
            return every[:, :-1], every[:, 1:]
        return block("f5c_first", maps[:, :-1]), block("f5c_second", maps[:, 1:])


def neutral_statistics(model: Any, size: int) -> dict[str, jax.Array]:
    """What statistics are before any fold: frames as they are, nothing moves, points in the middle."""
    known = {"mean": jnp.zeros(()), "scale": jnp.ones(())}
    if model.landmarks:
        known["shape"] = jnp.full((N_LANDMARKS, 2), (size - 1) / 2)
    if model.flow:
        known["flow"] = jnp.zeros((size, size, 2))
    return known


def eye_distance(landmarks: jax.Array) -> jax.Array:
    """Distance of the eye centres, each the mean of its six points: [..., 68, 2] -> [...]."""
    left, right = (landmarks[..., eye, :].mean(axis=-2) for eye in EYES)
    return jnp.linalg.norm(right - left, axis=-1)


def landmark_error(found: jax.Array, truth: jax.Array, norm: str) -> jax.Array:
    """Mean error of the points over the distance of the eye centres, [..., 68, 2] -> [...]; NaN where unknown.

    Args:
      found: points.
      truth: points, NaN where unknown.
      norm: `l1` (of L_m: both coordinates added) or `l2` (of the NME: distance).
    """
    difference = found - truth
    each = jnp.abs(difference).sum(-1) if norm == "l1" else jnp.sqrt((difference**2).sum(-1))
    return each.mean(axis=-1) / eye_distance(truth)


def translation(frames: jax.Array) -> jax.Array:
    """The shift of each pair of neighbouring frames that explains most of their difference, in pixels (x, y).

    Least squares of I_x u + I_y v = -I_t over all pixels (Lucas & Kanade 1981), with derivatives of the pair's mean.

    Args:
      frames: [B, T, H, W, 1].

    Returns:
      [B, T - 1, 2]; 0 where the frames have no structure.
    """
    frames = frames[..., 0]
    mean = (frames[:, 1:] + frames[:, :-1]) / 2
    change = (frames[:, 1:] - frames[:, :-1])[..., 1:-1, 1:-1]
    dx = (mean[..., 1:-1, 2:] - mean[..., 1:-1, :-2]) / 2
    dy = (mean[..., 2:, 1:-1] - mean[..., :-2, 1:-1]) / 2
    xx, xy, yy, xt, yt = ((a * b).sum((-2, -1)) for a, b in ((dx, dx), (dx, dy), (dy, dy), (dx, change), (dy, change)))
    determinant = xx * yy - xy * xy
    shift = jnp.stack([xy * yt - yy * xt, xy * xt - xx * yt], axis=-1)
    some = determinant[..., None] > 1e-6
    return jnp.where(some, shift / jnp.where(some, determinant[..., None], 1.0), 0.0)


def flow_loss(outputs: Outputs, batch: Batch, released: bool) -> jax.Array:
    """L_f [B] in pixels^2; `released` divides by the number of pairs once more, as the code does."""
    loss = ((outputs["flow"] - batch["flow"]) ** 2).mean(axis=(1, 2, 3, 4))
    return loss / batch["flow"].shape[1] if released else loss


def landmark_loss(outputs: Outputs, batch: Batch) -> jax.Array:
    """L_m [B]: summed over the T - 1 frames; a frame without landmarks counts as the others' mean."""
    truth = batch["landmarks"]
    known = jnp.isfinite(truth).all(axis=(-1, -2))
    safe = jnp.where(known[..., None, None], truth, 100.0 * jnp.arange(2 * N_LANDMARKS).reshape(N_LANDMARKS, 2))
    error = jnp.where(known, landmark_error(outputs["landmarks"], safe, "l1"), 0.0)
    return error.sum(-1) * known.shape[-1] / jnp.maximum(known.sum(-1), 1)


@dataclasses.dataclass(frozen=True)
class MOLSystem(Defaults):
    """The system, see systems.base.System.

    Attributes:
      settings: see the head of this file.
      n_classes: classes, or action units where task is au.
    """

    settings: Any
    n_classes: int

    reads_targets = False

    @property
    def n_views(self) -> int:  # type: ignore[override]
        """Phases looked at."""
        return int(self.settings.model.sequences)

    @property
    def oracle_inputs(self) -> str:
        """Boundaries only where the phases divide onset to offset, or clips are cut there."""
        whole = self.settings.model.extent == self.settings.data.extent == "whole"
        return "none" if whole else "boundaries"

    @property
    def needs(self) -> Needs:
        """Grey frames, landmarks, and flow between the frames of the sequences."""
        m = self.settings.model
        spec = MotionSpec("flow_pairs", extent=m.extent, phases=m.frames, sequences=m.sequences)
        return Needs(self.settings.data.size, channels=1, landmarks=m.landmarks, motion=(spec,) if m.flow else ())

    def view(self, store: ClipStore, index: jax.Array, key: jax.Array, train: bool) -> Batch:
        """One sequence of T frames with its targets: frames [T, S, S, 1] in 0..1, flow, landmarks, label.

        Training draws a phase and a crop; evaluation takes phase number `key` of the clip and the centre crop, and says
        where the frames are: position [T].
        """
        settings, m, size = self.settings, self.settings.model, self.settings.data.crop
        facts = (store.onset[index], store.apex[index], store.offset[index], store.length[index])
        first, last = sampling.extent(m.extent, *facts)
        step = jnp.maximum((last - first + 1) // m.frames, 1)
        count = jnp.minimum(m.sequences, step)
        if train:
            key, transform, chosen = jax.random.split(key, 3)
            sequence = jax.random.randint(key, (), 0, count)
            change = augment.draw(transform, settings.ft.augment)
        else:
            sequence = key * count // m.sequences
        positions = first + self._positions(last - first + 1, step) + sequence * step // count
        rows = store.start[index] + positions
        frames = store.frames[rows].astype(jnp.float32) / 255
        height, width = frames.shape[1:3]
        moved = augment.apply(frames, change, size, store.modality[index]) if train else augment.center(frames, size)
        example = {"frames": moved} if train else {"frames": moved, "position": positions}
        if m.flow:
            pairs = jnp.arange(m.frames - 1)
            if train and settings.ft.flow_pairs:
                pairs = jax.random.permutation(chosen, pairs)[: settings.ft.flow_pairs]
                example["pairs"] = pairs
            fields = store.motion["flow_pairs_start"][index] + pairs * count + sequence
            flow = store.motion["flow_pairs"][fields].astype(jnp.float32)
            example["flow"] = augment.apply_to_flow(flow, change, size) if train else augment.center(flow, size)
        if m.landmarks:
            points = store.landmarks[rows[1:]]
            if train:
                points = augment.apply_to_landmarks(points, change, height, width, size)
            else:
                points = points - jnp.array([(width - size) // 2, (height - size) // 2])
            example["landmarks"] = points
        if settings.task == "au":
            units = jnp.array(settings.data.action_units, jnp.int32)
            return example | {"action_units": store.action_units[index][units]}
        return example | {"label": store.label[index]}

    def _positions(self, length: jax.Array, step: jax.Array) -> jax.Array:
        """i r of the T frames; a shorter clip is spread evenly, as its flow targets are (motion.phase_positions)."""
        place = jnp.arange(self.settings.model.frames)
        spread = jnp.round(place * (length - 1) / (self.settings.model.frames - 1)).astype(jnp.int32)
        return jnp.where(length >= self.settings.model.frames, place * step, spread)

    def statistics(self, store: ClipStore, mask: jax.Array) -> Mapping[str, jax.Array]:
        """Mean and scale of intensity, mean shape and mean flow (centre crop) over the clips of `mask`."""
        m, size = self.settings.model, self.settings.data.crop
        clip = jnp.searchsorted(store.start, jnp.arange(store.frames.shape[0]), side="right") - 1
        weight = _shares(mask[clip])
        frames = store.frames.astype(jnp.float32) / 255
        mean = (frames.mean(axis=(1, 2, 3)) * weight).sum()
        square = ((frames**2).mean(axis=(1, 2, 3)) * weight).sum()
        scale = jnp.sqrt(jnp.maximum(square - mean**2, 0.0))
        if m.normalise == "max":
            scale = jnp.where(weight > 0, frames.max(axis=(1, 2, 3)), 0.0).max() - mean
        known = {"mean": mean, "scale": jnp.where(scale > 1e-3, scale, 1.0)}
        if m.landmarks:
            corner = (jnp.array(store.frames.shape[2:0:-1]) - size) // 2
            present = jnp.isfinite(store.landmarks).all(axis=(1, 2))
            points = jnp.where(present[:, None, None], store.landmarks, 0.0)
            shape = jnp.einsum("n,nij->ij", _shares(mask[clip] & present), points) - corner
            known["shape"] = jnp.where((mask[clip] & present).any(), shape, (size - 1) / 2)
        if m.flow:
            fields = augment.center(store.motion["flow_pairs"], size)
            clip = jnp.searchsorted(store.motion["flow_pairs_start"], jnp.arange(len(fields)), side="right") - 1
            flat = fields.reshape(len(fields), -1).astype(jnp.float32)
            known["flow"] = (_shares(mask[clip]) @ flat).reshape(size, size, 2)
        return known

    def measures(self, outputs: Outputs, batch: Batch) -> Mapping[str, jax.Array]:
        """Errors of flow and landmarks and of what needs no network, on the same clips.

        epe, epe_moving: mean |O^ - O| over pixels and pairs, all of them or those whose target moves by at least
        `model.moving_px`, in pixels; *_zero: of no flow; *_mean: of the mean flow of the training persons;
        *_translation: of one shift a pair, fitted to the two frames alone (`translation`): what the head does.
        epe_face, epe_face_zero: the same after each field has lost its mean, so that no shift of the head is left.
        nme: mean point error over the distance of the eye centres; nme_mean: of the training persons' mean shape;
        nme_failure: share of frames with an nme over 0.1. Targets are TV-L1 flow and given landmarks: on recorded
        clips these measure imitation.
        """
        found: dict[str, jax.Array] = {}
        if "flow" in outputs:
            target = batch["flow"]
            moving = jnp.linalg.norm(target, axis=-1) >= self.settings.model.moving_px
            shift = translation(batch["frames"])[:, :, None, None]
            several = {"": outputs["flow"], "_zero": jnp.zeros_like(target), "_mean": outputs["mean_flow"][:, None]}
            for name, flow in (several | {"_translation": shift}).items():
                error = jnp.linalg.norm(flow - target, axis=-1)
                found[f"epe{name}"] = error.mean(axis=(1, 2, 3))
                total = moving.sum(axis=(1, 2, 3))
                found[f"epe_moving{name}"] = jnp.where(
                    total > 0, (error * moving).sum(axis=(1, 2, 3)) / jnp.maximum(total, 1), jnp.nan
                )
            for name in ("", "_zero"):
                difference = several[name] - target
                face = jnp.linalg.norm(difference - difference.mean(axis=(2, 3), keepdims=True), axis=-1)
                found[f"epe_face{name}"] = face.mean(axis=(1, 2, 3))
        if "landmarks" in outputs:
            several = {"": outputs["landmarks"], "_mean": outputs["mean_shape"][:, None]}
            errors = {k: landmark_error(v, batch["landmarks"], "l2") for k, v in several.items()}
            found |= {f"nme{k}": jnp.nanmean(v, axis=-1) for k, v in errors.items()}
            error = errors[""]
            found["nme_failure"] = jnp.nanmean(jnp.where(jnp.isnan(error), jnp.nan, error > 0.1), axis=-1)
        return found

    @property
    def finetune(self) -> Stage:
        """All tasks together; with `init_from` everything but the classifier comes from there."""
        settings = self.settings
        m = settings.model
        blocks = ("f5c",) if m.share_f5c else ("f5c_first", "f5c_second")
        carry = ("conv_stack", *(blocks if (m.fcc, m.ccc) != ("none", "none") else ()), "recognition")
        carry += ("flow",) * m.flow + ("landmarks",) * m.landmarks + ("classifier",) * settings.ft.carry_classifier
        return Stage(
            module=build_network(settings, self.n_classes),
            objective=self.objective,
            optimizer=OptimizerSettings(**settings.ft.optimizer),
            carry=carry if settings.init_from else (),
        )

    def objective(self, outputs: Outputs, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """L = L_e + lambda_f L_f + lambda_m L_m, [B] each."""
        ft = self.settings.ft
        recognise = objectives.action_unit_cross_entropy if self.settings.task == "au" else objectives.cross_entropy
        loss, _ = recognise(outputs, batch)
        terms = {"L_e": loss}
        if "flow" in outputs:
            terms["L_f"] = flow_loss(outputs, batch, ft.flow_loss == "released")
            loss = loss + ft.flow_weight * terms["L_f"]
        if "landmarks" in outputs:
            terms["L_m"] = landmark_loss(outputs, batch)
            loss = loss + ft.landmark_weight * terms["L_m"]
        return loss, terms


def _shares(mask: jax.Array) -> jax.Array:
    """Equal weights of what is chosen, that add up to 1; all 0 where nothing is."""
    return mask / jnp.maximum(mask.sum(), 1)


def build_network(settings: Any, n_classes: int) -> MOL:
    """The network of `settings`."""
    return MOL(n_classes, settings.model, jnp.dtype(settings.engine.dtype))


def build(settings: Any, n_classes: int, n_macro_classes: int = 0) -> MOLSystem:
    """The system of `settings`.

    Raises:
      UserError: an unknown option, or sizes that do not fit.
    """
    del n_macro_classes
    m, data = settings.model, settings.data
    one_of("task", settings.task, ("emotion", "au"))
    one_of("model.normalise", m.normalise, ("std", "max", "none"))
    one_of("model.extent", m.extent, ("whole", "onset_offset"))
    one_of("model.stem", m.stem, ("none", "norm_relu"))
    one_of("model.fcc", m.fcc, ("circular", "conv", "none"))
    one_of("model.fcc_kernel", m.fcc_kernel, FCC_KERNELS)
    one_of("model.fcc_ffn", m.fcc_ffn, FFNS)
    one_of("model.ccc", m.ccc, ("channel", "released", "none"))
    one_of("model.landmark_base", m.landmark_base, ("mean", "zero"))
    one_of("model.flow_basis", m.flow_basis, BASES)
    if m.flow and m.flow_basis == "difference" and not m.share_f5c:
        raise UserError(
            "model.flow_basis=difference: found model.share_f5c=False; expected True, since features of two blocks "
            "have no common scale. Set it, or model.flow_basis=pair"
        )
    one_of("ft.flow_loss", settings.ft.flow_loss, ("mean", "released"))
    for field, value, low, high in (
        ("data.crop", data.crop, 16, data.size),
        ("model.frames", m.frames, 4, 1000),
        ("model.sequences", m.sequences, 1, 1000),
        ("model.flow_depth", m.flow_depth, 1, 3),
        ("ft.flow_pairs", settings.ft.flow_pairs, 0, m.frames - 1),
        ("model.k", m.k, 1, scaled(128, m.width, 4) - 1),
    ):
        if not low <= value <= high:
            raise UserError(f"{field}: found {value}; expected {low} to {high}")
    if data.crop % 8:
        raise UserError(f"data.crop: found {data.crop}; expected a multiple of 8, so that trunk and flow have one grid")
    if settings.task == "au" and len(data.action_units) != n_classes:
        raise UserError(f"data.action_units: found {len(data.action_units)} action units; expected {n_classes}")
    return MOLSystem(settings, n_classes)
