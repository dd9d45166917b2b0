"""CASME II: spontaneous micro-expressions at 200 frames a second."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from tfds_builders.common import layout, sheet_clips
from tfds_builders.common.annotation_rows import Annotation, Annotations
from tfds_builders.common.annotations import read as read_sheet
from tfds_builders.common.builder import ClipBuilder, ClipConfig
from tfds_builders.common.frame_numbers import list_frames
from tfds_builders.common.jobs import Item
from tfds_builders.common.report import BuildReport
from tfds_builders.common.sheet_clips import Source

_SOURCE = Source("casme2", "casme2", 200.0)
_ROOTS = {"raw": ("CASME2_RAW_selected", "CASME2-RAW", "CASME2_RAW"), "cropped": ("Cropped",)}
_OBJECTIVE = "*objective*"


class Builder(ClipBuilder):
    """Builder of `casme2/raw` and `casme2/cropped`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar[list[ClipConfig]] = [
        ClipConfig(name="raw", description="The frames as recorded."),
        ClipConfig(name="cropped", description="The face crops of the distribution."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Ask the Chinese Academy of Sciences (casme.psych.ac.cn) for it, then unpack:
      CASME2-coding-20140508.xlsx or CASME2-coding-20190701.xlsx    (one of them)
      CASME2-ObjectiveClasses.xlsx                                  (if you have it)
      CASME2_RAW_selected/sub01/EP02_01f/img46.jpg ...              (casme2/raw; or the longer CASME2-RAW)
      Cropped/sub01/EP02_01f/reg_img46.jpg ...                      (casme2/cropped)"""

    def clips(self, manual_dir: Path, report: BuildReport) -> Iterable[Item]:
        """One job a row of the sheet of 2014 or 2019."""
        how = self.MANUAL_DOWNLOAD_INSTRUCTIONS
        sheet = layout.sheet(manual_dir, ("CASME2-coding*", "*CASME2*coding*", "*CASME2*"), how, without=(_OBJECTIVE,))
        rows = _with_objective_classes(read_sheet("casme2", sheet), manual_dir)
        root = layout.root_folder(manual_dir, _ROOTS[self.builder_config.name], how, near=sheet)
        report.notes["frames"] = root.name

        def make(row: Annotation) -> Item:
            folder = layout.find(root, (f"sub{row.subject}", row.subject), row.clip)
            if folder is None:
                return sheet_clips.no_folder(row, root, f"sub{row.subject}/{row.clip}")
            marks = sheet_clips.landmark_file(root, f"sub{row.subject}", row.clip)
            return sheet_clips.sheet_clip(row, list_frames(folder), _SOURCE, report, landmarks=marks)

        yield from sheet_clips.sheet_items(rows, _SOURCE, report, make)


def _with_objective_classes(rows: Annotations, manual_dir: Path) -> Annotations:
    """The separate file of objective classes, where it is there, goes before the column of the 2019 sheet: it is the
    list of MEGC 2018."""
    path = layout.optional_sheet(manual_dir, ("*CASME2*objective*",))
    if path is None:
        return rows
    given = {(r.subject, r.clip): r.objective_class for r in read_sheet("casme2_objective", path).check().rows}
    updated = tuple(
        dataclasses.replace(r, objective_class=given.get((r.subject, r.clip), r.objective_class)) for r in rows.rows
    )
    return dataclasses.replace(rows, rows=updated)
