"""Local and global relational aggregators: a transformer that is convolutional near and attentive far.

FDP (Shao et al., TOMM 2025): a plain convolution, then stages of patch embedding, local relational aggregators (LRA)
and global relational aggregators (GRA), then a head. The released code is an edited Next-ViT (Li et al., arXiv
2207.05501); what the available text leaves open follows it and is marked INFERRED.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.nn.attention import DropPath
from mer_jax.nn.convolution import Conv3x3

LOCALS = ("grouped", "dense")
HEADS = ("mean", "places")
MIX = 0.75  # share of a global aggregator's channels that attention makes, the rest is the convolution path
truncated = nn.initializers.truncated_normal(0.02)  # the released code's, for its width


def _norm(name: str, train: bool, dtype: Any) -> nn.BatchNorm:
    return nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)


def average_pool(x: jax.Array, size: int) -> jax.Array:
    """Means over size x size windows, [B, H, W, C] -> [B, ceil(H/size), ceil(W/size), C]; a cut window has fewer."""
    batch, height, width, channels = x.shape
    rows, columns = -(-height // size), -(-width // size)
    padded = jnp.pad(x, ((0, 0), (0, rows * size - height), (0, columns * size - width), (0, 0)))
    sums = padded.reshape(batch, rows, size, columns, size, channels).sum(axis=(2, 4))
    count = [np.minimum(size, side - size * np.arange(n)) for side, n in ((height, rows), (width, columns))]
    return sums / jnp.asarray(np.outer(*count)[:, :, None], x.dtype)


class PatchEmbed(nn.Module):
    """2x2 average pooling where the stride is 2; 1x1 convolution and BatchNorm where size or channels change.

    Attributes:
      features: output channels F.
      stride: 1 or 2.
      kernel_init: of the convolution.
      dtype: compute type.
    """

    features: int
    stride: int = 1
    kernel_init: nn.initializers.Initializer = truncated
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, ceil(H/stride), ceil(W/stride), F]."""
        if self.stride == 1 and x.shape[-1] == self.features:
            return x
        if self.stride == 2:
            x = average_pool(x, 2)
        x = nn.Dense(self.features, use_bias=False, kernel_init=self.kernel_init, dtype=self.dtype, name="conv")(x)
        return jnp.asarray(_norm("norm", train, self.dtype)(x))


class Mlp(nn.Module):
    """1x1 convolution, ReLU, 1x1 convolution with biases.

    Attributes:
      ratio: of the hidden to the input channels; the hidden ones are rounded to a multiple of 32.
      kernel_init: of both convolutions.
      dtype: compute type.
    """

    ratio: float
    kernel_init: nn.initializers.Initializer = truncated
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> the same shape."""
        features = x.shape[-1]
        hidden = max(32, int(features * self.ratio + 16) // 32 * 32)
        x = nn.Dense(hidden, kernel_init=self.kernel_init, dtype=self.dtype, name="conv1")(x)
        return nn.Dense(features, kernel_init=self.kernel_init, dtype=self.dtype, name="conv2")(nn.relu(x))


class HeadConvolution(nn.Module):
    """Multi-head convolution, [B, H, W, C] -> the same shape.

    grouped: the heads' own 3x3 convolutions, BatchNorm, ReLU, then a 1x1 convolution that mixes the heads. dense: one
    bias-free 3x3 convolution over all channels and nothing else, as released.

    Attributes:
      kind: grouped or dense.
      head_dim: channels of a head.
      form: of the 3x3 convolution, see nn.convolution.
      kernel_init: of the convolutions.
      dtype: compute type.
    """

    kind: str = "grouped"
    head_dim: int = 8
    form: str = "auto"
    kernel_init: nn.initializers.Initializer = truncated
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        features = x.shape[-1]
        groups = features // self.head_dim if self.kind == "grouped" else 1
        x = Conv3x3(features, groups, False, self.form, self.dtype, self.kernel_init, name="conv")(x)
        if self.kind == "dense":
            return x
        x = nn.relu(_norm("norm", train, self.dtype)(x))
        dense = nn.Dense(features, use_bias=False, kernel_init=self.kernel_init, dtype=self.dtype, name="project")
        return jnp.asarray(dense(x))


class LocalAggregator(nn.Module):
    """LRA: x = PE(x); x = x + DropPath(heads(x)); x = x + DropPath(MLP(BN(x))).

    Attributes:
      features: output channels C.
      stride: of the patch embedding.
      kind: of the head convolution, grouped or dense.
      head_dim: channels of a head.
      mlp_ratio: of the MLP.
      drop_path: probability of stochastic depth.
      form: of the 3x3 convolution, see nn.convolution.
      kernel_init: of the kernels.
      dtype: compute type.
    """

    features: int
    stride: int = 1
    kind: str = "grouped"
    head_dim: int = 8
    mlp_ratio: float = 3.0
    drop_path: float = 0.0
    form: str = "auto"
    kernel_init: nn.initializers.Initializer = truncated
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, D] -> [B, ceil(H/stride), ceil(W/stride), C]."""
        init, dtype = self.kernel_init, self.dtype
        x = PatchEmbed(self.features, self.stride, init, dtype, name="patch_embed")(x, train)
        heads = HeadConvolution(self.kind, self.head_dim, self.form, init, dtype, name="mhca")
        x = x + DropPath(self.drop_path, name="drop_1")(heads(x, train), train)
        mlp = Mlp(self.mlp_ratio, init, dtype, name="mlp")
        return x + DropPath(self.drop_path, name="drop_2")(mlp(_norm("norm", train, dtype)(x)), train)


