"""CASME: spontaneous micro-expressions at 60 frames a second."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from tfds_builders.common import layout, sheet_clips
from tfds_builders.common.annotation_rows import Annotation
from tfds_builders.common.annotations import read as read_sheet
from tfds_builders.common.builder import ClipBuilder, ClipConfig
from tfds_builders.common.frame_numbers import list_frames
from tfds_builders.common.jobs import Item
from tfds_builders.common.report import BuildReport
from tfds_builders.common.sheet_clips import Source

_SOURCE = Source("casme", "casme", 60.0)
_ROOTS = {"raw": ("CASME_raw_selected",), "cropped": ("Cropped",)}


class Builder(ClipBuilder):
    """Builder of `casme/raw` and `casme/cropped`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar[list[ClipConfig]] = [
        ClipConfig(name="raw", description="The frames as recorded."),
        ClipConfig(name="cropped", description="The face crops of the distribution."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Ask the Chinese Academy of Sciences (casme.psych.ac.cn) for it, then unpack:
      CASME-coded-20190721.xls
      CASME_raw_selected/sub01/EP01_5/EP01_5-1.jpg ...    (casme/raw)
      Cropped/sub01/EP01_5/reg_EP01_5-1.jpg ...           (casme/cropped)"""

    def clips(self, manual_dir: Path, report: BuildReport) -> Iterable[Item]:
        """One job a row of the sheet; where a row disagrees with its folder, the folder is right."""
        how = self.MANUAL_DOWNLOAD_INSTRUCTIONS
        sheet = layout.sheet(manual_dir, ("CASME-coded*", "*CASME*coded*", "*CASME*"), how, without=("*CASME2*",))
        rows = read_sheet("casme", sheet)
        root = layout.root_folder(manual_dir, _ROOTS[self.builder_config.name], how, near=sheet)

        def make(row: Annotation) -> Item:
            folder = layout.find(root, (f"sub{row.subject}", row.subject), row.clip)
            if folder is None:
                return sheet_clips.no_folder(row, root, f"sub{row.subject}/{row.clip}")
            marks = sheet_clips.landmark_file(root, f"sub{row.subject}", row.clip)
            # MEB found the sheet wrong, not the folders, wherever the two disagree.
            return sheet_clips.sheet_clip(row, list_frames(folder), _SOURCE, report, landmarks=marks, folder_wins=True)

        second = {f"{r.subject}/{r.clip}": r.cells["apex2"] for r in rows.rows if r.cells.get("apex2")}
        report.notes["second_apex"] = second  # clips with two peaks; the contract holds one
        yield from sheet_clips.sheet_items(rows, _SOURCE, report, make)
