"""ATNet: the apex frame as the spatial stream sees it, and the flow around it on a grid."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mer_jax.analysis.layers import Place
from mer_jax.analysis.lenses.base import Lens, apex_of
from mer_jax.analysis.map_scores import GRADIENTS
from mer_jax.data import augment, flow_grid


class ATNet(Lens):
    """The apex frame, by the last map of the spatial stream, and the flow around it, block by block."""

    given = ("flow",)

    @property
    def _spatial(self) -> bool:
        return bool(self.settings.model.streams != "temporal")

    @property
    def _temporal(self) -> bool:
        return bool(self.settings.model.streams != "spatial")

    @property
    def place(self) -> Place | None:  # type: ignore[override]
        """The last feature map of the spatial stream, where there is one."""
        return Place(("spatial",), "feature_map") if self._spatial else None

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the streams read."""
        return ("apex",) * self._spatial + ("flow",) * self._temporal

    def features(self, value: Any) -> jax.Array:  # noqa: D102
        return value[:, None]

    def put(self, value: Any, features: jax.Array) -> Any:  # noqa: D102
        return features[:, 0]

    def moments(self, batch: Any, store: Any, clip: jax.Array) -> dict[str, jax.Array]:  # noqa: D102
        apex = apex_of(store, clip).astype(jnp.float32)
        found = {"": apex[None], "flow": apex[None]}
        if self._temporal:
            grid: flow_grid.FlowGrid = self.system.grid
            step = 1.0 if grid.window == "frames" else grid.step_ms / 1000 * store.fps[clip]
            steps = apex + step * (jnp.arange(grid.steps) - grid.side + 0.5)
            found[f"{GRADIENTS}, flow"] = jnp.where(batch["valid"][0], steps, jnp.nan)
        return found

    def still(self, batch: Any, store: Any, clip: jax.Array) -> dict[str, jax.Array]:  # noqa: D102
        found = {}
        if self._spatial:
            frame = store.frames[store.start[clip] + store.onset[clip]].astype(jnp.float32) / 255
            found["apex"] = augment.center(frame, self.settings.data.size)
        if self._temporal:  # directions stay, magnitudes go
            found["flow"] = batch["flow"][0].at[:, 1::2].set(0.0)
        return found

    def attributed(self, found: Any) -> dict[str, jax.Array]:  # noqa: D102
        heats = {}
        if self._spatial:
            heats[GRADIENTS] = jnp.abs(found["apex"][..., 0])[None]
        if self._temporal:
            cells = self.settings.model.cells
            heats[f"{GRADIENTS}, flow"] = jnp.abs(found["flow"][:, 1::2]).reshape(-1, cells, cells)
        return heats

    def own(self, variables: Any, batch: Any, outputs: Any) -> dict[str, jax.Array]:
        """How far each block of the flow grid moves up to the apex, without the head's movement, their median."""
        if not self._temporal:
            return {}
        cells, side = self.settings.model.cells, self.settings.model.side
        rows = (batch["flow"][0] * batch["valid"][0][:, None])[:side].reshape(side, cells, cells, 2)
        moved = jnp.stack([rows[..., 1] * jnp.cos(rows[..., 0]), rows[..., 1] * jnp.sin(rows[..., 0])], -1).sum(0)
        return {"flow": jnp.linalg.norm(moved - jnp.median(moved, axis=(0, 1)), axis=-1)[None]}
