"""The contract between a paper (one file of `systems`) and the engine (`training`, `run`).

A system is a few pure pieces: what its store must hold, which frames of a clip it looks at, and an ordered list of
stages, each a Linen module with an objective. The engine knows nothing else of a paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import flax.linen as nn
import jax
import numpy as np

from mer_jax.data.motion import MotionSpec
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
      motion: motion targets that are read: names, or specifications (see `data.motion.named`).
      modality: what every clip must be, one of `data.clips.MODALITIES`; "" for any that fits the channels.
    """

    size: int
    channels: int = 3
    landmarks: bool = False
    motion: tuple[str | MotionSpec, ...] = ()
    modality: str = ""


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
      loops: whether a step is as fast inside a loop on CPU, having no convolution: then `engine.chunk_mode = auto` runs
        a chunk as one program there too.
    """

    module: nn.Module
    objective: Objective
    optimizer: Any
    carry: tuple[str, ...] = ()
    loops: bool = False


@dataclasses.dataclass(frozen=True)
class Buckets:
    """Clips of like length, for systems that look at all frames of a clip: each bucket is a batch shape of its own.

    Attributes:
      lengths: frames that the view of a bucket holds, ascending; shorter clips are padded.
      of_clip: int [n], bucket of each clip of the store.
    """

    lengths: tuple[int, ...]
    of_clip: np.ndarray


class System(Protocol):
    """A paper. Instances are built by `systems.build(settings, n_classes)`, inherit `Defaults` and are immutable."""

    @property
    def needs(self) -> Needs:
        """What the store must hold."""

    @property
    def n_views(self) -> int:
        """Views of a clip at evaluation."""

    @property
    def oracle_inputs(self) -> str:
        """Annotations that it looks at when it is tested: none | boundaries | boundaries+apex."""

    def view(self, store: ClipStore, index: jax.Array, key: jax.Array, train: bool) -> Batch:
        """One example of clip `index` (scalar), without batch axis; traced.

        Training draws one random view from `key`. Evaluation is called with train=False and `key` = the number of the
        view (int32 scalar, 0 .. n_views - 1), and draws nothing at random. Systems with `buckets` take one argument
        more: `length`, the frames of the bucket (static).
        """

    def buckets(self, store: ClipStore) -> Buckets | None:
        """Clips by length; called on the host. None: every view of every clip has the same shape."""

    def statistics(self, store: ClipStore, mask: jax.Array) -> Mapping[str, jax.Array]:
        """What is fitted to the training clips of a fold before its first step; traced.

        Args:
          store: the clips.
          mask: bool [n], training clips of the fold; empty for a padded fold, whose result is never used but has to
            be finite.

        Returns:
          Arrays that the module finds in its collection "constants" as the variable "statistics"; {} for none.
        """

    def measures(self, outputs: Outputs, batch: Batch) -> Mapping[str, jax.Array]:
        """Scores of a tested clip beyond its class, [B] each, NaN where one is unknown; traced.

        They are averaged over the known views of a clip, kept in measures.csv and summarised over persons.
        """

    def combine(self, logits: jax.Array) -> jax.Array:
        """Logits of all views [n_views, B, C] -> class probabilities of the clip [B, C]."""

    @property
    def reads_targets(self) -> bool:
        """Whether the network is given landmarks and motion of `needs`, or only its losses and measures are."""

    @property
    def scores_pretraining(self) -> bool:
        """Whether `health_errors` and `difference_and_change` score pre-training on held-out people."""

    def fit_constants(self, batches: Iterable[Batch], key: jax.Array) -> dict[str, Any]:
        """What is fitted to the pre-training persons before the first step: the collection "constants"; {} for none."""

    @property
    def finetune(self) -> Stage:
        """The recognition stage, trained for every fold; its outputs have "logits"."""

    @property
    def pretrain(self) -> Stage | None:
        """The stage trained once on macro-expressions, or None."""


class Defaults:
    """What a system has when its paper says nothing of it: one view, no hook, no pre-training."""

    settings: Any
    n_views = 1
    reads_targets = True
    scores_pretraining = False

    def fit_constants(self, batches: Iterable[Batch], key: jax.Array) -> dict[str, Any]:
        """See System."""
        return {}

    def buckets(self, store: ClipStore) -> Buckets | None:
        """See System."""
        return None

    def statistics(self, store: ClipStore, mask: jax.Array) -> Mapping[str, jax.Array]:
        """See System."""
        return {}

    def measures(self, outputs: Outputs, batch: Batch) -> Mapping[str, jax.Array]:
        """See System."""
        return {}

    def combine(self, logits: jax.Array) -> jax.Array:
        """Mean over the views of the class probabilities [B, C]; of each action unit where task is au."""
        probability = jax.nn.sigmoid(logits) if self.settings.task == "au" else jax.nn.softmax(logits)
        return probability.mean(axis=0)

    @property
    def pretrain(self) -> Stage | None:
        """See System."""
        return None
