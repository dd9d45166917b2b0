"""The files of a prediction: tables, pictures, a video."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mer_jax.analysis import figures
from mer_jax.files import atomic_open, write_json
from mer_jax.predict import ASSUMPTION, Prediction, Predictor, drawing

PICTURES = 20  # recordings of a list that are drawn


def write(out: Path, predictor: Predictor, found: Sequence[Prediction], video: bool) -> list[Path]:
    """Writes everything; returns what was written, tables first.

    Args:
      out: folder, made where it is missing.
      predictor: whose predictions these are.
      found: one a recording.
      video: whether the recordings are written again with what was found drawn into them.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = [out / "probabilities.csv"]
    _table(written[0], _header(predictor), [row for one in found for row in _rows(one)])
    if found[0].intervals is not None:
        written.append(out / "intervals.csv")
        header = ["recording", "start_s", "end_s", "first_frame", "last_frame", "peak_frame", "expression", "label"]
        _table(written[-1], [*header, "p_label"], [row for one in found for row in _interval_rows(predictor, one)])
    for one in [p for p in found if len(p.frames) > 1][:PICTURES]:
        prefix = f"{one.recording.name}-" if len(found) > 1 else ""
        pictures = {"timeline": drawing.timeline(predictor, one), "strip": drawing.strip(predictor, one)}
        for name, figure in pictures.items():
            written.append(out / f"{prefix}{name}.png")
            with atomic_open(written[-1], "wb") as file:
                file.write(figures.png(figure))
        if video:
            written += _video(out / f"{prefix}annotated.mp4", predictor, one)
    write_json(out / "prediction.json", facts(predictor, found))
    return [*written, out / "prediction.json"]


def facts(predictor: Predictor, found: Sequence[Prediction]) -> dict[str, Any]:
    """What was done, for whoever reads the tables later."""
    rhythm, ensemble = predictor.rhythm, predictor.ensemble
    return {
        "run": ensemble.run.name,
        "system": ensemble.settings.system,
        "classes": list(predictor.classes),
        "meaning": meaning(found[0]),
        "window_s": rhythm.window,
        "stride_s": rhythm.stride,
        "align": predictor.alignment.kind,
        "align_margin": predictor.alignment.margin,
        "threshold": predictor.options.threshold,
        "recordings": [
            {
                "name": one.recording.name,
                "fps": one.recording.fps,
                "fps_of_windows": rhythm.rate(one.recording.fps),
                "frames": one.decoded,
                "windows": len(one.frames),
                "folds": list(one.folds),
                "notes": list(one.notes),
                "frames_per_second": round(one.decoded / one.seconds, 2),
            }
            for one in found
        ],
    }


def meaning(one: Prediction) -> str:
    """What the probabilities are, in a sentence."""
    if one.intervals is None:
        return f"the run knows no neutral face: {ASSUMPTION}"
    return "expression = 1 - p_neutral, the probability that there is an expression at all"


def _header(predictor: Predictor) -> list[str]:
    places = ["recording", "window", "first_frame", "last_frame", "start_s", "end_s", "apex_frame"]
    known = ["expression"] if "neutral" in predictor.classes else []
    return [*places, *known, *(f"p_{name}" for name in predictor.classes)]


def _rows(one: Prediction) -> list[list[Any]]:
    """Frames and seconds count from the beginning of the file, also where only a part of it was looked at."""
    rows = []
    first = one.recording.first
    times = one.times + first / one.recording.fps
    for k, ((a, b), (start, end)) in enumerate(zip(one.frames.tolist(), times.tolist(), strict=True)):
        apex = "" if one.apex[k] < 0 else int(one.apex[k]) + first
        numbers = one.probability[k].tolist()
        if one.expression is not None:
            numbers = [float(one.expression[k]), *numbers]
        cells = ["" if np.isnan(x) else f"{x:.6f}" for x in numbers]
        rows.append([one.recording.name, k, a + first, b + first, f"{start:.4f}", f"{end:.4f}", apex, *cells])
    return rows


def _interval_rows(predictor: Predictor, one: Prediction) -> list[list[Any]]:
    rows, fps, first = [], one.recording.fps, one.recording.first
    for interval in one.intervals or ():
        name, share = predictor.label(one, interval)
        peak = one.apex[interval.peak] if one.apex[interval.peak] >= 0 else round(one.frames[interval.peak].mean())
        ends = [round(interval.start * fps) + first, min(round(interval.end * fps), one.decoded - 1) + first]
        peak = min(max(peak, ends[0] - first), ends[1] - first)  # a window reaches beyond its interval
        times = [f"{t + first / fps:.4f}" for t in (interval.start, interval.end)]
        cells = [*times, *ends, int(peak) + first, f"{interval.score:.6f}"]
        rows.append([one.recording.name, *cells, name, f"{share:.6f}"])
    return rows


def _table(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with atomic_open(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _video(path: Path, predictor: Predictor, one: Prediction) -> list[Path]:
    """The recording with what was found drawn into it; nothing where OpenCV has no encoder."""
    half = path.with_name(f".{path.name}")
    half = half.with_suffix(".part.mp4")
    writer: Any = None
    for number, frame in enumerate(one.recording.frames()):
        if number >= one.decoded:
            break
        picture = drawing.annotate(predictor, one, number, frame)
        if writer is None:
            size = (picture.shape[1], picture.shape[0])
            writer = cv2.VideoWriter(str(half), cv2.VideoWriter.fourcc(*"mp4v"), one.recording.fps, size)
            if not writer.isOpened():
                half.unlink(missing_ok=True)
                return []
        writer.write(np.ascontiguousarray(picture[:, :, ::-1]))
    if writer is None:
        return []
    writer.release()
    half.replace(path)
    return [path]
