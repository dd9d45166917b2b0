"""Charts of differences between runs, and of what their probabilities are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mer_jax.analysis.figures import PALETTE, PERSONS, WIDTH, new_figure, styled
from mer_jax.evaluation.calibration import Calibration

MORE, LESS, EVEN = PALETTE[0], PALETTE[1], "#57606a"


@styled
def reliability(found: Calibration, task: str = "emotion") -> Figure:
    """Reliability diagram: share right (action units: present) against confidence, bins of equal mass.

    Args:
      found: the calibration.
      task: "emotion" or "au".
    """
    figure, axes = new_figure(WIDTH, 3.8)
    axes.plot([0, 1], [0, 1], "--", color=EVEN, linewidth=1, label="calibrated")
    errors = np.abs(np.stack([found.low, found.high]) - found.right)
    axes.vlines(found.confidence, found.right, found.confidence, color=LESS, linewidth=3, alpha=0.3)
    axes.errorbar(
        found.confidence, found.right, errors, color=MORE, marker="o", markersize=5, linewidth=1.4, elinewidth=0.8,
        capsize=2, label=f"{len(found.n)} bins of {found.n.mean():.0f} predictions, {found.level:.0%} over persons",
    )  # fmt: skip
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("probability of the predicted class" if task == "emotion" else "probability of 'present'")
    axes.set_ylabel("share that is right" if task == "emotion" else "share that is present")
    figure.legend(loc="outside upper right", ncols=2)
    return figure


@styled
def differences(pairs: Sequence[Mapping[str, Any]], score: str, title: str, options: Mapping[str, Any]) -> Figure:
    """Difference of a score of each pair with its interval, and what could have been resolved.

    Args:
      pairs: of `comparison.compare`.
      score: name of the score.
      title: how a reader calls the score.
      options: level and power of the comparison.
    """
    figure, axes = new_figure(WIDTH, 1.1 + 0.55 * len(pairs))
    for y, pair in enumerate(pairs):
        row = pair["scores"][score]
        if row["resolvable"] is not None:
            axes.fill_betweenx(
                [y - 0.3, y + 0.3], -row["resolvable"], row["resolvable"], color="#eceff2", linewidth=0,
                label=f"not resolved (power {options['power']:.0%})" if y == 0 else None, zorder=0,
            )  # fmt: skip
        _interval(axes, y, row)
    axes.plot([], [], "o-", color=EVEN, label=f"difference, {options['level']:.0%} interval over persons")
    _rows(axes, [f"{pair['a']}\n− {pair['b']}" for pair in pairs], f"difference of {title} (first − second)")
    figure.legend(loc="outside upper right", ncols=2)
    return figure


@styled
def class_differences(per_class: Mapping[str, Mapping[str, Any]], first: str, second: str) -> Figure:
    """Difference of the F1 of each class with its interval."""
    figure, axes = new_figure(WIDTH, 0.9 + 0.3 * len(per_class))
    for y, row in enumerate(per_class.values()):
        _interval(axes, y, row)
    _rows(axes, [f"{name} ({row['support']})" for name, row in per_class.items()], f"F1 of {first} − F1 of {second}")
    return figure


@styled
def person_differences(rows: Sequence[Mapping[str, Any]], first: str, second: str) -> list[Figure]:
    """Difference of every person's share of right answers, best for the first run on top, in readable parts.

    Args:
      rows: {person, n, difference} of each person, sorted.
      first: name of a run.
      second: name of the other one.
    """
    cohorts = {row["person"].split("/")[0] for row in rows}
    parts = max(-(-len(rows) // PERSONS), 1)
    height = -(-len(rows) // parts)
    reach = max([abs(row["difference"]) for row in rows] + [0.1]) * 1.08
    made = []
    for part in range(parts):
        mine = rows[part * height : (part + 1) * height]
        figure, axes = new_figure(WIDTH, 0.9 + 0.17 * height)
        for y, row in enumerate(mine):
            axes.hlines(y, 0, row["difference"], color="#b8cbd8", linewidth=2)
            axes.scatter(
                row["difference"], y, s=8 + 8 * row["n"] ** 0.5, color=_color(row), marker=_marker(row), zorder=3
            )
        names = [row["person"].split("/", 1)[-1] if len(cohorts) == 1 else row["person"] for row in mine]
        _rows(axes, [f"{name} ({row['n']})" for name, row in zip(names, mine, strict=True)], "")
        axes.tick_params(axis="y", labelsize=7)
        axes.set_ylim(height - 0.4, -0.6)
        axes.set_xlim(-reach, reach)
        axes.set_xlabel(f"share right: {first} − {second}")
        made.append(figure)
    return made


def _interval(axes: Axes, y: int, row: Mapping[str, Any]) -> None:
    if row["low"] is not None:
        axes.hlines(y, row["low"], row["high"], color=_color(row), linewidth=2)
    axes.plot(row["difference"], y, _marker(row), color=_color(row), markersize=6)


def _color(row: Mapping[str, Any]) -> str:
    return MORE if row["difference"] > 0 else LESS if row["difference"] < 0 else EVEN


def _marker(row: Mapping[str, Any]) -> str:
    """Sides differ by shape too: colours are lost in print."""
    return "o" if row["difference"] > 0 else "D" if row["difference"] < 0 else "s"


def _rows(axes: Axes, names: Sequence[str], label: str) -> None:
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.06)
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel(label)
