"""AKMNet: the maps of its backbone, and the weights that mining gives to frames."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mer_jax.analysis.layers import Place
from mer_jax.analysis.lenses.base import OfFrames


class AKMNet(OfFrames):
    """All frames: maps of the backbone before mining. The choice of key frames is held while frames change."""

    place = Place(("backbone",))
    unread = ("true_onset", "true_apex", "true_offset", "fps")
    nodes = 8  # each is a whole clip

    @property
    def held(self) -> tuple[Place, ...]:  # type: ignore[override]
        """What mining said of the clip as it is."""
        return () if self.settings.ft.mining == "none" else (Place((), "mine"),)

    def features(self, value: Any) -> jax.Array:  # noqa: D102
        return value[None]

    def put(self, value: Any, features: jax.Array) -> Any:  # noqa: D102
        return features[0]

    def moments(self, batch: Any, store: Any, clip: jax.Array) -> dict[str, jax.Array]:  # noqa: D102
        return {"": jnp.where(batch["mask"][0], batch["position"][0], jnp.nan)}

    def own(self, variables: Any, batch: Any, outputs: Any) -> dict[str, jax.Array]:
        """Weights of the frames: the same all over the face, so that only their moments tell."""
        if self.settings.ft.mining == "none":
            return {}
        gate = outputs["gate"][0] * batch["mask"][0]
        return {"key frames": gate[:, None, None]}
