"""MIACNet: a micro-action network with a branch for facial action and a branch for facial position.

Li, Niu & Zhao, "From Macro to Micro" (arXiv 2405.16451). Stated there: two branches that decouple where something
happens (position) from what happens (action). The branches themselves are INFERRED: M0 takes those of MMNet (IJCAI
2022), the same first author's predecessor with the same two-branch idea; the other variants are alternatives.

  d = I_2 - I_1            A = action(d)  [B, h, w, D]     never sees I_1 itself, only the difference
  I_1 at h x w pixels      P = position(I_1) [B, h, w, D]  never sees I_2
  T = A + P                logits = Linear(flatten(T))

With width 1 and 224 pixels h = w = 14 and D = 512; the grid is always 1/16 of the image.

An *encoder of frame pairs* is any module `(first, second, train) -> {"action", "position", "map_1", ...}` with action
and position [B, h, w, D] on that grid and attention maps [B, ., ., 1]; `BackboneEncoder` makes one of a plain network.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mer_jax.data import augment
from mer_jax.errors import UserError
from mer_jax.nn.attention import CrossAttentionBlock, Modulation
from mer_jax.nn.continuous_attention import ContinuousAttentionBlock, ConvNorm
from mer_jax.nn.resnet import RESNET18, RESNET34, ResNet
from mer_jax.nn.vit import VisionTransformer
from mer_jax.systems.base import Batch, Outputs

STRIDE = 16  # pixels of the image to one place of the grid
VARIANTS = ("M0", "M1", "M2", "M3", "action_only", "position_only", "concat")
BACKBONES = ("resnet18", "resnet34", "vit_s", "akmnet")
INPUTS = ("diff", "pair")
HEADS = ("flatten", "gap", "gap_ln_dropout")
FUSIONS = {"M2": "cross_attention", "M3": "modulation", "action_only": "action", "position_only": "position"} | {
    "M0": "sum", "M1": "sum", "concat": "action"
}  # fmt: skip


def scaled(channels: int, width: float, multiple: int = 4) -> int:
    """`channels` times `width`, rounded to a positive multiple."""
    return max(multiple, multiple * round(channels * width / multiple))


def grid_channels(width: float) -> int:
    """Channels D of action and position: 512 at width 1."""
    return scaled(512, width, 8)


class ActionBranch(nn.Module):
    """Two convolutions and four continuous-attention blocks (MMNet's main branch).

    Attributes:
      width: factor on the channels 180, 128 | 128, 128, 256, 512.
      dtype: compute type.
    """

    width: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """x [B, 16h, 16w, C] -> (A [B, h, w, D], {"map_1": [B, 8h, 8w, 1], ..., "map_4": [B, h, w, 1]})."""
        x = x.astype(self.dtype)
        x = nn.relu(ConvNorm(scaled(180, self.width), 3, 2, dtype=self.dtype, name="stem_1")(x, train))
        x = nn.relu(ConvNorm(scaled(128, self.width), 3, 1, dtype=self.dtype, name="stem_2")(x, train))
        attention, maps = None, {}
        channels = [scaled(c, self.width) for c in (128, 128, 256)] + [grid_channels(self.width)]
        for i, (features, stride) in enumerate(zip(channels, (1, 2, 2, 2), strict=True), start=1):
            block = ContinuousAttentionBlock(features, stride, dtype=self.dtype, name=f"block_{i}")
            x, attention = block(x, attention, train)
            maps[f"map_{i}"] = attention.astype(jnp.float32)
        return x.astype(jnp.float32), maps


class PositionBranch(nn.Module):
    """A ViT on the first frame shrunk to one pixel a grid place (MMNet's position calibration).

    So small a frame keeps the layout of the face and loses the texture of the person. INFERRED: the shrinking is
    antialiased bilinear.

    Attributes:
      width: factor on the 512 channels.
      depth: number of blocks.
      mlp_ratio: hidden width of the MLPs.
      drop_path: probability of stochastic depth.
      dtype: compute type.
    """

    width: float = 1.0
    depth: int = 2
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, first: jax.Array, train: bool) -> jax.Array:
        """first [B, 16h, 16w, C] -> P [B, h, w, D]."""
        batch, height, width, channels = first.shape
        small = jax.image.resize(first, (batch, height // STRIDE, width // STRIDE, channels), "linear")
        vit = VisionTransformer(
            1, grid_channels(self.width), self.depth, 4, self.mlp_ratio, self.drop_path,
            final_norm=False, dtype=self.dtype, name="vit",
        )  # fmt: skip
        return vit(small, train).astype(jnp.float32)


class ResNetPosition(nn.Module):
    """Variant M1: ResNet-18 up to its third stage on the full-resolution first frame, then 1x1 to D channels."""

    width: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, first: jax.Array, train: bool) -> jax.Array:
        """first [B, 16h, 16w, C] -> P [B, h, w, D]."""
        resnet = ResNet(RESNET18[:3], scaled(64, self.width), dtype=self.dtype, name="resnet")
        x = resnet(first.astype(self.dtype), train)
        return nn.Dense(grid_channels(self.width), dtype=self.dtype, name="project")(x).astype(jnp.float32)


class MIACNet(nn.Module):
    """Encoder of frame pairs with an action and a position branch.

    `action_only` and `position_only` leave the other feature at 0; `concat` is one stream on the stacked frames
    [I_1; I_2], whose feature is called action (the decoupling ablation).

    Attributes:
      variant: one of VARIANTS.
      width: factor on all channels.
      position_depth: see PositionBranch, as are the next two.
      position_mlp: hidden width of its MLPs.
      position_drop_path: its stochastic depth.
      dtype: compute type; features are float32.
    """

    variant: str = "M0"
    width: float = 1.0
    position_depth: int = 2
    position_mlp: float = 4.0
    position_drop_path: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, first: jax.Array, second: jax.Array, train: bool) -> dict[str, jax.Array]:
        """Normalised frames [B, 16h, 16w, C] -> action, position [B, h, w, D] and map_1 .. map_4."""
        batch, height, width, _ = first.shape
        nothing = jnp.zeros((batch, height // STRIDE, width // STRIDE, grid_channels(self.width)))
        maps: dict[str, jax.Array] = {}
        action, position = nothing, nothing
        if self.variant != "position_only":
            seen = jnp.concatenate([first, second], axis=-1) if self.variant == "concat" else second - first
            action, maps = ActionBranch(self.width, dtype=self.dtype, name="action")(seen, train)
        if self.variant == "M1":
            position = ResNetPosition(self.width, dtype=self.dtype, name="position")(first, train)
        elif self.variant not in ("action_only", "concat"):
            position = PositionBranch(
                self.width, self.position_depth, self.position_mlp, self.position_drop_path,
                dtype=self.dtype, name="position",
            )(first, train)  # fmt: skip
        return {"action": action, "position": position, **maps}


class BackboneEncoder(nn.Module):
    """Encoder of frame pairs made of a plain network: action = 1x1(backbone), position = 0.

    `akmnet` is AKMNet's backbone, ResNet-18 with a 5x5 stem on grey frames, its last stage kept at stride 16. A pair
    has no frames to choose from, so nothing else of AKMNet is in it.

    Attributes:
      backbone: one of BACKBONES.
      input: diff (the difference image, free of identity) or pair (the stacked frames).
      width: factor on all channels.
      dtype: compute type; features are float32.
    """

    backbone: str = "resnet18"
    input: str = "diff"
    width: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, first: jax.Array, second: jax.Array, train: bool) -> dict[str, jax.Array]:
        """Normalised frames [B, 16h, 16w, C] -> action [B, h, w, D], position 0."""
        x = second - first if self.input == "diff" else jnp.concatenate([first, second], axis=-1)
        network: nn.Module
        if self.backbone == "vit_s":
            network = VisionTransformer(STRIDE, scaled(384, self.width, 24), dtype=self.dtype, name="backbone")
        else:
            stages, stem = RESNET34 if self.backbone == "resnet34" else RESNET18, 7
            if self.backbone == "akmnet":
                frames = [f.mean(axis=-1, keepdims=True) for f in jnp.split(x, 1 if self.input == "diff" else 2, -1)]
                x, stem = jnp.concatenate(frames, axis=-1), 5
            network = ResNet(stages, scaled(64, self.width), dtype=self.dtype, stem=stem, name="backbone")
        x = network(x.astype(self.dtype), train)
        action = nn.Dense(grid_channels(self.width), dtype=self.dtype, name="project")(x).astype(jnp.float32)
        return {"action": action, "position": jnp.zeros_like(action)}


class Fusion(nn.Module):
    """(A, P) -> T, all [B, h, w, D].

    sum: A + P (M0, M1); cross_attention: A asks P, `depth` zero-initialised residual layers of 8 heads (M2);
    modulation: LN(A) (1 + s(P)) + b(P) with s and b zero at the start (M3; INFERRED, as in adaLN-Zero);
    action: A; position: P.
    """

    kind: str = "sum"
    depth: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, action: jax.Array, position: jax.Array) -> jax.Array:
        """A, P [B, h, w, D] -> T [B, h, w, D]."""
        if self.kind == "sum":
            return action + position
        if self.kind == "position":
            return position
        if self.kind == "cross_attention":
            batch, height, width, dim = action.shape
            x, context = (t.reshape(batch, height * width, dim) for t in (action, position))
            for i in range(self.depth):
                x = CrossAttentionBlock(8, dtype=self.dtype, name=f"layer_{i}")(x, context)
            return x.reshape(action.shape).astype(jnp.float32)
        if self.kind == "modulation":
            scale, shift = Modulation(2, action.shape[-1], dtype=self.dtype, name="modulation")(position)
            norm = nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False, dtype=self.dtype, name="norm")
            return (norm(action) * (1 + scale) + shift).astype(jnp.float32)
        return action


class Head(nn.Module):
    """Fused features [B, h, w, D] -> logits [B, n_outputs], float32.

    Attributes:
      n_outputs: classes, or action units.
      kind: flatten (MMNet: one linear layer on all places), gap (mean over places), gap_ln_dropout.
      dropout: rate for gap_ln_dropout.
      dtype: compute type.
    """

    n_outputs: int
    kind: str = "flatten"
    dropout: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, h, w, D] -> [B, n_outputs]."""
        x = x.reshape(x.shape[0], -1) if self.kind == "flatten" else x.mean(axis=(1, 2))
        if self.kind == "gap_ln_dropout":
            x = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.n_outputs, dtype=self.dtype, name="linear")(x).astype(jnp.float32)


class Recogniser(nn.Module):
    """Encoder of frame pairs, fusion and head.

    Attributes:
      encoder: encoder of frame pairs.
      fusion: (A, P) -> T.
      head: T -> logits.
      normalisation: see augment.normalise.
    """

    encoder: nn.Module
    fusion: nn.Module
    head: nn.Module
    normalisation: str = "imagenet"

    def __call__(self, batch: Batch, train: bool) -> Outputs:
        """Batch with first, second [B, H, W, C] in 0..1 -> logits [B, n], action, position and attention maps."""
        first, second = (augment.normalise(batch[name], self.normalisation) for name in ("first", "second"))
        features = self.encoder(first, second, train)
        return {"logits": self.classify(features["action"], features["position"], train), **features}

    def classify(self, action: jax.Array, position: jax.Array, train: bool = False) -> jax.Array:
        """Features [B, h, w, D] -> logits [B, n]; what Grad-CAM differentiates (`apply(..., method="classify")`)."""
        return self.head(self.fusion(action, position), train)


def build_encoder(settings: Any) -> nn.Module:
    """The encoder that `settings.model` asks for, see systems.ma2mi for the fields.

    Raises:
      UserError: an unknown name, or a size that is no multiple of 16.
    """
    model, dtype, size = settings.model, jnp.dtype(settings.engine.dtype), settings.data.size
    if size % STRIDE or size <= 0:
        raise UserError(f"data.size: found {size}; expected a multiple of {STRIDE} pixels, the stride of the features")
    if model.encoder == "miacnet":
        one_of("model.variant", model.variant, VARIANTS)
        return MIACNet(
            model.variant, model.width, model.position_depth, model.position_mlp, model.position_drop_path, dtype
        )
    one_of("model.encoder", model.encoder, ("miacnet", *BACKBONES))
    one_of("model.input", model.input, INPUTS)
    return BackboneEncoder(model.encoder, model.input, model.width, dtype)


def build_recogniser(settings: Any, n_outputs: int) -> Recogniser:
    """Encoder, fusion and fresh head for `n_outputs` classes (or action units); raises UserError as build_encoder."""
    model, dtype = settings.model, jnp.dtype(settings.engine.dtype)
    encoder = build_encoder(settings)
    one_of("model.head", model.head, HEADS)
    kind = FUSIONS[model.variant] if model.encoder == "miacnet" else "action"
    head = Head(n_outputs, model.head, model.head_dropout, dtype)
    return Recogniser(encoder, Fusion(kind, model.fusion_depth, dtype), head, settings.data.normalise)


def one_of(field: str, found: str, known: tuple[str, ...]) -> None:
    """Raises UserError where a settings field holds none of the known words."""
    if found not in known:
        raise UserError(f"{field}: found {found!r}; expected one of {', '.join(known)}")
