"""FERV39k: expressions in videos of 22 scenes, seven classes, one official split."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from mer_jax.errors import UserError
from tfds_builders.common import layout, sheet_clips
from tfds_builders.common.builder import ClipBuilder, ClipConfig
from tfds_builders.common.frame_numbers import list_frames
from tfds_builders.common.jobs import Item
from tfds_builders.common.report import BuildReport, Skipped
from tfds_builders.common.sheet_clips import Source

EMOTIONS = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")


class Builder(ClipBuilder):
    """Builder of `ferv39k/train` and `ferv39k/test`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar[list[ClipConfig]] = [
        ClipConfig(name="train", description="31,088 clips."),
        ClipConfig(name="test", description="7,847 clips."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Ask the owners (github.com/wangyanckxx/FERV39k) for a licence, then unpack:
      2_ClipsforFaceCrop/Action/Happy/0267/0267_1.jpg ...
      4_setups/All_scenes/train_All.csv, test_All.csv"""

    def clips(self, manual_dir: Path, report: BuildReport) -> Iterable[Item]:
        """One job a line of the split file. People are not named: every clip is a person of its own (INFERRED)."""
        part, how = self.builder_config.name, self.MANUAL_DOWNLOAD_INSTRUCTIONS
        root = layout.root_folder(manual_dir, ("2_ClipsforFaceCrop",), how)
        setups = layout.root_folder(manual_dir, ("4_setups",), how)
        split = layout.find(setups, "All_scenes", f"{part}_All.csv")
        if split is None:
            raise UserError(f"{setups}: no file 'All_scenes/{part}_All.csv'. {how}")
        source = Source(f"ferv39k_{part}", "ferv39k", float("nan"))
        lines = _lines(split)
        report.rows = len(lines)
        for where, scene, emotion, clip in lines:
            name = f"{scene}_{emotion}_{clip}"
            folder = layout.find(root, scene, emotion, clip)
            if folder is None:
                yield Skipped(where, f"no folder {scene}/{emotion}/{clip} in {root}")
                continue
            word = emotion.casefold()
            kind = "neutral" if word == "neutral" else "macro"
            yield sheet_clips.whole_clip(source, name, name, list_frames(folder), word, kind, same_shape=True)


def _lines(path: Path) -> list[tuple[str, str, str, str]]:
    """Lines `scene/emotion/clip label`; the folder is the label, and the number must stand for one folder only."""
    meaning: dict[str, str] = {}
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        place, _, label = line.strip().rpartition(" ")
        parts = place.strip().strip("/").split("/")[-3:]
        if len(parts) != 3 or not all(parts):
            raise UserError(f"{where}: found {line.strip()[:80]!r}, expected 'scene/emotion/clip label'")
        scene, emotion, clip = parts
        if emotion.casefold() not in EMOTIONS:
            raise UserError(f"{where}: unknown label {emotion!r}; expected one of {', '.join(EMOTIONS)}")
        if meaning.setdefault(label, emotion.casefold()) != emotion.casefold():
            raise UserError(f"{where}: label {label} is {emotion} here and {meaning[label]} before")
        found.append((where, scene, emotion, clip))
    if not found:
        raise UserError(f"{path}: no line 'scene/emotion/clip label'")
    return found
