"""MA2MI and MIACNet: the map of the action branch, attention, and the motion that the pretext predicts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mer_jax.analysis.layers import Place
from mer_jax.analysis.lenses.base import Lens, apex_of
from mer_jax.analysis.map_scores import GRADIENTS
from mer_jax.systems import ma2mi

PRETEXT = "pretext"  # the collection in which the variables of the pretext ride along


class MA2MI(Lens):
    """Onset and apex: action (or position) map of the encoder; attention; the motion that the pretext predicts.

    The pretext has variables of its own, which ride along as the collection PRETEXT where the run has trained it.
    """

    place = Place(("encoder",))
    inputs = ("second",)

    @property
    def _feature(self) -> str:
        model = self.settings.model
        return "position" if (model.encoder, model.variant) == ("miacnet", "position_only") else "action"

    def features(self, value: Any) -> jax.Array:  # noqa: D102
        return value[self._feature][:, None]

    def put(self, value: Any, features: jax.Array) -> Any:  # noqa: D102
        return {**value, self._feature: features[:, 0]}

    def moments(self, batch: Any, store: Any, clip: jax.Array) -> dict[str, jax.Array]:  # noqa: D102
        return {"": apex_of(store, clip)[None]}

    def still(self, batch: Any, store: Any, clip: jax.Array) -> dict[str, jax.Array]:  # noqa: D102
        return {"second": batch["first"][0]}

    def attributed(self, found: Any) -> dict[str, jax.Array]:  # noqa: D102
        return {GRADIENTS: jnp.abs(found["second"].sum(-1))[None]}

    def fresh(self, key: jax.Array, batch: Any, like: Any) -> dict[str, Any]:  # noqa: D102
        found = super().fresh(key, batch, like)
        if PRETEXT in like:
            other = ma2mi.build_pretext(self.settings).init({"params": key, "dropout": key}, batch, False)
            found[PRETEXT] = {**other, "constants": like[PRETEXT]["constants"]}
        return found

    def own(self, variables: Any, batch: Any, outputs: Any) -> dict[str, jax.Array]:  # noqa: D102
        maps = sorted(name for name in outputs if name.startswith("map_"))
        found = {"attention": outputs[maps[-1]][..., 0]} if maps else {}
        if PRETEXT in variables:
            seen: Any = ma2mi.build_pretext(self.settings).apply(variables[PRETEXT], batch, False)
            found["predicted motion"] = jnp.abs(seen["prediction"] - seen["latent"]).sum(-1)
        return found
