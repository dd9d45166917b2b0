"""Where to look in each system: which feature map Grad-CAM reads, which inputs gradients are integrated over, and the
system's own signal.

A *heat* is [T, h, w], not negative, over the part of the stored frames that `window` names; `moments` says where its T
maps are in the clip. INFERRED: the baseline of integrated gradients is the same clip without movement, every frame that
is looked at replaced by the first one (flow: by none), so that what is attributed is the movement and not the face; the
score is the logit of the predicted class minus the mean of all logits, since what raises all classes alike decides
nothing.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.analysis import layers
from mer_jax.analysis.layers import Place
from mer_jax.analysis.map_scores import GRADCAM, GRADIENTS
from mer_jax.analysis.maps import NODES, grad_cam, integrated_gradients
from mer_jax.data import sampling

Heats = dict[str, tuple[jax.Array, jax.Array]]  # name -> heat [T, h, w] and positions in the clip [T]


class Lens:
    """How one system is looked into; a subclass a system.

    Args:
      system: the system.
    """

    unread: tuple[str, ...] = ()  # entries of a view that recognition has no need of
    inputs: tuple[str, ...] = ()  # entries that gradients are integrated over
    place: Place | None = None  # the feature map of Grad-CAM
    held: tuple[Place, ...] = ()  # choices that stay as they are for the clip while its frames change
    given: tuple[str, ...] = ()  # own signals that are inputs: they are the same for any weights
    nodes = NODES

    def __init__(self, system: Any) -> None:
        self.system, self.settings, self.module = system, system.settings, system.finetune.module

    # -- what differs from system to system ---------------------------------------------------------------------------

    def features(self, value: Any) -> jax.Array:
        """What is found at `place` -> [1, T, h, w, D]."""
        raise NotImplementedError

    def put(self, value: Any, features: jax.Array) -> Any:
        """The inverse of `features`: what was found, with other features."""
        raise NotImplementedError

    def moments(self, batch: Any, store: Any, clip: jax.Array) -> dict[str, jax.Array]:
        """Name of a heat -> positions [T] in the clip; "" for all the others."""
        raise NotImplementedError

    def still(self, batch: Any, store: Any, clip: jax.Array) -> dict[str, jax.Array]:
        """The baseline: `inputs` of the clip without movement."""
        raise NotImplementedError

    def attributed(self, found: Any) -> dict[str, jax.Array]:
        """Attributions of `inputs` -> heats of their absolute values."""
        raise NotImplementedError

    def own(self, variables: Any, batch: Any, outputs: Any) -> dict[str, jax.Array]:
        """The system's own signals, heats by name."""
        return {}

    def logits(self, variables: Any, batch: Any, replace: Any) -> jax.Array:
        """Logits [B, C] of a batch."""
        return layers.apply(self.module, variables, batch, (), replace)[0]["logits"]

    @property
    def window(self) -> tuple[float, float]:
        """The part of the stored frames that heats cover, from the first to the last share of their sides."""
        return 0.0, 1.0

    def fresh(self, key: jax.Array, batch: Any, like: Any) -> dict[str, Any]:
        """Variables before any training; what was fitted to the frames of training persons stays as in `like`."""
        found = dict(self.module.init({"params": key, "dropout": key}, batch, False))
        return found | {name: value for name, value in like.items() if name == "constants"}

    # -- what does not ------------------------------------------------------------------------------------------------

    def heats(self, variables: Any, store: Any, clip: jax.Array, length: int = 0) -> dict[str, Any]:
        """All maps of a clip; traced.

        Args:
          variables: of the network.
          store: the clips.
          clip: which one.
          length: frames of its bucket, where the system has buckets.

        Returns:
          heats: `Heats`; logits [C]; difference and gap of integrated gradients.
        """
        batch = self.batch(store, clip, length)
        read = ((self.place,) if self.place else ()) + self.held
        outputs, values = layers.apply(self.module, variables, batch, read)
        held = dict(zip(self.held, values[len(values) - len(self.held) :], strict=True))
        logits = outputs["logits"].astype(jnp.float32)
        chosen = logits.argmax(-1)
        found: dict[str, jax.Array] = {}
        if self.place is not None:
            place, value = self.place, values[0]

            def classify(features: jax.Array) -> jax.Array:
                return self.logits(variables, batch, {place: self.put(value, features)})

            found[GRADCAM] = grad_cam(classify, self.features(value), chosen)[0]
        attributions, difference, gap = self._gradients(variables, batch, store, clip, chosen[0], held)
        found |= self.attributed(attributions) | self.own(variables, batch, outputs)
        at = self.moments(batch, store, clip)
        return {
            "heats": {name: (jnp.abs(heat), at.get(name, at[""])) for name, heat in found.items()},
            "logits": logits[0],
            "difference": difference,
            "gap": gap,
        }

    def batch(self, store: Any, clip: jax.Array, length: int) -> dict[str, jax.Array]:
        """The first view of a clip as a batch of one."""
        view = functools.partial(self.system.view, length=length) if length else self.system.view
        seen = view(store, clip, jnp.int32(0), False)
        return {name: x[None] for name, x in seen.items() if name not in self.unread}

    def _gradients(
        self, variables: Any, batch: Any, store: Any, clip: jax.Array, chosen: jax.Array, held: Any
    ) -> tuple[Any, jax.Array, jax.Array]:
        own = {name: batch[name][0] for name in self.inputs}

        def score(inputs: Any) -> jax.Array:
            count = len(next(iter(inputs.values())))

            def repeat(x: jax.Array) -> jax.Array:
                return jnp.broadcast_to(x, (count, *x.shape[1:]))

            whole = {name: repeat(x) for name, x in batch.items() if name not in inputs} | inputs
            logits = self.logits(variables, whole, jax.tree.map(repeat, held))
            return logits[:, chosen] - logits.mean(-1)

        return integrated_gradients(score, own, self.still(batch, store, clip), self.nodes)


class OfFrames(Lens):
    """A system that reads grey frames as they are: the baseline is the first of them, again and again."""

    inputs = ("frames",)

    def still(self, batch: Any, store: Any, clip: jax.Array) -> dict[str, jax.Array]:  # noqa: D102
        frames = batch["frames"][0]
        return {"frames": jnp.broadcast_to(frames[:1], frames.shape)}

    def attributed(self, found: Any) -> dict[str, jax.Array]:  # noqa: D102
        return {GRADIENTS: jnp.abs(found["frames"][..., 0])}


def apex_of(store: Any, clip: jax.Array) -> jax.Array:
    """Position of the apex of a clip, float32; the middle of onset and offset where it is unknown."""
    return jnp.asarray(sampling.known_apex(store.onset[clip], store.apex[clip], store.offset[clip]), jnp.float32)


def nearest(positions: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Which of the maps at `positions` [T] is nearest to each moment [M]: int [M], 0 where nothing is known."""
    away = np.abs(positions[None] - moments[:, None])
    known = np.isfinite(away)
    return np.where(known, away, np.inf).argmin(axis=1)
