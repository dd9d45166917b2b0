"""STSTNet in the report: flow and strain of clips, and what each stream takes from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from mer_jax.analysis import figures
from mer_jax.analysis.pictures.base import Picture, Tested
from mer_jax.data import sampling
from mer_jax.systems.ststnet import MAPS

DIMENSIONS = {
    "ststnet_frame": 4,  # [m, H, W, C] in 0..1, the apex; only where the clips hold frames
    "ststnet_maps": 4,  # [m, S, S, 3] in 0..1: u, v, strain
    "ststnet_evidence": 4,  # [m, streams, k, k], see `evidence`
    "ststnet_title": 1,  # [m] text: label, action units and what was predicted
}
GROUPS = ("ststnet",)  # arrays of one group have the same length
CAPTION = (
    "Horizontal flow (right is bright), vertical flow (down is bright) and optical strain between onset and apex, each "
    "scaled by its own range, as the network of the fold that tested the clip saw them; and for each stream, place by "
    "place, how much it speaks for the predicted class (red) or against it (blue). Over streams and places these add "
    "up to the logit of the class minus the mean of the others, without the bias"
)


def arrays(tested: Tested) -> dict[str, np.ndarray]:
    """See pictures.base."""
    module, system, order = tested.system.finetune.module, tested.system, tested.settings.model.order

    @jax.jit
    def look(variables: Any, store: Any, clip: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        maps = system.view(store, clip, jnp.int32(0), False)["maps"]
        logits = module.apply(variables, {"maps": maps[None]}, False)["logits"][0]
        return maps, logits, evidence(module, variables, maps, logits.argmax())

    found: dict[str, list[Any]] = {}
    for variables, clips in tested.folds:
        for clip in (int(c) for c in clips if int(c) in tested.shown):
            maps, logits, shares = look(variables, tested.store, jnp.int32(clip))
            row: dict[str, Any] = {
                "ststnet_maps": np.asarray(maps)[..., [order.index(name) for name in MAPS]] / 255,
                "ststnet_evidence": shares,
                "ststnet_title": _title(tested, clip, np.asarray(logits)),
            }
            if tested.settings.model.input == "frames":
                row["ststnet_frame"] = _apex(tested.store, clip)
            for name, value in row.items():
                found.setdefault(name, []).append(np.asarray(value))
    return {name: np.stack(values) for name, values in found.items()}


def evidence(module: Any, variables: Any, maps: jax.Array, chosen: jax.Array) -> jax.Array:
    """How much each place of each stream adds to a class: [streams, k, k].

    The classifier is linear, so its logits are sums over streams and places. INFERRED: a class is compared with the
    mean of the others, since what raises all classes alike decides nothing.

    Args:
      module: STSTNet.
      variables: its variables.
      maps: [S, S, 3], one input.
      chosen: the class.
    """
    pooled = module.apply(variables, maps[None], False, method="pool")[0, ..., 0]  # [F, n, n]
    k = pooled.shape[1] // 2
    squares = pooled[:, : 2 * k, : 2 * k].reshape(-1, k, 2, k, 2).mean((2, 4))
    kernel = variables["params"]["linear"]["kernel"]
    others = (kernel.sum(1) - kernel[:, chosen]) / max(kernel.shape[1] - 1, 1)
    shares = squares * (kernel[:, chosen] - others).reshape(squares.shape)
    return jnp.stack([part.sum(0) for part in jnp.split(shares, np.cumsum(module.filters)[:-1])])


def _apex(store: Any, clip: int) -> np.ndarray:
    facts = (np.asarray(x)[clip] for x in (store.onset, store.apex, store.offset))
    frame = int(np.asarray(store.start)[clip]) + int(sampling.known_apex(*facts))
    return np.asarray(store.frames[frame], np.float32) / 255


def _title(tested: Tested, clip: int, logits: np.ndarray) -> str:
    units = ", ".join(f"AU{k}" for k in np.flatnonzero(tested.table["action_units"][clip] == 1)) or "AUs unknown"
    if tested.settings.task == "au":
        said = ", ".join(name for name, logit in zip(tested.classes, logits, strict=True) if logit > 0) or "none"
    else:
        said = tested.classes[int(logits.argmax())]
    return f"{tested.table['emotion'][clip]} ({units}), predicted {said}"


def pictures(panels: Mapping[str, np.ndarray]) -> list[Picture]:
    """See pictures.base."""
    if "ststnet_maps" not in panels:
        return []
    figure = streams(
        panels["ststnet_maps"],
        panels["ststnet_evidence"],
        panels.get("ststnet_frame"),
        panels["ststnet_title"].tolist(),
    )
    return [Picture("ststnet_streams", "What the streams see", figure, CAPTION, wide=True)]


def streams(maps: np.ndarray, shares: np.ndarray, frames: np.ndarray | None, titles: Sequence[str]) -> Figure:
    """One clip a row: apex, u, v, strain, and the evidence of each stream.

    Args:
      maps: [m, S, S, 3] in 0..1.
      shares: [m, streams, k, k].
      frames: [m, H, W, C] in 0..1, or None.
      titles: one a clip.
    """
    headings = [*([] if frames is None else ["apex"]), "flow u", "flow v", "strain"]
    headings += [f"stream {i + 1}" for i in range(shares.shape[1])]
    figure, grid = figures.picture_grid(len(maps), len(headings), 2 * figures.WIDTH / len(headings))
    for i, row in enumerate(grid):
        limit = float(np.abs(shares[i]).max()) or 1.0
        cells = list(row)
        if frames is not None:
            shown = frames[i][..., 0] if frames.shape[-1] == 1 else frames[i]
            cells.pop(0).imshow(shown, cmap="gray", vmin=0, vmax=1)
        for axes, channel in zip(cells, np.moveaxis(maps[i], -1, 0), strict=False):
            axes.imshow(channel, cmap="cividis", vmin=0, vmax=1)
        for axes, share in zip(cells[maps.shape[-1] :], shares[i], strict=True):
            axes.imshow(share, cmap="RdBu_r", vmin=-limit, vmax=limit)
        for axes, heading in zip(row, headings, strict=True):
            figures.bare(axes)
            if i == 0:
                axes.set_title(heading, fontsize=8, pad=3)
        figures.text_below(row[0], str(titles[i]))
    return figure
