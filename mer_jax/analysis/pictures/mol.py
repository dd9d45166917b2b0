"""MOL in the report: estimated flow and landmarks on frames, beside their targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure

from mer_jax.analysis import figures
from mer_jax.analysis.figures import PALETTE
from mer_jax.analysis.pictures.base import Picture, Tested

ARROWS = 8  # along each side of a flow field
DIMENSIONS = {
    "mol_flow_frame": 3,  # [m, S, S] in 0..1, first frame of the pair whose target moves most
    "mol_flow_target": 4,  # [m, S, S, 2] in pixels, TV-L1
    "mol_flow_found": 4,  # [m, S, S, 2]
    "mol_flow_title": 1,  # [m] text: label, action units, errors
    "mol_face_frame": 3,  # [m, S, S] in 0..1, last frame of the sequence
    "mol_face_target": 3,  # [m, 68, 2] in pixels
    "mol_face_found": 3,  # [m, 68, 2]
    "mol_face_mean": 3,  # [m, 68, 2], mean shape of the training persons
    "mol_face_title": 1,  # [m] text
}
GROUPS = ("mol_flow", "mol_face")  # arrays of one group have the same length


def arrays(tested: Tested) -> dict[str, np.ndarray]:
    """See pictures.base; nothing where the network has neither auxiliary task."""
    system, store, table = tested.system, tested.store, tested.table
    model = tested.settings.model
    if not (model.flow or model.landmarks):
        return {}

    @jax.jit
    def look(variables: Any, store: Any, clip: jax.Array) -> Any:
        batch = jax.tree.map(lambda x: x[None], system.view(store, clip, jnp.int32(0), False))
        outputs = system.finetune.module.apply(variables, batch, False)
        return jax.tree.map(lambda x: x[0], (batch, dict(outputs), dict(system.measures(outputs, batch))))

    found: dict[str, list[Any]] = {}

    def add(group: str, **row: Any) -> None:
        for name, value in row.items():
            found.setdefault(f"mol_{group}_{name}", []).append(np.asarray(value))

    for variables, clips in tested.folds:
        for clip in sorted(set(clips.tolist()) & set(tested.shown)):
            batch, outputs, measures = jax.tree.map(np.asarray, look(variables, store, jnp.int32(clip)))
            units = ", ".join(f"AU{k}" for k in np.flatnonzero(table["action_units"][clip] == 1))
            title = f"{table['emotion'][clip]} ({units or 'AUs unknown'})"
            frames = batch["frames"][..., 0]
            if model.flow:
                pair = int((batch["flow"] ** 2).sum(axis=(1, 2, 3)).argmax())
                told = f"{title}: {measures['epe']:.3f} px, no flow {measures['epe_zero']:.3f}"
                add("flow", frame=frames[pair], target=batch["flow"][pair], found=outputs["flow"][pair], title=told)
            if model.landmarks and np.isfinite(batch["landmarks"][-1]).all():
                told = f"{title}: {measures['nme']:.1%}, mean shape {measures['nme_mean']:.1%}"
                add("face", frame=frames[-1], target=batch["landmarks"][-1], found=outputs["landmarks"][-1], title=told)
                add("face", mean=outputs["mean_shape"])
    return {name: np.stack(values) for name, values in found.items()}


def pictures(panels: Mapping[str, np.ndarray]) -> list[Picture]:
    """See pictures.base."""
    found = []
    if "mol_flow_frame" in panels:
        parts = (panels[f"mol_flow_{k}"] for k in ("frame", "target", "found", "title"))
        caption = (
            "First frame of the pair that moves most, TV-L1 flow to the next frame (the training target), and the flow "
            "that the network of the fold found, which has not seen this person. Arrows and hue point the way, "
            "strength of colour is length, the same scale within a row. Mean error over all pairs of the sequence"
        )
        found.append(Picture("flow", "Optical flow", flow_fields(*parts), caption))
    if "mol_face_frame" in panels:
        parts = (panels[f"mol_face_{k}"] for k in ("frame", "target", "found", "mean", "title"))
        caption = (
            "Last frame with its landmarks (the target), with those found by the network of the fold, and with the "
            "mean shape of the training persons, which is what a network without eyes would say. Mean error over the "
            "frames of the sequence, in distances of the eye centres"
        )
        found.append(Picture("landmarks", "Landmarks", faces(*parts), caption))
    return found


def flow_image(flow: np.ndarray, longest: float) -> np.ndarray:
    """Colour wheel: direction as hue, length as strength of colour from white.

    Args:
      flow: [H, W, 2] in pixels, u to the right, v down.
      longest: length of full colour.

    Returns:
      [H, W, 3] in 0..1.
    """
    hue = (np.arctan2(-flow[..., 1], -flow[..., 0]) / (2 * np.pi)) % 1.0
    strength = np.clip(np.linalg.norm(flow, axis=-1) / max(longest, 1e-6), 0, 1)
    return np.asarray(hsv_to_rgb(np.stack([hue, strength, 1 - 0.15 * strength], axis=-1)))


@figures.styled
def flow_fields(frames: np.ndarray, targets: np.ndarray, found: np.ndarray, titles: np.ndarray) -> Figure:
    """A row a clip: frame, target, what was found; the colour wheel as a key in the first target.

    Args:
      frames: [m, S, S] in 0..1.
      targets: [m, S, S, 2] in pixels.
      found: [m, S, S, 2].
      titles: [m] text.
    """
    figure, grid = figures.picture_grid(len(frames), 3, figures.WIDTH / 3)
    for row, frame, target, flow, title in zip(grid, frames, targets, found, titles, strict=True):
        longest = float(np.percentile(np.linalg.norm(target, axis=-1), 99))
        row[0].imshow(frame, cmap="gray", vmin=0, vmax=1)
        for axes, field in zip(row[1:], (target, flow), strict=True):
            axes.imshow(flow_image(field, longest))
            _arrows(axes, field, longest)
        for axes in row:
            figures.bare(axes)
        figures.text_below(row[0], str(title))
    for axes, heading in zip(grid[0], ("frame", "TV-L1", "network"), strict=True):
        axes.set_title(heading, fontsize=8, pad=3)
    _wheel(grid[0][1])
    return figure


def _arrows(axes: Axes, flow: np.ndarray, longest: float) -> None:
    side = flow.shape[0]
    places = ((np.arange(ARROWS) + 0.5) * side / ARROWS).astype(int)
    x, y = np.meshgrid(places, places)
    u, v = (flow[y, x, c] / max(longest, 1e-6) * side / ARROWS for c in (0, 1))
    axes.quiver(x, y, u, v, angles="xy", scale_units="xy", scale=1, color="black", width=0.008)


def _wheel(axes: Axes) -> None:
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    wheel = flow_image(np.stack([x, y], axis=-1), 1.0)
    outside = (np.hypot(x, y) > 1)[..., None]
    inset = axes.inset_axes((0.76, 0.76, 0.22, 0.22))
    inset.imshow(np.concatenate([wheel, 1.0 - outside], axis=-1))
    inset.axis("off")


@figures.styled
def faces(frames: np.ndarray, targets: np.ndarray, found: np.ndarray, means: np.ndarray, titles: np.ndarray) -> Figure:
    """A row a clip: target, found and mean points on the frame.

    Args:
      frames: [m, S, S] in 0..1.
      targets: [m, 68, 2] in pixels.
      found: [m, 68, 2].
      means: [m, 68, 2].
      titles: [m] text.
    """
    figure, grid = figures.picture_grid(len(frames), 3, figures.WIDTH / 3)
    for row, frame, target, points, mean, title in zip(grid, frames, targets, found, means, titles, strict=True):
        for axes, shown, ink in zip(row, (target, points, mean), (2, 4, 5), strict=True):
            axes.imshow(frame, cmap="gray", vmin=0, vmax=1)
            axes.plot(target[:, 0], target[:, 1], ".", color="white", markersize=2.5)
            axes.plot(shown[:, 0], shown[:, 1], ".", color=PALETTE[ink], markersize=2)
            size = frame.shape[0]
            axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
            figures.bare(axes)
        figures.text_below(row[0], str(title))
    for axes, heading in zip(grid[0], ("landmarks", "network (white: target)", "mean shape"), strict=True):
        axes.set_title(heading, fontsize=8, pad=3)
    return figure
