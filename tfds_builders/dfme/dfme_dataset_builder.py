"""DFME: dynamic spontaneous micro-expressions at 200, 300 and 500 frames a second; challenge release."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from mer_jax.errors import UserError
from tfds_builders.common import layout, sheet_clips
from tfds_builders.common.annotation_rows import Annotation
from tfds_builders.common.annotations import read as read_sheet
from tfds_builders.common.builder import ClipBuilder, ClipConfig
from tfds_builders.common.frame_numbers import FrameMap, list_frames
from tfds_builders.common.jobs import Item
from tfds_builders.common.report import BuildReport
from tfds_builders.common.sheet_clips import Source

_SOURCE = Source("dfme", "dfme", float("nan"))
_SHEETS = {
    "train": ("training_full*", "*train*"), "test_a": ("testA_full*", "*testA*"), "test_b": ("testB_full*", "*testB*"),
}  # fmt: skip
_ROOTS = {
    "train": ("train", "training", "DFME_train", "DFME_training"),
    "test_a": ("testA", "test_A", "DFME_testA"),
    "test_b": ("testB", "test_B", "DFME_testB"),
}


class Builder(ClipBuilder):
    """Builder of `dfme/train`, `dfme/test_a` and `dfme/test_b`: disjoint people."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar[list[ClipConfig]] = [
        ClipConfig(name="train", description="1,856 clips of 176 people."),
        ClipConfig(name="test_a", description="474 clips of 42 people."),
        ClipConfig(name="test_b", description="299 clips of 41 people."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Ask the owners of DFME (arXiv 2301.00985) for a licence, then unpack:
      training_full_with_AU.xlsx, testA_full_with_AU.xlsx, testB_full_with_AU.xlsx    (or the challenge's sheets)
      train/sub0003_01/<frame>.jpg ...    (dfme/train; train/sub0003/sub0003_01/ is understood as well)
      testA/sub0003_01/<frame>.jpg ...    (dfme/test_a)
      testB/sub0003_01/<frame>.jpg ...    (dfme/test_b)"""

    def clips(self, manual_dir: Path, report: BuildReport) -> Iterable[Item]:
        """One job a row of the sheet. Its frame numbers are positions from 0, unlike those of all other sets."""
        part, how = self.builder_config.name, self.MANUAL_DOWNLOAD_INSTRUCTIONS
        sheet = layout.sheet(manual_dir, _SHEETS[part], how)
        rows = read_sheet("dfme", sheet)
        root = layout.root_folder(manual_dir, _ROOTS[part], how, near=sheet)

        def make(row: Annotation) -> Item:
            folder = layout.find(root, row.clip) or layout.find(root, row.subject, row.clip)
            if folder is None:
                return sheet_clips.no_folder(row, root, row.clip)
            listed = list_frames(folder)
            frames = FrameMap(folder, tuple(range(len(listed))), listed.paths)
            source = dataclasses.replace(_SOURCE, fps=_fps(row))
            marks = sheet_clips.landmark_file(root, row.subject, row.clip)
            return sheet_clips.sheet_clip(row, frames, source, report, landmarks=marks)

        yield from sheet_clips.sheet_items(rows, _SOURCE, report, make)


def _fps(row: Annotation) -> float:
    cell = row.cells.get("fps", "")
    if not cell:
        return float("nan")
    try:
        return float(cell)
    except ValueError:
        raise UserError(f"{row.where}, column 'fps': found {cell!r}, expected frames a second") from None
