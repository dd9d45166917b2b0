"""Maps as a part of the report: panels over onset, apex and offset, and how much of them lies where the face moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mer_jax.analysis import figures
from mer_jax.analysis.map_scores import DIFFERENCE, GRADIENTS, LEVEL, MOMENTS, TRAINED, MapScores, summarise
from mer_jax.analysis.page import Page, escape, p_text, short, table

COLUMNS = 9  # of a figure
BRIGHTEST = 0.99  # above this share of its places a map is white: attributions of pixels have few, very high peaks
_KINDS = {
    "moving": "Mass in the clip's true moving region minus the same map's mean mass in the regions of clips of other "
    "classes (0: the map knows nothing of the clip's own movement)",
    "au": "Mass in the facial regions of the clip's action units",
    "event": "Mass between true onset and true offset, of maps that have several moments",
}
_BESIDE = ("uniform", "random weights", "mean of others", DIFFERENCE)
_NOTE = (
    "Each difference is of the same clips, [low, high] its 95 % interval over persons, p of swapping the two person by "
    "person, not corrected for the number of comparisons. Uniform: the mass that area (or time) alone would get. "
    "Random weights: the same network before any training; where it sees the difference of frames it may well beat "
    "uniform. Mean of others: the mean of this map over the clips of other persons, which knows the face, not the clip."
)


def maps_section(page: Page, panels: Mapping[str, np.ndarray], scores: MapScores) -> None:
    """Adds the maps to a report; nothing where there are none.

    Args:
      page: the page.
      panels: of `attribution.PANELS`.
      scores: of `maps.csv`.
    """
    if "frames" not in panels:
        return
    page.heading("Where the networks look")
    exact = "true" if bool(panels["exact"].all()) else "annotated"
    moving = "; dashed: what truly moves" if bool(panels["moving"].any()) else ""
    caption = (
        f"Frames at the {exact} onset, apex and offset; each map over the frame that is nearest to its moment, or "
        "once, over the apex, where it has one for the whole clip (bright: more; each clip and map by its own range, "
        f"but for its highest hundredth). Solid line, on the apex: facial regions of the clip's action units{moving}. "
        "Every clip is looked at by the network of the fold that held its person out"
    )
    groups = _groups(panels)
    for number, names in enumerate(groups, start=1):
        last = number == len(groups)
        page.add(page.figure(f"maps_{number}", panels_figure(panels, names), caption if last else "", wide=True))
    for title, chosen in _parts(scores).items():
        page.add(f"<h3>{escape(title)}</h3>", *_tables(summarise(scores, chosen)))
    page.add(f'<p class="facts">{escape(_NOTE)}</p>')
    left = scores.value["gap"][(scores.text["weights"] == TRAINED) & (scores.text["map"] == GRADIENTS)]
    if np.isfinite(left).any():
        page.add(
            f'<p class="facts">Integrated gradients add up to the change of the score but for {np.nanmedian(left):.1%} '
            "of the sum of their absolute values (median over clips).</p>"
        )


def _parts(scores: MapScores) -> dict[str, list[str]]:
    """Title -> clips: all of them, and the half in which more than the expression moves."""
    clips = list(dict.fromkeys(scores.text["clip"].tolist()))
    parts = {f"All {len(clips)} clips": clips}
    disturbed = list(dict.fromkeys(scores.text["clip"][scores.text["disturbed"] == "1"].tolist()))
    if disturbed:
        parts[f"The {len(disturbed)} clips with a blink, or with more head movement than the others"] = disturbed
    return parts


def _tables(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    made = []
    for kind, title in _KINDS.items():
        known = {which: kinds[kind] for which, kinds in found.items() if kind in kinds}
        beside = [name for name in _BESIDE if any(name in row for row in known.values())]
        rows = [
            [which, str(row["n"]), f"{row['share']:.3f}", *(_difference(row.get(name)) for name in beside)]
            for which, row in known.items()
        ]
        if rows:
            head = ["", "clips", "mean", *(f"−\N{NO-BREAK SPACE}{name}" for name in beside)]
            made.append(f"<p>{escape(title)}:</p>" + table(head, rows, "names"))
    return made


def _difference(row: Mapping[str, Any] | None) -> str:
    if row is None or not row["n"]:
        return ""
    interval = f"[{short(row['low'])}, {short(row['high'])}]"
    return f"{row['mean']:+.3f}<small>{interval}</small><small>p {p_text(row['p'])}</small>"


def _groups(panels: Mapping[str, np.ndarray]) -> list[list[str]]:
    """Names of the maps, as many a figure as stay readable side by side."""
    groups: list[list[str]] = []
    used = COLUMNS
    for name, heats in panels.items():
        if name.startswith("map "):
            if used + heats.shape[1] > COLUMNS:
                groups.append([])
                used = len(MOMENTS)
            groups[-1].append(name.removeprefix("map "))
            used += heats.shape[1]
    return groups


@figures.styled
def panels_figure(panels: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """One clip a row: three frames, then maps at three moments or once.

    Args:
      panels: frames [m, 3, S, S] in 0..1, units and moving bool [m, S, S], title [m], and `map <name>` [m, K, S, S].
      names: of the maps that are drawn.
    """
    maps = {name: panels[f"map {name}"] for name in names}
    columns = 3 + sum(x.shape[1] for x in maps.values())
    figure, grid = figures.picture_grid(len(panels["frames"]), columns, 1.0)
    for i, row in enumerate(grid):
        frames = panels["frames"][i]
        for axes, image, name in zip(row, frames, MOMENTS, strict=False):
            axes.imshow(image, cmap="gray", vmin=0, vmax=1)
            axes.set_title(name if i == 0 else "", fontsize=8, pad=3)
        _outlines(row[1], panels["units"][i], panels["moving"][i])
        left = iter(row[3:])
        for name, heats in maps.items():
            several = heats.shape[1] > 1
            top = max(float(np.quantile(heats[i], BRIGHTEST)) or float(heats[i].max()), 1e-30)
            for k, heat in enumerate(heats[i]):
                axes = next(left)
                axes.imshow(frames[k if several else 1], cmap="gray", vmin=0, vmax=1)
                axes.imshow(heat, cmap="inferno", vmin=0, vmax=top, alpha=0.6)
                axes.set_title(_short(name, k, several) if i == 0 else "", fontsize=7, pad=3)
        for axes in row:
            figures.bare(axes)
        figures.text_below(row[0], str(panels["title"][i]))
    return figure


def _short(name: str, k: int, several: bool) -> str:
    words = {GRADIENTS: "int. gradients", f"{GRADIENTS}, flow": "int. grad., flow"}.get(name, name)
    return f"{words}\n{MOMENTS[k]}" if several else words


def _outlines(axes: Any, units: np.ndarray, moving: np.ndarray) -> None:
    for mask, style in ((units, "-"), (moving, "--")):
        if mask.any() and not mask.all():
            edged = np.pad(mask, 1).astype(float)
            at = np.arange(-1, mask.shape[0] + 1)
            for color, width in (("black", 1.6), ("white", 0.8)):
                axes.contour(at, at, edged, levels=[0.5], colors=color, linewidths=width, linestyles=style)
            axes.set(xlim=(-0.5, mask.shape[1] - 0.5), ylim=(mask.shape[0] - 0.5, -0.5))


def lines(scores: MapScores) -> list[str]:
    """The tables for the terminal."""
    out = []
    for part, clips in _parts(scores).items():
        found = summarise(scores, clips)
        for kind, title in _KINDS.items():
            rows = [(which, kinds[kind]) for which, kinds in found.items() if kind in kinds]
            if rows:
                out += ["", f"{part}. {title}; differences with {LEVEL:.0%} intervals over persons:"]
            for which, row in rows:
                beside = [_plain(name, row[name]) for name in _BESIDE if name in row and row[name]["n"]]
                out.append(f"  {which} ({row['n']} clips): {row['share']:.3f}; " + "; ".join(beside))
    return out


def _plain(name: str, row: Mapping[str, Any]) -> str:
    return f"- {name} {row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] p {p_text(row['p'])}"
