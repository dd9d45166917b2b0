"""FDP in the report: true and constructed dynamic images, and the rank score over time beside what it must beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from mer_jax.analysis import figures
from mer_jax.analysis.figures import PALETTE
from mer_jax.analysis.pictures.base import Picture, Tested
from mer_jax.data import align, prepared, sampling
from mer_jax.data import source as sources
from mer_jax.data.store import build_store
from mer_jax.evaluation.metrics import percentile_interval, person_weights

MOMENTS = 48  # frames of a clip whose score is drawn
ORDERS = ("tau_onset_apex", "tau_apex_offset", "tau_event")
DEPARTURES = tuple(name.replace("tau", "tau_departure") for name in ORDERS)
DIMENSIONS = {
    "fdp_image_frame": 3,  # [m, H, W] in 0..1, the first frame that was looked at
    "fdp_image_true": 3,  # [m, S, S] in 0..1, the target
    "fdp_image_constructed": 3,  # [m, S, S]
    "fdp_image_mean": 3,  # [m, S, S], the mean of the training clips' true images
    "fdp_image_correlation": 1,  # [m], of true and constructed inside the true moving region
    "fdp_image_title": 1,  # [m] text: label, action units
    "fdp_score_position": 2,  # [k, MOMENTS] frames of the recording
    "fdp_score_value": 2,  # [k, MOMENTS], their scores
    "fdp_score_keys": 2,  # [k, 3] onset, apex and offset, the exact ones where known; NaN where unknown
    "fdp_score_title": 1,  # [k] text: label, action units
    "fdp_tau_order": 2,  # [n, 3] ORDERS of every tested clip
    "fdp_tau_departure": 2,  # [n, 3], the same of how far a frame is from the first one of its sequence
    "fdp_tau_rising": 1,  # [n], of one increasing function of the intensity
    "fdp_tau_person": 1,  # [n] text
    "fdp_drift_order": 2,  # [d, 3] ORDERS of clips without an expression, of tested persons
    "fdp_drift_person": 1,  # [d] text
}
GROUPS = ("fdp_image", "fdp_score", "fdp_tau", "fdp_drift")  # arrays of one group have the same length


def arrays(tested: Tested) -> dict[str, np.ndarray]:
    """See pictures.base; nothing where the network has neither a dynamic image nor a scorer."""
    system, store, table = tested.system, tested.store, tested.table
    module = system.finetune.module
    if module.segnet is None and module.scorer is None:
        return {}
    drift_store, drift_persons = (None, np.array([])) if module.scorer is None else _without_expression(tested)

    @jax.jit
    def look(variables: Any, store: Any, clip: jax.Array) -> Any:
        batch = jax.tree.map(lambda x: x[None], system.view(store, clip, jnp.int32(0), False))
        outputs = module.apply(variables, batch, False)
        return jax.tree.map(lambda x: x[0], (batch, dict(outputs), system.measures(outputs, batch)))

    @jax.jit
    def score(variables: Any, store: Any, clip: jax.Array) -> Any:
        batch = jax.tree.map(lambda x: x[None], system.view(store, clip, jnp.int32(0), False))
        position = jnp.round(sampling.positions_even(jnp.int32(0), store.length[clip] - 1, MOMENTS)).astype(jnp.int32)
        frames = store.frames[store.start[clip] + position].astype(jnp.float32) / 255
        outputs = module.apply(variables, {**batch, "order_frames": frames[None]}, False)
        return position, outputs["order_scores"][0]

    found: dict[str, list[Any]] = {}

    def add(group: str, **row: Any) -> None:
        for name, value in row.items():
            found.setdefault(f"fdp_{group}_{name}", []).append(np.asarray(value))

    for variables, clips in tested.folds:
        for clip in (int(c) for c in clips):
            batch, outputs, measures = look(variables, store, jnp.int32(clip))
            units = ", ".join(f"AU{k}" for k in np.flatnonzero(table["action_units"][clip] == 1))
            title = f"{table['emotion'][clip]} ({units or 'AUs unknown'})"
            if clip in tested.shown and module.segnet is not None:
                add("image", frame=batch["frames"][0, ..., 0], true=outputs["target"], constructed=outputs["image"])
                add("image", mean=outputs["mean_image"], correlation=measures["image_correlation"], title=title)
            if "tau_event" not in measures:
                continue
            order, departure = ([measures[name] for name in names] for names in (ORDERS, DEPARTURES))
            add("tau", order=order, departure=departure, rising=measures["tau_rising"], person=table.person[clip])
            if clip in tested.shown:
                keys = np.asarray(batch["key_frames"], np.float32)
                position, scores = score(variables, store, jnp.int32(clip))
                keys = np.where(keys < 0, np.nan, keys)
                add("score", position=position, value=scores, keys=keys, title=title)
        for row in np.flatnonzero(np.isin(drift_persons, table.person[clips])):
            _, _, measures = look(variables, drift_store, jnp.int32(row))
            if "tau_event" in measures:
                add("drift", order=[measures[name] for name in ORDERS], person=drift_persons[row])
    return {name: np.stack(values) for name, values in found.items()}


def _without_expression(tested: Tested) -> tuple[Any, np.ndarray]:
    """A store of the data sets' clips without an expression, and their persons; nothing where there are none."""
    data = tested.settings.data
    try:
        source = sources.open_datasets(data.name.split("+"), prepared.data_dir(tested.settings))
    except sources.NotBuiltError:
        return None, np.array([])
    rows = np.flatnonzero(source.table["expression_type"] == "neutral")
    if not len(rows):
        return None, np.array([])
    how = align.Alignment(data.align, data.align_margin)
    nothing = np.full(len(rows), -1, np.int32)
    store, table = build_store(
        source, rows, tested.system.needs, nothing, fit=data.fit, align=how, extent=data.extent
    )  # fmt: skip
    return store, table.person


