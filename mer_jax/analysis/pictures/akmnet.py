"""AKMNet in the report: what it scores and keeps of a clip, beside the true event."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from mer_jax.analysis.figures import PALETTE
from mer_jax.analysis.pictures.base import Picture, Tested

STRIP = 12  # frames drawn of a clip
DIMENSIONS = {
    "akmnet_strip": 5,  # [m, STRIP, H, W, C] in 0..1, frames evenly from the first to the last that was looked at
    "akmnet_drawn": 2,  # [m, STRIP], which of the frames these are
    "akmnet_scores": 2,  # [m, T], NaN beyond the end of a clip
    "akmnet_kept": 2,  # [m, T] 1 key frame, 0 dropped, NaN beyond the end
    "akmnet_position": 2,  # [m, T] positions in the recording
    "akmnet_moments": 2,  # [m, 3] true onset, apex and offset, NaN where unknown
    "akmnet_title": 1,  # [m] text: label, action units, prediction
}
GROUPS = ("akmnet",)  # arrays of one group have the same length
MOMENTS = ("onset", "apex", "offset")


def arrays(tested: Tested) -> dict[str, np.ndarray]:
    """See pictures.base; nothing where no frames are scored."""
    system, store, table = tested.system, tested.store, tested.table
    if tested.settings.ft.mining == "none" or tested.settings.task != "emotion":
        return {}
    buckets, module = system.buckets(store), system.finetune.module

    @functools.partial(jax.jit, static_argnames="length")
    def look(variables: Any, store: Any, clip: jax.Array, length: int) -> Any:
        batch = jax.tree.map(lambda x: x[None], system.view(store, clip, jnp.int32(0), False, length))
        outputs = module.apply(variables, batch, False)
        return jax.tree.map(lambda x: x[0], (batch, dict(outputs)))

    found: dict[str, list[Any]] = {}
    longest = buckets.lengths[-1]
    for variables, clips in tested.folds:
        for clip in (int(c) for c in clips if int(c) in tested.shown):
            length = buckets.lengths[buckets.of_clip[clip]]
            batch, outputs = look(variables, store, jnp.int32(clip), length=length)
            count = int(batch["mask"].sum())
            drawn = np.round(np.linspace(0, count - 1, STRIP)).astype(int)
            units = ", ".join(f"AU{k}" for k in np.flatnonzero(table["action_units"][clip] == 1))
            said = tested.classes[int(np.asarray(outputs["logits"]).argmax())]
            moments = np.array([table[f"true_{name}"][clip] for name in MOMENTS], np.float32)
            row = {
                "strip": np.asarray(batch["frames"])[drawn],
                "drawn": drawn,
                "scores": _padded(outputs["scores"], count, longest),
                "kept": _padded(outputs["kept"], count, longest),
                "position": _padded(batch["position"], count, longest),
                "moments": np.where(moments < 0, np.nan, moments),
                "title": f"{table['emotion'][clip]} ({units or 'AUs unknown'}), predicted {said}",
            }
            for name, value in row.items():
                found.setdefault(f"akmnet_{name}", []).append(value)
    return {name: np.stack(values) for name, values in found.items()}


def _padded(values: Any, count: int, length: int) -> np.ndarray:
    """The first `count` numbers, then NaN up to `length`."""
    whole = np.full(length, np.nan, np.float32)
    whole[:count] = np.asarray(values, np.float32)[:count]
    return whole


def pictures(panels: Mapping[str, np.ndarray]) -> list[Picture]:
    """See pictures.base."""
    if "akmnet_scores" not in panels:
        return []
    caption = (
        "Frames of each clip, key frames framed in orange; below them the score of every frame (filled: key frame, "
        "empty: dropped), the clip's mean score that key frames exceed (dashed), and the true onset, apex and offset "
        "(grey), of which the network knows nothing"
    )
    return [Picture("key_frames", "Key frames", key_frames(panels), caption, wide=True)]


def key_frames(panels: Mapping[str, np.ndarray]) -> Figure:
    """A strip of frames and a curve of scores for each clip, see DIMENSIONS."""
    strips = panels["akmnet_strip"]
    cell, curve, title, left = 0.72, 0.6, 0.2, 0.5  # inches; `left` holds the numbers of the scores
    tall = title + cell + title + curve + 0.32
    width, height = left + STRIP * cell, len(strips) * tall
    figure = Figure(figsize=(width, height))
    for i, strip in enumerate(strips):
        top = height - i * tall
        figure.text(left / width, (top - 0.7 * title) / height, str(panels["akmnet_title"][i]), fontsize=8)
        scores, kept, position = (panels[f"akmnet_{name}"][i] for name in ("scores", "kept", "position"))
        side, bottom = 0.92 * cell, top - title - cell
        for j, image in enumerate(strip):
            axes = figure.add_axes(((left + j * cell) / width, bottom / height, side / width, side / height))
            axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
            chosen = kept[panels["akmnet_drawn"][i][j]] == 1
            axes.spines[:].set(visible=bool(chosen), color=PALETTE[1], linewidth=2.5)
        below = bottom - title - curve
        axes = figure.add_axes((left / width, below / height, (STRIP * cell - 0.1) / width, curve / height))
        there = np.isfinite(scores)
        axes.plot(position[there], scores[there], color=PALETTE[0], linewidth=0.8)
        for chosen, face in ((1, PALETTE[1]), (0, "white")):
            mine = kept == chosen
            axes.plot(position[mine], scores[mine], "o", color=PALETTE[1], markerfacecolor=face, markersize=3.5)
        axes.axhline(scores[there].mean(), color="#666666", linewidth=0.8, linestyle="--")
        for name, moment in zip(MOMENTS, panels["akmnet_moments"][i], strict=True):
            if np.isfinite(moment):
                axes.axvline(moment, color="#999999", linewidth=1)
                axes.text(moment, 1.0, name, transform=axes.get_xaxis_transform(), fontsize=6, ha="center", va="bottom")
        axes.tick_params(labelsize=6)
        axes.set_xlabel("frame of the recording", fontsize=6, labelpad=1)
    return figure
