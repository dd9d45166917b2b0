"""MOL: the joint features of its pairs, its flow, and its moved landmarks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mer_jax.analysis.layers import Place
from mer_jax.analysis.lenses.base import OfFrames
from mer_jax.analysis.map_scores import GRADCAM


class MOL(OfFrames):
    """A sequence: the joint features that recognition reads, of both frames of each pair; flow; moved landmarks."""

    place = Place(("recognition",), side="input")
    unread = ("flow", "landmarks")

    def features(self, value: Any) -> jax.Array:  # noqa: D102
        return jnp.moveaxis(value, 3, 1)

    def put(self, value: Any, features: jax.Array) -> Any:  # noqa: D102
        return jnp.moveaxis(features, 1, 3)

    def moments(self, batch: Any, store: Any, clip: jax.Array) -> dict[str, jax.Array]:  # noqa: D102
        at = batch["position"][0].astype(jnp.float32)
        pairs = jnp.stack([at[:-1], at[1:]], axis=1).reshape(-1)
        return {"": at, GRADCAM: pairs, "flow": at[1:], "landmarks": at[1:]}

    def own(self, variables: Any, batch: Any, outputs: Any) -> dict[str, jax.Array]:
        """How far the flow, and the points from where they were first, move without the head, the median of each."""
        found = {}
        if "flow" in outputs:
            flow = outputs["flow"][0]
            found["flow"] = jnp.linalg.norm(flow - jnp.median(flow, axis=(1, 2), keepdims=True), axis=-1)
        if "landmarks" in outputs:
            points, side = outputs["landmarks"][0], batch["frames"].shape[2]
            moved = points - points[:1]
            moved -= jnp.median(moved, axis=1, keepdims=True)
            found["landmarks"] = _spots(points, jnp.linalg.norm(moved, axis=-1), side)
        return found

    @property
    def window(self) -> tuple[float, float]:
        """The central crop that the network sees."""
        data = self.settings.data
        low = (data.size - data.crop) // 2
        return low / data.size, (low + data.crop) / data.size


def _spots(points: jax.Array, weight: jax.Array, side: int) -> jax.Array:
    """Gaussian spots of 1/32 of the side at points [T, P, 2] with weights [T, P]: [T, side, side]."""
    at = jnp.arange(side)
    x, y = (jnp.exp(-0.5 * ((at - points[..., k, None]) / (side / 32)) ** 2) for k in (0, 1))
    return jnp.einsum("tp,tpy,tpx->tyx", weight, y, x)
