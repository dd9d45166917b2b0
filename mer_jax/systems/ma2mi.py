"""MA2MI: micro-expression recognition from pre-training on macro-expressions, without their labels.

Li, Niu & Zhao, "From Macro to Micro: Boosting micro-expression recognition via pre-training on macro-expression
videos" (arXiv 2405.16451). Stated: an encoder of small facial movements is pre-trained by reconstructing a near-future
frame of a macro-expression video in a latent space, then fine-tuned on micro-expressions. The paper's text was only
available in summary, so everything below that level is INFERRED; each choice is a settings field.

  z_t, z_{t+k}       standardised latents of two near frames (a frozen transform)
  A, P               action and position of the pair (any encoder of frame pairs)
  c_i = Linear([W_b A_i; P_i])        condition of latent token i, through a bottleneck W_b
  z^_{t+k} = z_t + G(z_t; c)          transformer decoder with token-wise adaLN
  L = mean |z^_{t+k} - z_{t+k}|^2

The decoder and W_b are dropped after pre-training; the encoder is carried over with its statistics, the head is fresh.

Settings read (in brackets a value of the full-size network; configs/ma2mi.py says what a run uses):
  system ["ma2mi"]; task ["emotion"] emotion | au
  engine.dtype ["float32"] float32 | bfloat16: compute type; parameters, features and latents stay float32
  data.size [64] pixels, a multiple of 16; data.normalise ["imagenet"] see data.augment
  data.action_units [()] the FACS numbers that are recognised where task is au
  model.encoder ["miacnet"] miacnet | resnet18 | resnet34 | vit_s | akmnet
  model.variant ["M0"] M0 | M1 | M2 | M3 | action_only | position_only | concat (miacnet only)
  model.input ["diff"] diff | pair (other encoders)
  model.width [0.25] factor on all channels; 1.0 is the paper's size
  model.head ["flatten"] flatten | gap | gap_ln_dropout; model.head_dropout [0.5]
  model.position_depth [2], model.position_mlp [4.0], model.position_drop_path [0.0]: blocks of the position branch
  model.fusion_depth [1] cross-attention layers of M2
  pre.objective ["reconstruct"] reconstruct | macro_cls | none
  pre.task ["reconstruct"] reconstruct (action from x_{t+k} - x_t) | forecast (action from x_t - x_{t-k})
  pre.latent ["dct"] dct | ae | pixel
  pre.cond ["token"] token | global | cross_attn | concat
  pre.bottleneck [64] rows of W_b
  pre.dec_dim [384], pre.dec_depth [6], pre.dec_heads [6]: the decoder
  pre.shuffle_actions [False] control: train with the actions of other pairs
  pre.motion_weight [0.0] m > 0 weighs latent entry i by 1 + m |change_i| / max |change|
  pre.ae_steps [2000], pre.ae_batch [32], pre.ae_learning_rate [1e-3]: training of the autoencoder latent
  pre.augment {flip_p [0.5], rotate_deg [3.0], shift_px [4], brightness [0.1], contrast [0.1]}
  pre.optimizer: fields of training.optimizer.OptimizerSettings
  ft.jitter [0.0375] share of onset..apex by which both frames move inwards in training
  ft.augment: as pre.augment
  ft.optimizer: fields of OptimizerSettings; groups (("encoder", factor),) slow the pre-trained encoder
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mer_jax.data import augment, sampling
from mer_jax.data.store import ClipStore
from mer_jax.errors import UserError
from mer_jax.nn import latent as latents
from mer_jax.nn.autoencoder import ConvAutoencoder, reconstruction_loss
from mer_jax.nn.decoder import CONDITIONS, LatentDecoder
from mer_jax.systems import ma2mi_health, objectives
from mer_jax.systems.base import Batch, Defaults, Needs, Objective, Outputs, Stage
from mer_jax.systems.miacnet import build_encoder, build_recogniser, one_of
from mer_jax.training.optimizer import OptimizerSettings

OBJECTIVES = ("reconstruct", "macro_cls", "none")
TASKS = ("reconstruct", "forecast")
ACTIONS = ("own", "shuffled", "null")


class Pretext(nn.Module):
    """Reconstruction of a near-future latent from the first latent, the action and the position.

    Attributes:
      encoder: encoder of frame pairs.
      latent: frames -> standardised latents (frozen).
      decoder: (tokens, condition) -> change of the tokens.
      bottleneck: channels that the action is squeezed to.
      task: reconstruct or forecast.
      shuffle_actions: the control of training with the actions of other pairs.
      normalisation: see augment.normalise.
      dtype: compute type.
    """

    encoder: nn.Module
    latent: nn.Module
    decoder: nn.Module
    bottleneck: int = 64
    task: str = "reconstruct"
    shuffle_actions: bool = False
    normalisation: str = "imagenet"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, batch: Batch, train: bool, action: str = "own") -> Outputs:
        """Predicts the latent of the second frame.

        Args:
          batch: first, second (and before, for `forecast`) [B, H, W, C] in 0..1.
          train: whether BatchNorm uses the batch.
          action: own; shuffled: the action of the pair half a batch away; null: of a difference image of 0.

        Returns:
          latent (of the first frame), target, prediction [B, ...]; action, position [B, h, w, D]; attention maps.
        """
        first, second = batch["first"], batch["second"]
        seen = (batch["before"], first) if self.task == "forecast" else (first, second)
        if action == "null":
            seen = (seen[0], seen[0])
        features = self.encoder(*(augment.normalise(x, self.normalisation) for x in seen), train)
        own = features["action"]
        if action == "shuffled" or (train and self.shuffle_actions):
            # half a batch away: a stream may put pairs of one clip side by side
            own = jnp.roll(own, own.shape[0] // 2, axis=0)
        code = nn.Dense(self.bottleneck, use_bias=False, dtype=self.dtype, name="bottleneck")(own)
        condition = jnp.concatenate([code, features["position"].astype(code.dtype)], axis=-1)
        z, target = self.latent(first), self.latent(second)
        tokens = latents.patchify(z, own.shape[1:3])
        change = latents.unpatchify(self.decoder(tokens, condition), z.shape)
        return {"latent": z, "target": target, "prediction": z + change, **features}


def latent_mse(outputs: Outputs, batch: Batch, motion_weight: float = 0.0) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Squared error of the predicted latent [B]; optionally weighted towards what moves (see `pre.motion_weight`)."""
    del batch
    error = (outputs["prediction"] - outputs["target"]) ** 2
    plain = error.mean(axis=(1, 2, 3))
    terms = {"latent_mse": plain}
    if not motion_weight:
        return plain, terms
    motion = jnp.abs(outputs["target"] - outputs["latent"])
    weight = 1 + motion_weight * motion / jnp.maximum(motion.max(axis=(1, 2, 3), keepdims=True), 1e-12)
    return (weight * error).mean(axis=(1, 2, 3)), terms


