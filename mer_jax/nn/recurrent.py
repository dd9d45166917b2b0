"""GRU and LSTM over masked sequences, in one direction or both.

A masked step leaves the state as it was, so a sequence with gaps gives exactly what the sequence of its valid steps
alone gives, in both directions and in every layer: padding may lie anywhere, and frames that were selected need not be
moved together. The input's projections of all steps are one matrix product; what remains for a step of `lax.scan` is
one product a direction, over all sequences at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

CELLS = {"gru": 3, "lstm": 4}  # -> gates: r, z, n and i, f, g, o
Initializer = Callable[..., jax.Array]


def uniform(bound: float, low: float | None = None) -> Initializer:
    """Initializer of uniform numbers in [-bound, bound), or [low, bound)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound if low is None else low, bound)

    return init


class Weights(nn.Module):
    """Weights of one layer in one direction.

    Attributes:
      hidden: H.
      gates: G, gates of the cell, one after another in the last axis.
      hidden_bias: whether the product with the state has a bias of its own.
      kernel_init: of both kernels; None: uniform +-1/sqrt(H), as all the rest of the field does.
      bias_init: of the biases; None: the same.
    """

    hidden: int
    gates: int
    hidden_bias: bool = True
    kernel_init: Initializer | None = None
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, features: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """F -> input kernel [F, G H], hidden kernel [H, G H], input bias [G H], hidden bias [G H] (0 where none is)."""
        width = self.gates * self.hidden
        default = uniform(1 / math.sqrt(self.hidden))
        kernel, bias = self.kernel_init or default, self.bias_init or default
        return (
            self.param("input_kernel", kernel, (features, width)),
            self.param("hidden_kernel", kernel, (self.hidden, width)),
            self.param("input_bias", bias, (width,)),
            self.param("hidden_bias", bias, (width,)) if self.hidden_bias else jnp.zeros(width),
        )


def gru_step(projected: jax.Array, recurrent: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """r, z = sigmoid(x + h); n = tanh(x_n + r h_n); h' = (1 - z) n + z h (Cho et al. 2014, reset after the product).

    Args:
      projected: W x + b [N, 3H], gates r, z, n.
      recurrent: U h + c [N, 3H].
      state: (h [N, H],).
    """
    (h,) = state
    size = 2 * h.shape[-1]
    r, z = jnp.split(nn.sigmoid(projected[..., :size] + recurrent[..., :size]), 2, axis=-1)
    n = jnp.tanh(projected[..., size:] + r * recurrent[..., size:])
    return (n + z * (h - n),)


def lstm_step(projected: jax.Array, recurrent: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """c' = sigmoid(f) c + sigmoid(i) tanh(g); h' = sigmoid(o) tanh(c'); no peepholes (Hochreiter & Schmidhuber 1997).

    Args:
      projected: W x + b [N, 4H], gates i, f, g, o.
      recurrent: U h + c [N, 4H].
      state: (h, c), [N, H] each.
    """
    _, c = state
    i, f, g, o = jnp.split(projected + recurrent, 4, axis=-1)
    c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(c), c


_STEPS = {"gru": gru_step, "lstm": lstm_step}


class Recurrent(nn.Module):
    """Layers of GRU or LSTM cells over sequences [..., T, F] with a mask over their steps.

    A layer reads the outputs of the layer before: those of both directions, forward first. Parameters are
    `layer_{k}_forward` and `layer_{k}_reverse`.

    Attributes:
      hidden: H, of each direction.
      cell: one of CELLS.
      layers: number of layers.
      bidirectional: whether every layer also runs from the last step to the first.
      hidden_bias: whether the product with the state has a bias of its own (PyTorch: yes; Caffe's LSTM: no).
      kernel_init: kernels of the forward direction; None: uniform +-1/sqrt(H).
      bias_init: biases of the forward direction; None: uniform +-1/sqrt(H).
      dtype: compute type of the products; state and outputs are float32.
    """

    hidden: int
    cell: str = "gru"
    layers: int = 1
    bidirectional: bool = False
    hidden_bias: bool = True
    kernel_init: Initializer | None = None
    bias_init: Initializer | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Runs over the valid steps.

        Args:
          x: [..., T, F].
          mask: bool [..., T]; its leading axes broadcast to those of x.

        Returns:
          outputs of the last layer [..., T, D H], 0 where masked (D directions); and its states [..., D H] after each
          direction's last valid step, 0 where no step is valid.
        """
        lead, (steps, features) = x.shape[:-2], x.shape[-2:]
        if mask.shape[-1] != steps:
            raise ValueError(f"a mask over {mask.shape[-1]} steps does not fit a sequence of {steps}")
        mask = jnp.broadcast_to(mask, (*lead, steps)).reshape(-1, steps)
        outputs = x.reshape(-1, steps, features)
        final = outputs[:, 0]
        for layer in range(self.layers):
            outputs, final = self._layer(layer, outputs, mask)
        return outputs.reshape(*lead, steps, -1), final.reshape(*lead, -1)

    def _layer(self, layer: int, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [N, T, F], mask [N, T] -> outputs [N, T, D H], final states [N, D H]."""
        step = _STEPS[self.cell]
        x = jnp.moveaxis(x, 1, 0).astype(self.dtype)  # time first
        valid = mask.T[..., None]
        gates, own = CELLS[self.cell], (self.hidden_bias,)
        weights = [Weights(self.hidden, gates, *own, self.kernel_init, self.bias_init, name=f"layer_{layer}_forward")]
        if self.bidirectional:
            weights.append(Weights(self.hidden, gates, *own, name=f"layer_{layer}_reverse"))
        kernels, inputs = [], []
        for direction, weight in enumerate(weights):
            w, u, b, c = weight(x.shape[-1])
            projected = (x @ w.astype(self.dtype)).astype(jnp.float32) + b
            inputs.append((projected, valid) if direction == 0 else (projected[::-1], valid[::-1]))
            kernels.append((u.astype(self.dtype), c))

        def body(states: Any, now: Any) -> Any:
            after = []
            for state, (projected, keep), (u, c) in zip(states, now, kernels, strict=True):
                moved = step(projected, (state[0].astype(self.dtype) @ u).astype(jnp.float32) + c, state)
                after.append(tuple(jnp.where(keep, new, old) for new, old in zip(moved, state, strict=True)))
            return after, [state[0] for state in after]

        zero = jnp.zeros((x.shape[1], self.hidden))
        start = [(zero,) * (1 if self.cell == "gru" else 2) for _ in weights]
        final, found = jax.lax.scan(body, start, inputs)
        ordered = [hidden if d == 0 else hidden[::-1] for d, hidden in enumerate(found)]
        outputs = jnp.where(valid, jnp.concatenate(ordered, axis=-1), 0.0)
        return jnp.moveaxis(outputs, 0, 1), jnp.concatenate([state[0] for state in final], axis=-1)
