"""FDP: the encoder's maps, the dynamic image that it constructs, and its rank scores."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mer_jax.analysis.layers import Place
from mer_jax.analysis.lenses.base import OfFrames
from mer_jax.analysis.map_scores import GRADCAM


class FDP(OfFrames):
    """A few frames: features of the encoder; constructed dynamic image; rank scores of the frames, and their map."""

    unread = ("order_frames", "order_position", "key_frames")

    @property
    def _placed(self) -> bool:
        """Whether the maps of the encoder keep the places of the face."""
        return bool(self.settings.model.head == "places")

    @property
    def place(self) -> Place:  # type: ignore[override]
        """The mixed maps where they keep the places, else the last grid of the encoder."""
        return Place(("mix",)) if self._placed else Place(("encoder", "norm"))

    def features(self, value: Any) -> jax.Array:  # noqa: D102
        return value[:, None] if self._placed else value[None]

    def put(self, value: Any, features: jax.Array) -> Any:  # noqa: D102
        return features[:, 0] if self._placed else features[0]

    def moments(self, batch: Any, store: Any, clip: jax.Array) -> dict[str, jax.Array]:  # noqa: D102
        frames, whole = batch["position"][0].astype(jnp.float32), jnp.full(1, jnp.nan)
        return {"": frames, GRADCAM: whole if self._placed else frames} | dict.fromkeys(
            ("dynamic image", "rank-weighted map"), whole
        )

    def own(self, variables: Any, batch: Any, outputs: Any) -> dict[str, jax.Array]:
        """Images count by how far they are from their median, since most of a face hardly moves."""
        found = {}
        if "image" in outputs:
            found["dynamic image"] = outputs["image"] - jnp.median(outputs["image"])
        if "scores" in outputs:
            score = outputs["scores"][0]
            found["rank scores"] = jnp.abs(score - score.mean())[:, None, None]
            if self._placed and self.settings.model.pool == "rank_score":
                found["rank-weighted map"] = outputs["pooled"][..., 0] - jnp.median(outputs["pooled"])
        return found
