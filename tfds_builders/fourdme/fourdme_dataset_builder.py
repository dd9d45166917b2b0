"""4DME: spontaneous micro-expressions in four modalities; this builder reads the grey 2D recordings, 60 a second."""

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

_SOURCE = Source("fourdme", "fourdme", 60.0)
_ROOTS = {"grey": ("gray_micro",), "grey_cropped": ("gray_micro_crop",)}


class Builder(ClipBuilder):
    """Builder of `fourdme/grey` and `fourdme/grey_cropped`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar[list[ClipConfig]] = [
        ClipConfig(name="grey", description="The grey 2D recordings."),
        ClipConfig(name="grey_cropped", description="The face crops of the distribution."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Ask the University of Oulu (Guoying Zhao, Xiaobai Li) for a licence, then unpack:
      4DME_Labelling_Micro_release v1.xlsx
      gray_micro/<subject>/<clip>/<frame>.jpg ...         (fourdme/grey)
      gray_micro_crop/<subject>/<clip>/<frame>.jpg ...    (fourdme/grey_cropped)"""

    def clips(self, manual_dir: Path, report: BuildReport) -> Iterable[Item]:
        """One job a row of the sheet; several emotions of a clip stay joined by '+'."""
        how = self.MANUAL_DOWNLOAD_INSTRUCTIONS
        sheet = layout.sheet(manual_dir, ("4DME_Labelling_Micro*", "*4DME*Micro*", "*4DME*"), how, ("*extra*",))
        rows = read_sheet("fourdme", sheet)
        root = layout.root_folder(manual_dir, _ROOTS[self.builder_config.name], how, near=sheet)

        def make(row: Annotation) -> Item:
            folder = layout.find(root, row.subject, row.clip)
            if folder is None:
                return sheet_clips.no_folder(row, root, f"{row.subject}/{row.clip}")
            marks = sheet_clips.landmark_file(root, row.subject, row.clip)
            return sheet_clips.sheet_clip(row, list_frames(folder), _SOURCE, report, landmarks=marks)

        yield from sheet_clips.sheet_items(rows, _SOURCE, report, make)