class ReducedAttention(nn.Module):
    """Multi-head self-attention whose keys and values come from an average-pooled map (E-MHSA of Next-ViT).

    INFERRED: pooling over square windows, then BatchNorm; the released (unused) block flattens the map first and so
    pools over rows of it.

    Attributes:
      head_dim: channels of a head.
      reduction: side of a pooling window; 1 = neither pooling nor BatchNorm.
      kernel_init: of the four projections, which have biases.
      dtype: compute type.
    """

    head_dim: int = 8
    reduction: int = 1
    kernel_init: nn.initializers.Initializer = truncated
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> the same shape."""
        batch, height, width, features = x.shape

        def project(name: str, tokens: jax.Array) -> jax.Array:
            dense = nn.Dense(features, kernel_init=self.kernel_init, dtype=self.dtype, name=name)
            return dense(tokens).reshape(batch, -1, features // self.head_dim, self.head_dim)

        context = x
        if self.reduction > 1:
            context = _norm("norm", train, self.dtype)(average_pool(x, self.reduction))
        y = jax.nn.dot_product_attention(project("q", x), project("k", context), project("v", context))
        out = nn.Dense(features, kernel_init=self.kernel_init, dtype=self.dtype, name="proj")
        return jnp.asarray(out(y.reshape(batch, height, width, features)))


class GlobalAggregator(nn.Module):
    """GRA: attention makes three quarters of the channels, convolution of its result the last quarter.

    x = PE(x); x = x + DropPath(attention(BN(x))); y = PE'(x); y = y + DropPath(heads(y)); z = [x; y];
    z = z + DropPath(MLP(BN(z))). INFERRED: Next-ViT's block of this kind, with the head convolution of the LRA; its
    stochastic depth is shared out 3:1 between attention and convolution.

    Attributes:
      features: channels C of the attention, a multiple of 3 head_dim; the result has 4 C / 3.
      reduction: of the keys and values, see ReducedAttention.
      kind: of the head convolution, grouped or dense.
      head_dim: channels of a head.
      mlp_ratio: of the MLP.
      drop_path: probability of stochastic depth.
      form: of the 3x3 convolution, see nn.convolution.
      kernel_init: of the kernels.
      dtype: compute type.
    """

    features: int
    reduction: int = 1
    kind: str = "grouped"
    head_dim: int = 8
    mlp_ratio: float = 2.0
    drop_path: float = 0.0
    form: str = "auto"
    kernel_init: nn.initializers.Initializer = truncated
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, D] -> [B, H, W, 4 C / 3]."""
        init, dtype = self.kernel_init, self.dtype
        x = PatchEmbed(self.features, 1, init, dtype, name="patch_embed")(x, train)
        attention = ReducedAttention(self.head_dim, self.reduction, init, dtype, name="mhsa")
        branch = attention(_norm("norm1", train, dtype)(x), train)
        x = x + DropPath(MIX * self.drop_path, name="drop_1")(branch, train)
        y = PatchEmbed(self.features // 3, 1, init, dtype, name="projection")(x, train)
        heads = HeadConvolution(self.kind, self.head_dim, self.form, init, dtype, name="mhca")
        y = y + DropPath((1 - MIX) * self.drop_path, name="drop_2")(heads(y, train), train)
        z = jnp.concatenate([x, y], axis=-1)
        mlp = Mlp(self.mlp_ratio, init, dtype, name="mlp")
        return z + DropPath(self.drop_path, name="drop_3")(mlp(_norm("norm2", train, dtype)(z)), train)


class ReleasedStem(nn.Module):
    """Four 3x3 convolutions with BatchNorm and ReLU, strides 2, 1, 1, 2: [B, H, W, C] -> [B, H/4, W/4, features]."""

    features: int = 64
    form: str = "auto"
    kernel_init: nn.initializers.Initializer = truncated
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, ceil(H/4), ceil(W/4), features]; between the ends half as many channels once."""
        widths = (self.features, self.features // 2, self.features, self.features)
        for i, (features, stride) in enumerate(zip(widths, (2, 1, 1, 2), strict=True)):
            conv = Conv3x3(features, 1, False, self.form, self.dtype, self.kernel_init, stride, name=f"conv_{i}")
            x = nn.relu(_norm(f"norm_{i}", train, self.dtype)(conv(x)))
        return x


class PlainStem(nn.Module):
    """One convolution with BatchNorm and ReLU: [B, H, W, C] -> [B, H/stride, W/stride, features].

    Stated: "one plain convolution". INFERRED: windows of twice the stride, so that neighbours overlap. It is one matmul
    on the windows, each put together from four blocks of stride x stride pixels.

    Attributes:
      features: output channels.
      stride: even; H and W are multiples of it.
      kernel_init: of the kernel.
      dtype: compute type.
    """

    features: int
    stride: int = 4
    kernel_init: nn.initializers.Initializer = truncated
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, H/stride, W/stride, features]."""
        batch, height, width, channels = x.shape
        s, rows, columns = self.stride, height // self.stride, width // self.stride
        padded = jnp.pad(x, ((0, 0), (s // 2, s // 2), (s // 2, s // 2), (0, 0)))
        blocks = padded.reshape(batch, rows + 1, s, columns + 1, s, channels).transpose(0, 1, 3, 2, 4, 5)
        blocks = blocks.reshape(batch, rows + 1, columns + 1, s * s * channels)
        windows = [blocks[:, i : i + rows, j : j + columns] for i in range(2) for j in range(2)]
        dense = nn.Dense(self.features, use_bias=False, kernel_init=self.kernel_init, dtype=self.dtype, name="conv")
        return nn.relu(_norm("norm", train, self.dtype)(dense(jnp.concatenate(windows, axis=-1))))


class RelationalEncoder(nn.Module):
    """Frames [N, H, W, C] -> one map [N, S, S] each: stem, stages of LRAs (and a GRA), BatchNorm, head.

    Stage i works at 1/p, 1/2p, 1/4p ... of the frame with `widths[i]` channels; a GRA ends it where `attention` is on,
    with keys and values from 2x2 windows, four tokens as in the released (unused) blocks.

    Attributes:
      depths: LRAs of each stage.
      widths: channels of each stage.
      stem: channels of the stem.
      patch: stride p of a plain stem; 0 = the released stem, p = 4.
      attention: whether every stage ends with a GRA (the released code lists them, but builds none).
      kind: of the head convolutions, grouped (described) or dense (released).
      head_dim: channels of a head.
      drop_path: stochastic depth, rising linearly from 0 to this over the blocks.
      map_size: side S of the map.
      head: mean, as released: one linear layer on the mean over places makes the whole map. places: every place of the
        last grid makes its own part of the map (S a multiple of the grid). INFERRED: of the paper only "head block" is
        known; a small network keeps too little of a face in a mean.
      form: of the 3x3 convolutions, see nn.convolution.
      kernel_init: of the kernels.
      dtype: compute type; maps are float32.
    """

    depths: tuple[int, ...] = (3, 4, 10, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    stem: int = 64
    patch: int = 0
    attention: bool = True
    kind: str = "grouped"
    head_dim: int = 8
    drop_path: float = 0.1
    map_size: int = 64
    head: str = "mean"
    form: str = "auto"
    kernel_init: nn.initializers.Initializer = truncated
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[N, H, W, C] -> float32 [N, S, S]."""
        how: dict[str, Any] = {
            "kind": self.kind, "head_dim": self.head_dim, "form": self.form,
            "kernel_init": self.kernel_init, "dtype": self.dtype,
        }  # fmt: skip
        blocks = sum(self.depths) + self.attention * len(self.depths)
        rates = iter(np.linspace(0, self.drop_path, blocks).tolist())
        stem: nn.Module
        if self.patch:
            stem = PlainStem(self.stem, self.patch, self.kernel_init, self.dtype, name="stem")
        else:
            stem = ReleasedStem(self.stem, self.form, self.kernel_init, self.dtype, name="stem")
        x = stem(x.astype(self.dtype), train)
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            for i in range(depth):
                stride = 2 if stage and not i else 1
                name = f"stage_{stage + 1}_local_{i}"
                x = LocalAggregator(width, stride, drop_path=next(rates), name=name, **how)(x, train)
            if self.attention:
                name = f"stage_{stage + 1}_global"
                x = GlobalAggregator(width, -(-x.shape[1] // 2), drop_path=next(rates), name=name, **how)(x, train)
            self.sow("intermediates", f"stage_{stage + 1}", x)
        x = _norm("norm", train, self.dtype)(x)
        side, (batch, rows, columns, _) = self.map_size, x.shape
        outputs = side**2
        if self.head == "mean":
            x = x.mean(axis=(1, 2))
        else:
            outputs //= rows * columns
        dense = nn.Dense(outputs, kernel_init=self.kernel_init, dtype=self.dtype, name="head")
        maps = jnp.asarray(dense(x), jnp.float32)
        if self.head == "places":
            maps = maps.reshape(batch, rows, columns, side // rows, side // columns).transpose(0, 1, 3, 2, 4)
        return maps.reshape(batch, side, side)