@dataclasses.dataclass(frozen=True)
class MA2MI(Defaults):
    """The system: pretext on macro-expressions, then recognition. See systems.base.System.

    Attributes:
      settings: see the head of this file.
      n_classes: classes, or action units where task is au.
      n_macro_classes: classes of the macro-expressions, for the objective macro_cls.
    """

    settings: Any
    n_classes: int
    n_macro_classes: int = 0

    oracle_inputs = "boundaries+apex"

    @property
    def needs(self) -> Needs:
        """Colour frames at the network's size."""
        return Needs(size=self.settings.data.size)

    def view(self, store: ClipStore, index: jax.Array, key: jax.Array, train: bool) -> Batch:
        """Onset and apex frame: {"first", "second": float32 [size, size, C] in 0..1, "label" or "action_units"}.

        In training both key frames are jittered inwards and one augmentation moves both frames alike.
        """
        onset, apex, offset = store.onset[index], store.apex[index], store.offset[index]
        ft, size = self.settings.ft, self.settings.data.size
        if train:
            key_frames, transform = jax.random.split(key)
            onset, apex, _ = sampling.jitter_key_frames(key_frames, onset, apex, offset, ft.jitter)
        else:
            apex = sampling.known_apex(onset, apex, offset)
        rows = store.start[index] + jnp.stack([onset, apex])
        frames = store.frames[rows].astype(jnp.float32) / 255
        if train:
            frames = augment.apply(frames, augment.draw(transform, ft.augment), size, store.modality[index])
        else:
            frames = augment.center(frames, size)
        example = {"first": frames[0], "second": frames[1]}
        if self.settings.task == "au":
            units = np.array(self.settings.data.action_units, np.int32)
            return example | {"action_units": store.action_units[index][units]}
        return example | {"label": store.label[index]}

    def pretrain_view(self, example: Batch, key: jax.Array, train: bool) -> Batch:
        """Crops and augments one example of the pair stream (without batch axis); everything else passes through.

        Args:
          example: first, second (and before) float32 [H, W, C] in 0..1, and any other fields.
          key: random key of the example.
          train: whether to augment; the transform is the same for all frames of the example.
        """
        names = [name for name in ("before", "first", "second") if name in example]
        frames, size = jnp.stack([example[name] for name in names]), self.settings.data.size
        if train:
            transform = augment.draw(key, self.settings.pre.augment)
            frames = augment.apply(frames, transform, size, example.get("modality", augment.RGB))
        else:
            frames = augment.center(frames, size)
        return {**example, **dict(zip(names, frames, strict=True))}

    @property
    def finetune(self) -> Stage:
        """Recognition of micro-expressions; the encoder comes from pre-training, the head is fresh."""
        au = self.settings.task == "au"
        return Stage(
            module=build_recogniser(self.settings, self.n_classes),
            objective=objectives.action_unit_cross_entropy if au else objectives.cross_entropy,
            optimizer=OptimizerSettings(**self.settings.ft.optimizer),
            carry=("encoder",) if self.pretrain else (),
        )

    @property
    def pretrain(self) -> Stage | None:
        """The pretext (reconstruct), supervised macro-expression recognition (macro_cls), or None."""
        pre = self.settings.pre
        if pre.objective == "none":
            return None
        module: nn.Module
        objective: Objective
        if pre.objective == "macro_cls":
            module, objective = build_recogniser(self.settings, self.n_macro_classes), objectives.cross_entropy
        else:
            module = build_pretext(self.settings)
            objective = functools.partial(latent_mse, motion_weight=pre.motion_weight)
        return Stage(module, objective, OptimizerSettings(**pre.optimizer))

    @property
    def scores_pretraining(self) -> bool:  # type: ignore[override]
        """The pretext is scored; recognition of macro-expressions has its own loss."""
        return bool(self.settings.pre.objective == "reconstruct")

    def fit_constants(self, batches: Iterable[Batch], key: jax.Array) -> dict[str, Any]:
        """Fits what is frozen during pre-training: latent mean and deviation, and the autoencoder's weights.

        Host code, called once before pre-training; every process must be given the same batches.

        Args:
          batches: batches of the pair stream, macro training persons only, a few thousand frames in all; frames as
            `pretrain_view` leaves them.
          key: random key, for the autoencoder.

        Returns:
          The collection "constants" of the pre-training module; empty where it has none.

        Raises:
          UserError: no batches.
        """
        if self.settings.pre.objective != "reconstruct":
            return {}
        chunks = ((np.asarray(b[name], np.float32), _accepted(b)) for b in batches for name in ("first", "second"))
        return {"latent": _fit_latent(build_latent(self.settings), chunks, self.settings.pre, key)}

    def difference_and_change(self, variables: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """What the linear baseline of the health metrics reads and predicts, see ma2mi_health."""
        constants, task = variables["constants"]["latent"], self.settings.pre.task
        return ma2mi_health.difference_and_change(build_latent(self.settings), constants, batch, task)

    def health_errors(self, variables: Any, batch: Batch) -> dict[str, jax.Array]:
        """Latent errors of held-out pairs [B] (traced), for `ma2mi_health.scores`; see there."""
        return ma2mi_health.errors(build_pretext(self.settings), variables, batch)


def build_latent(settings: Any) -> latents.Latent:
    """The latent that `settings.pre.latent` names; raises UserError for an unknown one."""
    one_of("pre.latent", settings.pre.latent, latents.LATENTS)
    return latents.Latent(settings.pre.latent)


def build_pretext(settings: Any) -> Pretext:
    """The pre-training network of `settings.pre`; raises UserError for an unknown option."""
    pre, dtype = settings.pre, jnp.dtype(settings.engine.dtype)
    one_of("pre.task", pre.task, TASKS)
    one_of("pre.cond", pre.cond, CONDITIONS)
    if pre.dec_dim % (2 * pre.dec_heads) or pre.dec_dim % 4:
        raise UserError(f"pre.dec_dim: found {pre.dec_dim}; expected a multiple of 4 and of 2 x {pre.dec_heads} heads")
    decoder = LatentDecoder(pre.dec_dim, pre.dec_depth, pre.dec_heads, condition_by=pre.cond, dtype=dtype)
    return Pretext(
        build_encoder(settings), build_latent(settings), decoder, pre.bottleneck, pre.task,
        pre.shuffle_actions, settings.data.normalise, dtype,
    )  # fmt: skip


def build(settings: Any, n_classes: int, n_macro_classes: int = 0) -> MA2MI:
    """The system of `settings`.

    Raises:
      UserError: an unknown option, or sizes that do not fit.
    """
    one_of("task", settings.task, ("emotion", "au"))
    one_of("pre.objective", settings.pre.objective, OBJECTIVES)
    if settings.task == "au" and len(settings.data.action_units) != n_classes:
        raise UserError(
            f"data.action_units: found {len(settings.data.action_units)} action units; expected {n_classes}"
        )
    pretrained_here = not getattr(settings, "init_from", "")  # else the macro classes do not matter
    if pretrained_here and settings.pre.objective == "macro_cls" and n_macro_classes < 2:
        raise UserError(f"pre.objective=macro_cls: found {n_macro_classes} macro classes; expected at least 2")
    system = MA2MI(settings, n_classes, n_macro_classes)
    _ = system.finetune, system.pretrain  # raises now what would be raised later
    return system


def _accepted(batch: Batch) -> np.ndarray:
    """Which pairs of a batch count, bool [B]."""
    return np.asarray(batch["weight"]) > 0 if "weight" in batch else np.ones(len(batch["first"]), bool)


def _fit_latent(
    module: latents.Latent, chunks: Iterable[tuple[np.ndarray, np.ndarray]], pre: Any, key: jax.Array
) -> dict[str, Any]:
    """Constants of a latent for chunks (frames [B, H, W, C], bool [B]): the autoencoder first, mean and deviation then.

    Only the autoencoder needs all frames at once; they are kept as bytes.
    """
    n = module.channels if module.kind == "pixel" else 4
    constants: dict[str, Any] = {"mean": jnp.zeros(n), "std": jnp.ones(n)}
    if module.kind == "ae":
        stored = [(np.rint(frames * 255).astype(np.uint8), kept) for frames, kept in chunks]
        if stored:
            constants["autoencoder"] = fit_autoencoder(
                ConvAutoencoder(module.features, channels=module.channels),
                np.concatenate([frames[kept] for frames, kept in stored]),
                key, steps=pre.ae_steps, batch=pre.ae_batch, learning_rate=pre.ae_learning_rate,
            )  # fmt: skip
        chunks = ((np.asarray(frames, np.float32) / 255, kept) for frames, kept in stored)
    encode = jax.jit(lambda x: module.apply({"constants": constants}, x, method="raw"))
    total, square, count = np.zeros(n), np.zeros(n), 0
    for frames, kept in chunks:
        z = np.asarray(encode(jnp.asarray(frames)), np.float64)[kept].reshape(-1, n)
        total, square, count = total + z.sum(axis=0), square + (z**2).sum(axis=0), count + len(z)
    if not count:
        raise UserError("pre-training: found no frame pairs; expected at least one to standardise latents")
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 1e-12))
    return constants | {"mean": jnp.asarray(mean, jnp.float32), "std": jnp.asarray(std, jnp.float32)}


def fit_autoencoder(
    module: ConvAutoencoder, frames: np.ndarray, key: jax.Array, steps: int, batch: int, learning_rate: float
) -> Any:
    """Trains the autoencoder on uint8 frames [n, H, W, C] with L1 + 0.1 gradient loss (Adam, cosine to 0).

    Returns:
      Its parameters.
    """
    params = jax.jit(module.init)(key, jnp.zeros((1, *frames.shape[1:])))["params"]
    tx = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    @jax.jit
    def step(params: Any, state: Any, x: jax.Array) -> tuple[Any, Any]:
        def loss(p: Any) -> jax.Array:
            return reconstruction_loss(jnp.asarray(module.apply({"params": p}, x)), x).mean()

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    rows = np.asarray(jax.random.randint(jax.random.fold_in(key, 1), (steps, batch), 0, len(frames)))
    state = tx.init(params)
    for chosen in rows:
        params, state = step(params, state, jnp.asarray(frames[chosen], jnp.float32) / 255)
    return params
