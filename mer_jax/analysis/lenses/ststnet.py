"""STSTNet: the picture of flow and strain that it reads, and its pooled maps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mer_jax.analysis.layers import Place
from mer_jax.analysis.lenses.base import Lens, apex_of
from mer_jax.analysis.map_scores import GRADIENTS
from mer_jax.systems.ststnet import STSTNet


class STSTNetLens(Lens):
    """The picture of flow and strain: the pooled maps of the streams; strain; what each place adds to the class."""

    place = Place((), "pool")
    inputs = ("maps",)
    given = ("strain",)

    def features(self, value: Any) -> jax.Array:  # noqa: D102
        return jnp.moveaxis(value[..., 0], 1, -1)[:, None]

    def put(self, value: Any, features: jax.Array) -> Any:  # noqa: D102
        return jnp.moveaxis(features[:, 0], -1, 1)[..., None]

    def moments(self, batch: Any, store: Any, clip: jax.Array) -> dict[str, jax.Array]:  # noqa: D102
        return {"": apex_of(store, clip)[None]}

    def still(self, batch: Any, store: Any, clip: jax.Array) -> dict[str, jax.Array]:
        """Each map at its median: most of a face hardly moves, and each map is scaled by its own range."""
        maps = batch["maps"][0]
        return {"maps": jnp.broadcast_to(jnp.median(maps, axis=(0, 1)), maps.shape)}

    def attributed(self, found: Any) -> dict[str, jax.Array]:  # noqa: D102
        return {GRADIENTS: jnp.abs(found["maps"].sum(-1))[None]}

    def own(self, variables: Any, batch: Any, outputs: Any) -> dict[str, jax.Array]:  # noqa: D102
        strain = batch["maps"][..., list(self.settings.model.order).index("strain")]
        return {"strain": strain}

    def logits(self, variables: Any, batch: Any, replace: Any) -> jax.Array:
        """The network in plain operations: its own first layer hands no gradient to the maps."""
        if replace:
            return super().logits(variables, batch, replace)
        module: STSTNet = self.module
        names = [f"stream_{i}" for i in range(1, len(module.filters) + 1)]
        params, statistics = variables["params"], variables["batch_stats"]

        def whole(tree: Any, name: str) -> jax.Array:
            return jnp.concatenate([jnp.asarray(tree[stream][name]) for stream in names], axis=-1)

        x = jax.lax.conv_general_dilated(
            batch["maps"], whole(params, "kernel"), (1, 1), ((2, 2), (2, 2)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + whole(params, "bias")) - whole(statistics, "mean")
        x = x * whole(params, "scale") * jax.lax.rsqrt(whole(statistics, "var") + 1e-5) + whole(params, "shift")
        pad = ((0, 0), (1, 1), (1, 1), (0, 0))
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 3, 3, 1), pad)
        cells = x.shape[1] // 2
        x = x[:, : 2 * cells, : 2 * cells].reshape(len(x), cells, 2, cells, 2, -1).mean((2, 4))
        flat = jnp.moveaxis(x, -1, 1).reshape(len(x), -1)
        return flat @ params["linear"]["kernel"] + params["linear"]["bias"]

    @property
    def window(self) -> tuple[float, float]:
        """The frame without the border that is left out."""
        border = self.settings.model.border if self.settings.model.input == "frames" else 0.0
        return border, 1 - border
