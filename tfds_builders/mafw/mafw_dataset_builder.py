"""MAFW: affective videos in the wild, eleven single classes, five official folds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from mer_jax.errors import UserError
from tfds_builders.common import layout
from tfds_builders.common.builder import ClipBuilder
from tfds_builders.common.jobs import Item
from tfds_builders.common.report import BuildReport, Skipped
from tfds_builders.common.sheet_clips import Source
from tfds_builders.common.video_clips import VideoClip, VideoConfig, video_job

_SOURCE = Source("mafw", "mafw", float("nan"))  # the video files say their own frame rate
EMOTIONS = (
    "anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise", "contempt", "anxiety", "helplessness",
    "disappointment",
)  # fmt: skip


class Builder(ClipBuilder):
    """Builder of `mafw/single` (scaled to 256 pixels) and `mafw/single_full`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar[list[VideoConfig]] = [
        VideoConfig(name="single", description="The 9,172 clips with one label, at most 256 pixels."),
        VideoConfig(name="single_full", size=None, description="The same with all pixels (large)."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Ask the owners (mafw-database.github.io) for a licence, then unpack:
      data/clips/00028.mp4 ...
      split/single/no_caption/set_1/train.txt, test.txt ... set_5    (lines '00028.mp4 anger')"""

    def clips(self, manual_dir: Path, report: BuildReport) -> Iterable[Item]:
        """One job a labelled video. People are not named: every clip is a person of its own (INFERRED)."""
        config: VideoConfig = self.builder_config
        how = self.MANUAL_DOWNLOAD_INSTRUCTIONS
        places = (manual_dir, *layout.folders(manual_dir))
        root = next((f for p in places if (f := layout.find(p, "data", "clips")) is not None), None)
        if root is None:
            root = layout.root_folder(manual_dir, ("clips",), how)
        splits = next((f for p in places if (f := layout.find(p, "split", "single", "no_caption")) is not None), None)
        if splits is None:
            raise UserError(f"{manual_dir}: no folder 'split/single/no_caption'. {how}")
        labels: dict[str, str] = {}
        folds: dict[str, int] = {}
        for fold in range(1, 6):
            for part in ("train", "test"):
                path = layout.find(splits, f"set_{fold}", f"{part}.txt")
                for where, video, emotion in _lines(path) if path is not None else ():
                    if labels.setdefault(video, emotion) != emotion:
                        raise UserError(f"{where}: {video} is {emotion} here and {labels[video]} in another split")
                    if part == "test":
                        folds[f"mafw/{Path(video).stem}/{Path(video).stem}"] = fold
        if not labels:
            raise UserError(f"{splits}: no file 'set_1/train.txt'. {how}")
        report.rows = len(labels)
        report.notes["official_folds"] = dict(sorted(folds.items()))
        for video, emotion in sorted(labels.items()):
            path = layout.find(root, video)
            if path is None:
                yield Skipped(video, f"no file {video} in {root}")
                continue
            kind = "neutral" if emotion == "neutral" else "macro"
            yield video_job(VideoClip(_SOURCE, path.stem, path.stem, path, emotion, kind, size=config.size))


def _lines(path: Path) -> Iterable[tuple[str, str, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        cells = line.split()
        if not cells:
            continue
        where = f"{path}, line {number}"
        if len(cells) != 2:
            raise UserError(f"{where}: found {line.strip()[:80]!r}, expected '00028.mp4 anger'")
        if cells[1].casefold() not in EMOTIONS:
            raise UserError(f"{where}: unknown label {cells[1]!r}; expected one of {', '.join(EMOTIONS)}")
        yield where, cells[0], cells[1].casefold()
