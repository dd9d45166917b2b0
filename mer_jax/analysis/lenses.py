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
from mer_jax.data import augment, flow_grid, sampling
from mer_jax.systems import ma2mi
from mer_jax.systems.ststnet import STSTNet

PRETEXT = "pretext"
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


def _still_frames(batch: Any) -> dict[str, jax.Array]:
    frames = batch["frames"][0]
    return {"frames": jnp.broadcast_to(frames[:1], frames.shape)}


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
        return {"": _apex(store, clip)[None]}

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


class AKMNet(Lens):
    """All frames: maps of the backbone before mining. The choice of key frames is held while frames change."""

    place = Place(("backbone",))
    inputs = ("frames",)
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

    def still(self, batch: Any, store: Any, clip: jax.Array) -> dict[str, jax.Array]:  # noqa: D102
        return _still_frames(batch)

    def attributed(self, found: Any) -> dict[str, jax.Array]:  # noqa: D102
        return {GRADIENTS: jnp.abs(found["frames"][..., 0])}

    def own(self, variables: Any, batch: Any, outputs: Any) -> dict[str, jax.Array]:
        """Weights of the frames: the same all over the face, so that only their moments tell."""
        if self.settings.ft.mining == "none":
            return {}
        gate = outputs["gate"][0] * batch["mask"][0]
        return {"key frames": gate[:, None, None]}


class FDP(Lens):
    """A few frames: features of the encoder; constructed dynamic image; rank scores of the frames, and their map."""

    inputs = ("frames",)
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

    def still(self, batch: Any, store: Any, clip: jax.Array) -> dict[str, jax.Array]:  # noqa: D102
        return _still_frames(batch)

    def attributed(self, found: Any) -> dict[str, jax.Array]:  # noqa: D102
        return {GRADIENTS: jnp.abs(found["frames"][..., 0])}

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


class MOL(Lens):
    """A sequence: the joint features that recognition reads, of both frames of each pair; flow; moved landmarks."""

    place = Place(("recognition",), side="input")
    inputs = ("frames",)
    unread = ("flow", "landmarks")

    def features(self, value: Any) -> jax.Array:  # noqa: D102
        return jnp.moveaxis(value, 3, 1)

    def put(self, value: Any, features: jax.Array) -> Any:  # noqa: D102
        return jnp.moveaxis(features, 1, 3)

    def moments(self, batch: Any, store: Any, clip: jax.Array) -> dict[str, jax.Array]:  # noqa: D102
        at = batch["position"][0].astype(jnp.float32)
        pairs = jnp.stack([at[:-1], at[1:]], axis=1).reshape(-1)
        return {"": at, GRADCAM: pairs, "flow": at[1:], "landmarks": at[1:]}

    def still(self, batch: Any, store: Any, clip: jax.Array) -> dict[str, jax.Array]:  # noqa: D102
        return _still_frames(batch)

    def attributed(self, found: Any) -> dict[str, jax.Array]:  # noqa: D102
        return {GRADIENTS: jnp.abs(found["frames"][..., 0])}

    def own(self, variables: Any, batch: Any, outputs: Any) -> dict[str, jax.Array]:
        """Length of the flow without the head's, its median; distance of the points from where they were first."""
        found = {}
        if "flow" in outputs:
            flow = outputs["flow"][0]
            found["flow"] = jnp.linalg.norm(flow - jnp.median(flow, axis=(1, 2), keepdims=True), axis=-1)
        if "landmarks" in outputs:
            points, side = outputs["landmarks"][0], batch["frames"].shape[2]
            found["landmarks"] = _spots(points, jnp.linalg.norm(points - points[:1], axis=-1), side)
        return found

    @property
    def window(self) -> tuple[float, float]:
        """The central crop that the network sees."""
        data = self.settings.data
        low = (data.size - data.crop) // 2
        return low / data.size, (low + data.crop) / data.size


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
        apex = _apex(store, clip).astype(jnp.float32)
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
        return {"": _apex(store, clip)[None]}

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


LENSES: dict[str, type[Lens]] = {
    "akmnet": AKMNet,
    "atnet": ATNet,
    "fdp": FDP,
    "ma2mi": MA2MI,
    "mol": MOL,
    "ststnet": STSTNetLens,
}


def of(system: Any) -> Lens:
    """The lens of a system."""
    return LENSES[system.settings.system](system)


def _apex(store: Any, clip: jax.Array) -> jax.Array:
    return jnp.asarray(sampling.known_apex(store.onset[clip], store.apex[clip], store.offset[clip]), jnp.float32)


def _spots(points: jax.Array, weight: jax.Array, side: int) -> jax.Array:
    """Gaussian spots of 1/32 of the side at points [T, P, 2] with weights [T, P]: [T, side, side]."""
    at = jnp.arange(side)
    x, y = (jnp.exp(-0.5 * ((at - points[..., k, None]) / (side / 32)) ** 2) for k in (0, 1))
    return jnp.einsum("tp,tpy,tpx->tyx", weight, y, x)


def nearest(positions: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Which of the maps at `positions` [T] is nearest to each moment [M]: int [M], 0 where nothing is known."""
    away = np.abs(positions[None] - moments[:, None])
    known = np.isfinite(away)
    return np.where(known, away, np.inf).argmin(axis=1)
