"""SAMM: spontaneous micro-movements at 200 frames a second, grey, 32 people of 13 ethnicities."""

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

_SOURCE = Source("samm", "samm", 200.0)
_ROOTS = {"raw": ("SAMM",), "cropped": ("SAMM_CROP", "SAMM_cropped")}


class Builder(ClipBuilder):
    """Builder of `samm/raw` and `samm/cropped`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar[list[ClipConfig]] = [
        ClipConfig(name="raw", description="The frames as recorded, 2040x1088."),
        ClipConfig(name="cropped", description="The face crops of the distribution."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Ask Manchester Metropolitan University (Moi Hoon Yap) for a licence, then unpack:
      SAMM_Micro_FACS_Codes_v2.xlsx
      SAMM/006/006_1_2/006_05562.jpg ...         (samm/raw)
      SAMM_CROP/006/006_1_2/006_05562.jpg ...    (samm/cropped)"""

    def clips(self, manual_dir: Path, report: BuildReport) -> Iterable[Item]:
        """One job a row of the sheet."""
        how = self.MANUAL_DOWNLOAD_INSTRUCTIONS
        sheet = layout.sheet(
            manual_dir, ("*SAMM*Micro*FACS*", "SAMM.xlsx", "*SAMM*"), how, without=("*long*video*", "*longvideo*")
        )
        rows = read_sheet("samm", sheet)
        root = layout.root_folder(manual_dir, _ROOTS[self.builder_config.name], how, near=sheet)

        def make(row: Annotation) -> Item:
            folder = layout.find(root, (row.subject, str(int(row.subject))), row.clip)
            if folder is None:
                return sheet_clips.no_folder(row, root, f"{row.subject}/{row.clip}")
            marks = sheet_clips.landmark_file(root, row.subject, row.clip)
            return sheet_clips.sheet_clip(row, list_frames(folder), _SOURCE, report, landmarks=marks)

        yield from sheet_clips.sheet_items(rows, _SOURCE, report, make)