def pictures(panels: Mapping[str, np.ndarray]) -> list[Picture]:
    """See pictures.base."""
    found = []
    if "fdp_image_true" in panels:
        caption = (
            "First frame of each clip, its true dynamic image (approximate rank pooling), the image that the network "
            "of the fold that tested it constructs, and the mean of the training clips' true images, which knows "
            "nothing of the clip. r: correlation of true and constructed where the true one is furthest from 0"
        )
        found.append(Picture("dynamic_images", "Dynamic images", dynamic_images(panels), caption))
    if "fdp_score_value" in panels:
        caption = (
            "Score of single frames over time, people whom the network has not seen; onset, apex and offset in grey. "
            "Training asks scores to rise from the first to the last frame. Where the network sees differences to the "
            "first frame of a sequence (model.reference=first), that frame has the lowest score"
        )
        heading = "Order of frames"
        found.append(Picture("rank_scores", heading, rank_scores(panels), caption, text=_sentence(panels)))
    return found


@figures.styled
def dynamic_images(panels: Mapping[str, np.ndarray]) -> Figure:
    """Frame, true, constructed and mean dynamic image of each clip, see DIMENSIONS."""
    columns = {"frame": "first frame", "true": "true", "constructed": "constructed", "mean": "mean of training"}
    figure, grid = figures.picture_grid(len(panels["fdp_image_true"]), len(columns), 1.3)
    for i, row in enumerate(grid):
        for axes, (name, title) in zip(row, columns.items(), strict=True):
            image, signed = panels[f"fdp_image_{name}"][i], name != "frame"
            if signed:  # around mid-grey, as far as the true image goes
                reach = max(float(np.abs(panels["fdp_image_true"][i] - 0.5).max()), 1e-6)
                axes.imshow(image - 0.5, cmap="RdBu_r", vmin=-reach, vmax=reach)
            else:
                axes.imshow(image, cmap="gray", vmin=0, vmax=1)
            axes.set_title(title if i == 0 else "", fontsize=8, pad=3)
            figures.bare(axes)
        r = float(panels["fdp_image_correlation"][i])  # unknown where an image is the same all over the region
        figures.text_below(row[0], f"{panels['fdp_image_title'][i]}   r {f'{r:+.2f}' if np.isfinite(r) else 'unknown'}")
    return figure


@figures.styled
def rank_scores(panels: Mapping[str, np.ndarray]) -> Figure:
    """Score over time of each clip with its key frames, see DIMENSIONS."""
    count = len(panels["fdp_score_value"])
    columns = min(count, 2)
    rows = -(-count // columns)
    figure = Figure(figsize=(2.6 * columns, 1.5 * rows + 0.2), layout="constrained")
    for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).ravel()):
        if i >= count:
            axes.set_visible(False)
            continue
        axes.plot(panels["fdp_score_position"][i], panels["fdp_score_value"][i], color=PALETTE[0], linewidth=1.2)
        for name, moment in zip(("onset", "apex", "offset"), panels["fdp_score_keys"][i], strict=True):
            if np.isfinite(moment):
                axes.axvline(float(moment), color="#999999", linewidth=1)
                place = axes.get_xaxis_transform()
                axes.text(float(moment), 0.02, name, transform=place, fontsize=6, rotation=90, ha="right", va="bottom")
        axes.set_title(str(panels["fdp_score_title"][i]), fontsize=7, pad=3)
        axes.tick_params(labelsize=6)
        low, high = axes.get_ylim()
        axes.set_ylim(low - 0.3 * (high - low), high)  # names of key frames stand below the curve
        if i % columns == 0:
            axes.set_ylabel("score", fontsize=7)
        if i >= count - columns:
            axes.set_xlabel("frame of the recording", fontsize=7)
    return figure


def _sentence(panels: Mapping[str, np.ndarray]) -> str:
    """Kendall's tau of all tested clips, of the clips without an expression, and of what needs no scorer."""

    def parts(group: str, kind: str) -> str:
        tau, person = panels[f"fdp_{group}_{kind}"], panels[f"fdp_{group}_person"]
        names = ("onset to apex", "apex to offset", "whole event")
        return ", ".join(f"{name} {mean_over_persons(tau[:, i], person)}" for i, name in enumerate(names))

    text = f"Kendall's tau of the scores of held-out people ({len(panels['fdp_tau_order'])} clips): "
    text += f"{parts('tau', 'order')}. What needs no scorer: the distance of a frame to the first one of its sequence, "
    text += f"{parts('tau', 'departure')}; an increasing function of the intensity, over the whole event "
    text += f"{mean_over_persons(panels['fdp_tau_rising'], panels['fdp_tau_person'])}."
    if "fdp_drift_order" in panels:
        text += (
            f" The scores on {len(panels['fdp_drift_order'])} clips without an expression, where only head, light and "
        )
        text += f"lids move: {parts('drift', 'order')}."
    return text


def mean_over_persons(values: np.ndarray, persons: np.ndarray) -> str:
    """Mean over clips with its interval of 95 % over persons."""
    known = np.isfinite(values)
    names, place = np.unique(persons[known], return_inverse=True)
    if not len(names):
        return "unknown"
    sums, counts = np.bincount(place, values[known]), np.bincount(place).astype(float)
    weights = person_weights(len(names), 2000, 0)
    low, high = percentile_interval(weights @ sums / np.maximum(weights @ counts, 1), 0.95)
    return f"{values[known].mean():+.2f} [{low:+.2f}, {high:+.2f}]"
