"""Figures of a run, each a matplotlib Figure, in colours that are safe for colour-blind readers."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mer_jax.analysis.open_run import Curve

# Okabe & Ito, Color Universal Design
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # colours are lost in print
WIDTH = 5.2  # inches; at 100 pixels an inch what a telephone shows unscaled, or half a page
DPI = 200
PERSONS = 40  # in one figure
AMPLIFY = 5
_STYLE: Any = {
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "image.interpolation": "nearest",
}
styled = matplotlib.rc_context(_STYLE)


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


@styled
def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str], seeds: int = 1) -> Figure:
    """Confusion matrix: counts, coloured by the share of the true class.

    Args:
      matrix: [C, C] counts summed over seeds, rows truth.
      classes: names.
      seeds: number of seeds summed.
    """
    counts = np.asarray(matrix)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = new_figure(WIDTH, 1.2 + 0.58 * len(classes))
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(counts):
        ink = "white" if share[i, j] > 0.65 else "black"
        axes.text(j, i, f"{value}\n{share[i, j]:.0%}", ha="center", va="center", color=ink, fontsize=8)
    turn: Any = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len(classes) > 3 else {}
    axes.set_xticks(range(len(classes)), classes, **turn)
    axes.set_yticks(range(len(classes)), classes)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    axes.set_title("clips, share of the true class" + (f" (sum of {seeds} seeds)" if seeds > 1 else ""))
    figure.colorbar(image, ax=axes, format=lambda x, _: f"{x:.0%}", fraction=0.04)
    return figure


@styled
def action_units(per_au: Mapping[str, Mapping[str, float]]) -> Figure:
    """Binary F1 of every action unit beside the predictor that always says yes."""
    names = list(per_au)
    figure, axes = new_figure(WIDTH, 1.0 + 0.24 * len(names))
    y = np.arange(len(names))
    axes.barh(y, [per_au[n]["f1_binary"] for n in names], height=0.6, color=PALETTE[0], label="predicted")
    always = [per_au[n]["all_ones_f1_binary"] for n in names]
    axes.plot(always, y, "D", color=PALETTE[1], markersize=4, label="always present")
    axes.set_yticks(y, [f"{n} ({per_au[n]['support']})" for n in names])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("F1 of the present class (number of positive clips)")
    figure.legend(loc="outside upper right", ncols=2)
    return figure


@styled
def persons(rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Share of right answers of every person, best first, in as many parts as stay readable.

    Args:
      rows: {person, n, acc} of each person (`evaluation.scores.person_scores`).
    """
    rows = sorted(rows, key=lambda row: (-row["acc"], row["person"]))
    cohorts = {row["person"].split("/")[0] for row in rows}
    names = {row["person"]: row["person"].split("/", 1)[-1] if len(cohorts) == 1 else row["person"] for row in rows}
    mean = sum(row["acc"] * row["n"] for row in rows) / max(sum(row["n"] for row in rows), 1)
    parts = max(-(-len(rows) // PERSONS), 1)
    height = -(-len(rows) // parts)
    made = []
    for part in range(parts):
        mine = rows[part * height : (part + 1) * height]
        figure, axes = new_figure(WIDTH, 0.9 + 0.17 * height)
        y = np.arange(len(mine))
        values = [row["acc"] for row in mine]
        axes.hlines(y, 0, values, color="#b8cbd8", linewidth=2)
        axes.scatter(values, y, s=[8 + 8 * row["n"] ** 0.5 for row in mine], color=PALETTE[0], zorder=3)
        axes.axvline(mean, color=PALETTE[1], linestyle="--", linewidth=1, label=f"all clips: {mean:.2f}")
        axes.set_yticks(y, [f"{names[row['person']]} ({row['n']})" for row in mine], fontsize=7)
        axes.set_ylim(height - 0.4, -0.6)
        axes.set_xlim(-0.03, 1.03)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("share of right answers (clips of the person)")
        figure.legend(loc="outside upper right")
        made.append(figure)
    return made


@styled
def curves(title: str, quantities: Mapping[str, Sequence[Curve]]) -> Figure:
    """Quantities over steps: each seed a line; of several folds their median, and each one faintly.

    Args:
      title: of the chart.
      quantities: name -> its curves.
    """
    figure, axes = new_figure(WIDTH, 2.6)
    several = len(quantities) > 1
    for number, (name, lines) in enumerate(quantities.items()):
        _lines(axes, lines, number if several else None, name if several else None)
    shown = np.concatenate([c.value for lines in quantities.values() for c in lines])
    shown = shown[np.isfinite(shown)]
    if not several and len(shown) and shown.min() > 0 and shown.max() > 20 * shown.min():
        axes.set_yscale("log")
    if "R" in quantities:  # far below 0 one need not tell how far
        axes.axhline(0, color="#888888", linewidth=0.8)
        axes.set_ylim(max(-1.5, min(-0.1, shown.min(initial=0) - 0.05)), 1.05)
    axes.set_title(title, loc="left")
    axes.set_xlabel("step")
    axes.margins(x=0.02)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper right", ncols=4)
    return figure


def _lines(axes: Axes, lines: Sequence[Curve], number: int | None, name: str | None) -> None:
    seeds = sorted({curve.seed for curve in lines})
    for k, seed in enumerate(seeds):
        mine = [curve for curve in lines if curve.seed == seed]
        color = PALETTE[(k if number is None else number) % len(PALETTE)]
        dash = DASHES[k % len(DASHES)]
        label = name if name and k == 0 else (f"seed {seed}" if name is None and len(seeds) > 1 else None)
        if len(mine) == 1:
            every = max(len(mine[0].step) // 5, 1)
            mark = _mark(mine) if number is None else MARKERS[number % len(MARKERS)]
            axes.plot(
                mine[0].step, mine[0].value, dash, marker=mark, markevery=every, markersize=5, color=color,
                linewidth=1.5, label=label,
            )  # fmt: skip
            continue
        for curve in mine:
            axes.plot(curve.step, curve.value, marker=_mark(mine), color=color, alpha=0.25, linewidth=0.6, markersize=3)
        steps = np.unique(np.concatenate([curve.step for curve in mine]))
        at = np.full((len(mine), len(steps)), np.nan)
        for row, curve in zip(at, mine, strict=True):
            row[np.searchsorted(steps, curve.step)] = curve.value
        known = np.isfinite(at).any(axis=0)
        middle = np.nanmedian(at[:, known], axis=0)
        label = f"{label}: median" if label else f"median of {len(mine)} folds"
        axes.plot(steps[known], middle, dash, marker=_mark(mine), color=color, linewidth=2, label=label)


def _mark(lines: Sequence[Curve]) -> str:
    """Few points are marked: a line through one of them is not to be seen."""
    return "o" if max(len(curve.step) for curve in lines) < 4 else ""


@styled
def reconstruction(
    first: np.ndarray, second: np.ndarray, predicted: np.ndarray, delta: np.ndarray | None = None
) -> Figure:
    """Reconstructed future frames, one pair a row.

    Args:
      first: [n, H, W, C] in 0..1, the input x_t.
      second: [n, H, W, C], the target x_{t+k}.
      predicted: [n, H, W, C], the reconstruction.
      delta: [n, h, w], |z^ - z_t| summed over channels.
    """
    pictures = [("input $x_t$", first), ("target $x_{t+k}$", second), ("reconstruction", predicted)]
    changes = [(f"target − input, ×{AMPLIFY}", second - first), (f"reconstr. − input, ×{AMPLIFY}", predicted - first)]
    columns = len(pictures) + len(changes) + (delta is not None)
    figure, grid = picture_grid(len(first), columns, 1.35)
    for i, row in enumerate(grid):
        for axes, (title, images) in zip(row, pictures, strict=False):
            _picture(axes, images[i], title if i == 0 else "")
        for axes, (title, images) in zip(row[len(pictures) :], changes, strict=False):
            change = AMPLIFY * images[i].mean(axis=-1)
            axes.imshow(change, cmap="RdBu_r", vmin=-0.5, vmax=0.5)
            axes.set_title(title if i == 0 else "", fontsize=8, pad=3)
        if delta is not None:
            row[-1].imshow(delta[i], cmap="viridis", vmin=0)
            row[-1].set_title(r"$|\hat z - z_t|$" if i == 0 else "", fontsize=8, pad=3)
        copied = float(((second[i] - first[i]) ** 2).mean())
        left = float(((second[i] - predicted[i]) ** 2).mean())
        text = f"pixel R {1 - left / copied:+.2f}" if copied > 0 else "no change"
        text_below(row[0], text)
        for axes in row:
            bare(axes)
    return figure


@styled
def heat_maps(
    onset: np.ndarray,
    apex: np.ndarray,
    gradcam: np.ndarray,
    attention: np.ndarray | None = None,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Where the recogniser looks, one clip a row.

    Args:
      onset: [m, H, W, C] in 0..1.
      apex: [m, H, W, C].
      gradcam: [m, H, W] in 0..1, laid over the apex at alpha .5.
      attention: [m, h, w], the native attention map.
      titles: label and action units of each clip.
    """
    columns = 3 + (attention is not None)
    figure, grid = picture_grid(len(onset), columns, WIDTH / columns)
    for i, row in enumerate(grid):
        heading = ("onset", "apex", "Grad-CAM of action", "attention map")
        for axes, image in zip(row, (onset[i], apex[i], apex[i]), strict=False):
            _picture(axes, image, "")
        row[2].imshow(gradcam[i], cmap="inferno", vmin=0, vmax=1, alpha=0.5)
        if attention is not None:
            row[3].imshow(attention[i], cmap="viridis", vmin=0)
        for axes, text in zip(row, heading, strict=False):
            bare(axes)
            if i == 0:
                axes.set_title(text, fontsize=8, pad=3)
        if titles is not None:
            text_below(row[0], str(titles[i]))
    return figure


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of one chart, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def picture_grid(rows: int, columns: int, cell: float) -> tuple[Figure, list[list[Axes]]]:
    """Square cells of `cell` inches with headings above the first row and a line of text below every row."""
    top, below, gap = 0.24, 0.22, 0.03
    width, height = columns * cell, top + rows * (cell + below)
    figure = Figure(figsize=(width, height))
    side = cell - 2 * gap
    grid = [
        [
            figure.add_axes(
                ((j * cell + gap) / width, 1 - (top + i * (cell + below) + side) / height, side / width, side / height)
            )
            for j in range(columns)
        ]
        for i in range(rows)
    ]
    return figure, grid


def text_below(axes: Axes, text: str) -> None:
    """A line of text below a cell of `picture_grid`."""
    axes.text(0, -0.02, text, transform=axes.transAxes, va="top", fontsize=8)


def _picture(axes: Axes, image: np.ndarray, title: str) -> None:
    axes.imshow(image[..., 0] if image.shape[-1] == 1 else image.clip(0, 1), cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, fontsize=8, pad=3)


def bare(axes: Axes) -> None:
    """Takes ticks, grid and frame away."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
