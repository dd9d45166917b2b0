"""ATNet in the report: the apex frame, the flow around it, and which places and moments decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from mer_jax.analysis import figures
from mer_jax.analysis.pictures.base import Picture, Tested
from mer_jax.data import flow_grid, sampling

SHOWN_STEPS = 5
DIMENSIONS = {
    "atnet_clip_apex": 3,  # [m, S, S] in 0..1
    "atnet_clip_title": 1,  # [m] text: label, action units and what was predicted
    "atnet_clip_pixels": 3,  # [m, k, k] share of the apex frame's gradient in each block; with a spatial stream
    "atnet_clip_flow": 4,  # [m, T, k * k, 2] direction and magnitude; with a temporal stream, as are the next
    "atnet_clip_valid": 2,  # [m, T]
    "atnet_clip_steps": 2,  # [m, T] share of the flow's gradient in each step
    "atnet_clip_time": 2,  # [m, T + 1] ends of the steps, ms from the apex; frames where the rate is unknown
    "atnet_clip_true": 2,  # [m, 3] true onset, apex and offset on the same axis; NaN where unknown
    "atnet_all_steps": 2,  # [n, T] of all tested clips
    "atnet_all_valid": 2,  # [n, T]
}
GROUPS = ("atnet_clip", "atnet_all")  # arrays of one group have the same length


def arrays(tested: Tested) -> dict[str, np.ndarray]:
    """See pictures.base."""
    system, module, store = tested.system, tested.system.finetune.module, tested.store
    cells = tested.settings.model.cells

    @jax.jit
    def look(variables: Any, store: Any, clip: jax.Array) -> Any:
        view = system.view(store, clip, jnp.int32(0), False)
        batch = {name: view[name][None] for name in ("apex", "flow", "valid") if name in view}
        seen = {name: batch[name] for name in ("apex", "flow") if name in batch}

        def largest(seen: Any) -> tuple[jax.Array, jax.Array]:
            logits = module.apply(variables, {**batch, **seen}, False)["logits"][0]
            return logits.max() - logits.mean(), logits

        gradient, logits = jax.grad(largest, has_aux=True)(seen)
        return batch, logits, gradient

    found: dict[str, list[Any]] = {}
    for variables, clips in tested.folds:
        for clip in (int(c) for c in clips):
            batch, logits, gradient = jax.device_get(look(variables, store, jnp.int32(clip)))
            row: dict[str, Any] = {}
            if "flow" in batch:
                steps = _share(np.linalg.norm(gradient["flow"][0], axis=-1) * batch["valid"][0])
                row |= {"all_steps": steps, "all_valid": batch["valid"][0]}
            if clip in tested.shown:
                row |= {"clip_apex": _apex(store, clip), "clip_title": _title(tested, clip, logits)}
                if "apex" in batch:
                    row["clip_pixels"] = _share(_blocks(np.abs(gradient["apex"][0, ..., 0]), cells))
                if "flow" in batch:
                    row |= {
                        "clip_flow": batch["flow"][0].reshape(len(batch["valid"][0]), -1, 2),
                        "clip_valid": batch["valid"][0],
                        "clip_steps": steps,
                        **_time(system.grid, store, clip),
                    }
            for name, value in row.items():
                found.setdefault(f"atnet_{name}", []).append(np.asarray(value))
    return {name: np.stack(values) for name, values in found.items()}


def _share(x: np.ndarray) -> np.ndarray:
    return x / max(float(x.sum()), 1e-30)


def _blocks(x: np.ndarray, cells: int) -> np.ndarray:
    side = x.shape[0] // cells * cells
    return np.asarray(x[:side, :side].reshape(cells, side // cells, cells, side // cells).sum((1, 3)))


def _apex(store: Any, clip: int) -> np.ndarray:
    positions = (np.asarray(getattr(store, name)[clip]) for name in ("onset", "apex", "offset"))
    row = int(store.start[clip]) + int(sampling.known_apex(*positions))
    return np.asarray(store.frames[row][..., 0], np.float32) / 255


def _time(grid: flow_grid.FlowGrid, store: Any, clip: int) -> dict[str, np.ndarray]:
    """Ends of the steps and the true key frames, in ms from the apex (in frames where the rate is unknown)."""
    facts = {n: int(getattr(store, n)[clip]) for n in ("onset", "offset", "true_onset", "true_apex", "true_offset")}
    onset, offset, apex = facts["onset"], facts["offset"], int(store.apex[clip])
    apex = int(sampling.known_apex(*(np.array(x) for x in (onset, apex, offset))))
    fps = float(store.fps[clip])
    at, _ = flow_grid.moments(grid, onset, apex, offset, fps)
    unit = 1000 / fps if np.isfinite(fps) else 1.0
    true = np.array([facts[f"true_{name}"] for name in ("onset", "apex", "offset")], float)
    return {"clip_time": (at - apex) * unit, "clip_true": np.where(true < 0, np.nan, (true - apex) * unit)}


def _title(tested: Tested, clip: int, logits: np.ndarray) -> str:
    units = ", ".join(f"AU{k}" for k in np.flatnonzero(tested.table["action_units"][clip] == 1))
    said = tested.classes[int(logits.argmax())]
    return f"{tested.table['emotion'][clip]} ({units or 'AUs unknown'}), predicted {said}"


def pictures(panels: Mapping[str, np.ndarray]) -> list[Picture]:
    """See pictures.base."""
    if "atnet_clip_apex" not in panels:
        return []
    clip = {name.removeprefix("atnet_clip_"): x for name, x in panels.items() if name.startswith("atnet_clip_")}
    caption = "Apex frame"
    if "pixels" in clip:
        caption += ", and over it the share of the gradient of the predicted class in each block (bright: decides more)"
    if "flow" in clip:
        caption += (
            ". To the right the flow of single steps, before and after the apex, each block with its mean direction "
            "and magnitude as the network read them, ms from the apex below; arrows are scaled by the 95 % quantile of "
            "the clip, and cut at 1.5 of it"
        )
    found = [Picture("atnet_apex", "The apex, and the flow around it", apex_and_flow(clip), caption, wide=True)]
    if "flow" in clip:
        caption = (
            "Magnitude of the flow of every block (rows, from the top left to the bottom right) over time, and the "
            "share of each step in the gradient of the predicted class (line). 0 is the annotated apex; dashed lines "
            "are the true onset, apex and offset where they are known; steps outside onset .. offset are hatched"
        )
        found.append(Picture("atnet_time", "The flow over time", flow_over_time(clip), caption))
        text = _where_it_listens(panels["atnet_all_steps"], panels["atnet_all_valid"])
        caption = "Share of each step in the gradient of the predicted class, over all tested clips that have the step"
        figure = steps_figure(panels["atnet_all_steps"], panels["atnet_all_valid"])
        found.append(Picture("atnet_steps", "Which moments decide", figure, caption, text=text))
    return found


def _where_it_listens(steps: np.ndarray, valid: np.ndarray) -> str:
    side = steps.shape[1] // 2
    before, possible = steps[:, :side].sum(1).mean(), (valid[:, :side].sum(1) / np.maximum(valid.sum(1), 1)).mean()
    return (
        f"Over the {len(steps)} tested clips {before:.0%} of the gradient falls on steps before the apex, which are "
        f"{possible:.0%} of the steps that the clips have."
    )


@figures.styled
def apex_and_flow(clip: Mapping[str, np.ndarray]) -> Figure:
    """One clip a row: apex frame, its gradient, the flow of a few steps.

    Args:
      clip: the arrays `atnet_clip_*` without that prefix.
    """
    frames = clip["apex"]
    columns = 1 + ("pixels" in clip) + (SHOWN_STEPS if "flow" in clip else 0)
    figure, grid = figures.picture_grid(len(frames), columns, 1.25)
    for i, row in enumerate(grid):
        for axes in row:
            axes.imshow(frames[i], cmap="gray")
            figures.bare(axes)
        headings = ["apex"]
        if "pixels" in clip:
            size = (0, frames.shape[2], frames.shape[1], 0)
            row[1].imshow(
                clip["pixels"][i], cmap="inferno", alpha=0.55, extent=(-0.5, size[1] - 0.5, size[2] - 0.5, -0.5)
            )
            headings.append("decides")
        if "flow" in clip:
            _arrows(row[-SHOWN_STEPS:], {name: x[i] for name, x in clip.items()})
        if i == 0:
            for axes, text in zip(row, headings, strict=False):
                axes.set_title(text, fontsize=8, pad=3)
        figures.text_below(row[0], str(clip["title"][i]))
    return figure


def _arrows(row: Sequence[Any], clip: Mapping[str, np.ndarray]) -> None:
    """Flow of evenly spaced steps of one clip over its faint apex frame."""
    size, steps = clip["apex"].shape[0], np.flatnonzero(clip["valid"])
    if not len(steps):
        return
    direction, magnitude = clip["flow"][..., 0], clip["flow"][..., 1]
    cells = round(magnitude.shape[1] ** 0.5)
    centre = (np.arange(cells) + 0.5) * size / cells - 0.5
    x, y = np.meshgrid(centre, centre)
    longest = max(float(np.quantile(magnitude[clip["valid"].astype(bool)], 0.95)), 1e-6)  # borders move at random
    chosen = steps[np.rint(np.linspace(0, len(steps) - 1, min(len(row), len(steps)))).astype(int)]
    for axes, step in zip(row, chosen, strict=False):
        length = np.minimum(magnitude[step] / longest, 1.5) * size / cells
        u, v = length * np.cos(direction[step]), length * np.sin(direction[step])
        axes.images[0].set_alpha(0.45)
        axes.quiver(
            x, y, u.reshape(x.shape), v.reshape(x.shape), color=figures.PALETTE[1], angles="xy", scale_units="xy",
            scale=1, width=0.012, pivot="mid",
        )  # fmt: skip
        axes.text(
            0.03, 0.03, f"{clip['time'][step]:+.0f}", transform=axes.transAxes, fontsize=7, color="black",
            bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1},
        )  # fmt: skip


@figures.styled
def flow_over_time(clip: Mapping[str, np.ndarray]) -> Figure:
    """Magnitude of every block over time, one clip a strip.

    Args:
      clip: the arrays `atnet_clip_*` without that prefix.
    """
    n = len(clip["flow"])
    figure = Figure(figsize=(figures.WIDTH, 0.5 + 1.05 * n), layout="constrained")
    for i, axes in enumerate(np.atleast_1d(figure.subplots(n, 1))):
        time, valid, magnitude = clip["time"][i], clip["valid"][i].astype(bool), clip["flow"][i, :, :, 1]
        top = max(float(np.quantile(magnitude[valid], 0.98)), 1e-6) if valid.any() else 1.0
        axes.pcolormesh(
            time, np.arange(magnitude.shape[1] + 1), magnitude.T, cmap="viridis", vmin=0, vmax=top, rasterized=True
        )
        for step in np.flatnonzero(~valid):
            axes.axvspan(
                time[step], time[step + 1], facecolor="#f2f2f2", hatch="////", edgecolor="#c8c8c8", linewidth=0
            )
        axes.axvline(0, color="white", linewidth=1.2)
        for moment in clip["true"][i]:
            if np.isfinite(moment):
                axes.axvline(moment, color=figures.PALETTE[1], linestyle="--", linewidth=1)
        share = axes.twinx()
        middle = (time[1:] + time[:-1]) / 2
        share.plot(middle, np.where(valid, clip["steps"][i], np.nan), color=figures.PALETTE[1], linewidth=1.5)
        share.set_ylim(0, None)
        axes.set_title(str(clip["title"][i]), fontsize=8, loc="left", pad=2)
        axes.set_xlim(time[0], time[-1])
        axes.invert_yaxis()
        for side in (axes, share):
            side.grid(False)
            side.set_yticks([])
    axes.set_xlabel("ms from the apex (frames where the rate is unknown)")
    return figure


@figures.styled
def steps_figure(steps: np.ndarray, valid: np.ndarray) -> Figure:
    """Mean share of each step in the gradient, over the clips that have it.

    Args:
      steps: [n, T] shares, of every clip 1 in sum.
      valid: bool [n, T].
    """
    side = steps.shape[1] // 2
    count = valid.sum(0)
    mean = np.where(count > 0, (steps * valid).sum(0) / np.maximum(count, 1), np.nan)
    even = np.where(
        count > 0, (valid / np.maximum(valid.sum(1, keepdims=True), 1)).sum(0) / np.maximum(count, 1), np.nan
    )
    figure, axes = figures.new_figure(figures.WIDTH, 2.2)
    at = np.arange(-side, side) + 0.5
    axes.plot(at, mean, color=figures.PALETTE[0], linewidth=2, label="the network")
    axes.plot(at, even, "--", color="#888888", linewidth=1.2, label="all steps alike")
    axes.axvline(0, color=figures.PALETTE[1], linewidth=1)
    axes.set_ylim(0, None)
    axes.set_xlabel("step from the apex")
    axes.set_ylabel("share")
    figure.legend(loc="outside upper right", ncols=2)
    return figure
