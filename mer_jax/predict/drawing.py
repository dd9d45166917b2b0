"""A prediction as pictures: probabilities over time, a strip of what was seen, frames with labels."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure

from mer_jax.analysis.figures import DASHES, PALETTE, styled
from mer_jax.data import frames as frames_lib
from mer_jax.predict import ASSUMPTION, NEUTRAL, Prediction, Predictor

COLUMNS = 8  # windows in a strip
_SMALLEST = 360  # pixels of the shorter side of an annotated frame


def colours(classes: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """Colour and dashes of every class; the neutral one is black."""
    shown = [name for name in classes if name != NEUTRAL]
    found = {
        name: (PALETTE[k % (len(PALETTE) - 1)], DASHES[k // (len(PALETTE) - 1) % len(DASHES)])
        for k, name in enumerate(shown)
    }
    return found | {NEUTRAL: ("#000000", ":")}


@styled
def timeline(predictor: Predictor, one: Prediction) -> Figure:
    """Probabilities of all classes at the middles of the windows; intervals are shaded and named."""
    duration, origin = one.decoded / one.recording.fps, one.recording.first / one.recording.fps
    middles = one.middles + origin
    figure = Figure(figsize=(float(np.clip(0.35 * duration, 7.5, 22)), 3.6), layout="constrained")
    axes = figure.subplots()
    look = colours(one.classes)
    for k, name in enumerate(one.classes):
        colour, dashes = look[name]
        axes.plot(middles, one.probability[:, k], color=colour, linestyle=dashes, linewidth=1.2, label=name)
    title = f"{one.recording.name}: {ASSUMPTION}"
    if one.intervals is not None and one.expression is not None:
        several = len(one.classes) > 2  # else the other class is the expression itself
        if several:
            axes.plot(middles, one.expression, color="#7f7f7f", linewidth=2.4, alpha=0.55, label="expression")
        axes.axhline(predictor.options.threshold, color="#7f7f7f", linestyle="--", linewidth=0.8)
        for interval in one.intervals:
            name, _ = predictor.label(one, interval)
            start, end = origin + interval.start, origin + interval.end
            axes.axvspan(start, end, color=look[name][0], alpha=0.2, linewidth=0)
            if several:
                axes.text((start + end) / 2, 1.02, name, va="bottom", fontsize=6.5, rotation=60, rotation_mode="anchor")
        title = f"{one.recording.name}: {len(one.intervals)} intervals with an expression"
    axes.set_xlim(origin, origin + duration)
    axes.set_ylim(0, 1.0)
    axes.set_xlabel("seconds (middle of a window)")
    axes.set_ylabel("probability")
    count = len(one.folds)
    axes.set_title(
        f"{title} (mean of {count} folds)" if count > 1 else title,
        pad=42 if one.intervals and len(one.classes) > 2 else 6,
    )
    figure.legend(loc="outside lower center", ncols=min(len(one.classes) + 1, 8))
    return figure


def chosen(one: Prediction) -> list[int]:
    """Windows that a strip shows: the peaks of the intervals with the largest scores, else evenly spaced ones."""
    if one.intervals:
        best = sorted(one.intervals, key=lambda interval: -interval.score)[:COLUMNS]
        return sorted({interval.peak for interval in best})
    seen = np.flatnonzero(np.isfinite(one.probability).all(axis=1))
    return sorted({int(seen[k]) for k in np.linspace(0, len(seen) - 1, COLUMNS).round().astype(int)})


@styled
def strip(predictor: Predictor, one: Prediction) -> Figure:
    """Some windows as the network saw them: first frame, strongest frame, their difference, probabilities."""
    numbers = chosen(one)
    windows = list(predictor.cutter.windows(one.recording, predictor.rhythm, numbers))
    figure = Figure(figsize=(1.35 * max(len(windows), 3) + 1.1, 5.6), layout="constrained")
    grid: Any = figure.subplots(4, len(windows), squeeze=False, gridspec_kw={"height_ratios": [1, 1, 1, 1.15]})
    look = colours(one.classes)
    for column, window in enumerate(windows):
        k = window.number
        strongest = _strongest(window.frames)
        pair = window.frames[[0, strongest]].astype(np.float32) / 255
        change = np.clip(0.5 + 4 * (pair[1] - pair[0]), 0, 1)
        for row, picture in enumerate((*pair, change)):
            axes = grid[row, column]
            axes.imshow(picture if picture.shape[-1] == 3 else picture[..., 0], cmap="gray", vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        top = int(np.argmax(one.probability[k]))
        moment = one.middles[k] + one.recording.first / one.recording.fps
        grid[0, column].set_title(f"{moment:.2f} s\n{one.classes[top]} {one.probability[k, top]:.2f}", fontsize=7.5)
        axes = grid[3, column]
        y = np.arange(len(one.classes))
        axes.barh(y, one.probability[k], color=[look[name][0] for name in one.classes], height=0.7)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 1])
        axes.invert_yaxis()
        axes.set_yticks(y, one.classes if column == 0 else [""] * len(y), fontsize=7)
    for row, name in enumerate(("first frame", "strongest", "change × 4", "probability")):
        grid[row, 0].set_ylabel(name, fontsize=8)
    what = "peaks of the strongest intervals" if one.intervals else f"windows evenly spaced; {ASSUMPTION}"
    if one.intervals == ():
        what = "no interval with an expression; windows evenly spaced"
    figure.suptitle(f"{one.recording.name}: {what}", fontsize=9)
    return figure


def _strongest(frames: np.ndarray) -> int:
    """The frame that differs most from the first one."""
    change = np.abs(frames.astype(np.float32) - frames[:1]).mean(axis=(1, 2, 3))
    return int(change.argmax())


def annotate(predictor: Predictor, one: Prediction, number: int, frame: np.ndarray) -> np.ndarray:
    """A frame with the probabilities of the nearest window beside it, uint8 [H, W', 3].

    Args:
      predictor: whose prediction it is.
      one: what was found.
      number: of the frame in the recording.
      frame: uint8 [H, W, C].
    """
    moment = (number + 0.5) / one.recording.fps
    k = int(np.abs(one.middles - moment).argmin())
    inside = any(i.start <= moment <= i.end for i in one.intervals or ())
    image = np.ascontiguousarray(frames_lib.with_channels(frame, 3))
    scale = max(1, round(_SMALLEST / min(image.shape[:2])))
    image = np.kron(image, np.ones((scale, scale, 1), np.uint8)) if scale > 1 else image
    height = image.shape[0] + image.shape[0] % 2
    size = height / 480
    panel = np.full((height, round(230 * size) // 2 * 2, 3), 255, np.uint8)
    look, row = colours(one.classes), 400 * size / max(len(one.classes), 1)

    def write(text: str, x: float, y: float, scale: float = 0.45, ink: tuple[int, int, int] = (0, 0, 0)) -> None:
        place = (round(x * size), round(y))
        cv2.putText(panel, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale * size, ink, max(1, round(size)), cv2.LINE_AA)

    write(f"{moment:.2f} s", 8, 24 * size, 0.6)
    for c, name in enumerate(one.classes):
        value, y = float(one.probability[k, c]), 40 * size + c * row
        colour = tuple(int(look[name][0][i : i + 2], 16) for i in (1, 3, 5))
        if np.isfinite(value):
            end = (round((8 + 214 * value) * size), round(y + 0.75 * row))
            cv2.rectangle(panel, (round(8 * size), round(y + 0.45 * row)), end, colour, -1)
        write(f"{name} {value:.2f}" if np.isfinite(value) else f"{name}: no face", 8, y + 0.38 * row)
    footer = ("EXPRESSION" if inside else "no expression") if one.intervals is not None else "assuming an expression"
    write(footer, 8, height - 12 * size, 0.5, (200, 60, 0) if inside else (90, 90, 90))
    even = np.zeros((height, image.shape[1] + image.shape[1] % 2, 3), np.uint8)
    even[: image.shape[0], : image.shape[1]] = image
    if inside:
        cv2.rectangle(even, (0, 0), (image.shape[1] - 1, image.shape[0] - 1), (213, 94, 0), max(2, round(4 * size)))
    return np.concatenate([even, panel], axis=1)
