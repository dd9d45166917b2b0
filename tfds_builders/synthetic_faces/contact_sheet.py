"""Pictures for the README: `python -m tfds_builders.synthetic_faces.contact_sheet OUT`."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import matplotlib
import numpy as np

from tfds_builders.synthetic_faces import generate
from tfds_builders.synthetic_faces.baselines import key_frames, scored_jobs
from tfds_builders.synthetic_faces.faces import SIDES
from tfds_builders.synthetic_faces.render import Pose, Renderer

UNITS = ((), (1, 2), (4,), (9,), (6, 12), (15, 17), (14,), (10,), (1, 2, 5, 26), (12, 25))
SIZE = 112


def units_sheet(subjects: tuple[str, ...] = ("p001", "p002", "p003", "p004")) -> np.ndarray:
    """People against action units at full intensity, uint8 [rows, columns, 3]; landmarks on the last person."""
    rows = []
    for subject in subjects:
        renderer = Renderer("synthetic_dev", subject, SIZE)
        tiles = []
        for units in UNITS:
            activation = dict(renderer.who.resting)
            for key in ((u, s) for u in units for s in SIDES):
                activation[key] = activation.get(key, 0.0) + 1.0
            tile = np.ascontiguousarray(np.clip(renderer.clean(Pose(activation)), 0, 255).astype(np.uint8))
            if subject == subjects[-1]:
                for x, y in np.rint(renderer.landmarks(Pose(activation))).astype(int).tolist():
                    cv2.circle(tile, (x, y), 1, (0, 255, 0), -1)
            tile = cv2.copyMakeBorder(tile, 16, 0, 0, 0, cv2.BORDER_CONSTANT, value=(255, 255, 255))
            label = "+".join(map(str, units)) or "rest"
            cv2.putText(tile, label, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
            tiles.append(tile)
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows)


def micro_sheet(count: int = 10) -> np.ndarray:
    """Onset, apex and their difference (times 4) of micro clips at the default size, uint8."""
    tiles = []
    for job in scored_jobs("micro_dev")[:: 220 // count][:count]:
        onset, apex = key_frames(job).astype(int)
        change = np.clip(128 + 4 * (apex - onset), 0, 255)
        column = np.concatenate([onset, apex, change]).astype(np.uint8)
        tiles.append(cv2.resize(column, None, fx=SIZE / 64, fy=SIZE / 64, interpolation=cv2.INTER_NEAREST))
    return np.concatenate(tiles, axis=1)


def histogram(path: Path) -> None:
    """Peak motion by action units of the clips of micro_dev, in pixels."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    peaks = [generate.peak_motion(job) for job in scored_jobs("micro_dev")]
    figure, axes = plt.subplots(figsize=(5, 2.4), layout="constrained")
    axes.hist(peaks, bins=np.arange(0, 1.6, 0.05).tolist(), color="0.35")
    axes.axvline(float(np.median(peaks)), color="tab:orange")
    axes.set(xlabel=f"largest skin motion at the apex, pixels (median {np.median(peaks):.2f})", ylabel="clips")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Writes action_units.jpg, micro.jpg and amplitudes.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    for name, sheet in (("action_units.jpg", units_sheet()), ("micro.jpg", micro_sheet())):
        cv2.imwrite(str(out / name), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    histogram(out / "amplitudes.png")


if __name__ == "__main__":
    main()
