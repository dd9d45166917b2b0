"""The contract between a paper (one file of `systems`) and the engine (`training`, `run`).

A system is a few pure pieces: what its store must hold, which frames of a clip it looks at, and an ordered list of
stages, each a Linen module with an objective. The engine knows nothing else of a paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import flax.linen as nn
import jax

from mer_jax.data.store import ClipStore

Batch = Mapping[str, jax.Array]  # name -> [B, ...]
Outputs = Mapping[str, jax.Array]  # name -> [B, ...]; the logits of a recognition stage are outputs["logits"] [B, C]
Objective = Callable[[Outputs, Batch], tuple[jax.Array, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class Needs:
    """What the clip store must hold for a system.

    Attributes:
      size: height and width of the stored frames in pixels.
      channels: 3 (colour) or 1 (grey).
      landmarks: whether landmarks are read.
      motion: names of the motion targets (`data.motion`) that are read.
    """

    size: int
    channels: int = 3
    landmarks: bool = False
    motion: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training stage.

    Attributes:
      module: Linen module, `module.apply(variables, batch, train)` -> outputs. Parameters in "params", statistics in
        "batch_stats"; dropout draws from the rng "dropout".
      objective: `(outputs, batch) -> (loss [B], {term: [B]})`: the loss of each example and its named terms, named
        after the paper's equations. The engine averages over the batch with `batch["weight"]` [B] where present.
      optimizer: settings of the optimizer (see training.optimizer), with `groups`: path prefix -> learning-rate factor.
      carry: top-level names of modules whose parameters and statistics come from the stage before; the rest is fresh.
    """

    module: nn.Module
    objective: Objective
    optimizer: Any
    carry: tuple[str, ...] = ()


class System(Protocol):
    """A paper. Instances are built by `systems.build(settings, n_classes)` and are immutable."""

    needs: Needs
    n_views: int  # views of a clip at evaluation
    oracle_inputs: str  # annotations that it looks at when it is tested: none | boundaries | boundaries+apex

    def view(self, store: ClipStore, index: jax.Array, key: jax.Array, train: bool) -> Batch:
        """One example of clip `index` (scalar), without batch axis; traced.

        Training draws one random view from `key`. Evaluation is called with train=False and `key` = the number of the
        view (int32 scalar, 0 .. n_views - 1), and draws nothing at random.
        """

    def combine(self, logits: jax.Array) -> jax.Array:
        """Logits of all views [n_views, B, C] -> class probabilities of the clip [B, C]."""

    @property
    def finetune(self) -> Stage:
        """The recognition stage, trained for every fold; its outputs have "logits"."""

    @property
    def pretrain(self) -> Stage | None:
        """The stage trained once on macro-expressions, or None."""
