"""CAS(ME)^3: part A (emotional videos; micro and macro) and part C (a mock crime), 30 frames a second."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from mer_jax.errors import UserError
from tfds_builders.common import layout, long_videos, sheet_clips
from tfds_builders.common.annotation_rows import Annotation, Annotations
from tfds_builders.common.annotations import read as read_sheet
from tfds_builders.common.builder import ClipBuilder
from tfds_builders.common.frame_numbers import list_frames
from tfds_builders.common.jobs import Item
from tfds_builders.common.long_videos import EventConfig
from tfds_builders.common.report import BuildReport
from tfds_builders.common.sheet_clips import Source

_FPS = 30.0
_SOURCES = {
    "a": Source("casme3", "casme3", _FPS),
    "a_macro": Source("casme3_macro", "casme3", _FPS),
    "c": Source("casme3_c", "casme3_c", _FPS),  # other people
}
_FORMATS = {"a": "casme3", "a_macro": "casme3_macro", "c": "casme3_c"}
_CUT_CLIPS = ("Part_A_ME_clip", "frame")
_SHEETS = {
    "a": ("cas(me)3_part_A_ME_label_JpgIndex_v2*", "*part_A_ME_label*"),
    "a_macro": ("CAS(ME)3_part_A_v2*", "CAS(ME)3_part_A_v*"),
    "c": ("CAS(ME)3_part_C_ME*",),
}


class Builder(ClipBuilder):
    """Builder of `casme3/a`, `casme3/a_macro` and `casme3/c`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar[list[EventConfig]] = [
        EventConfig(name="a", expression_type="micro", description="Part A, micro-expressions."),
        EventConfig(name="a_macro", expression_type="macro", description="Part A, macro-expressions."),
        EventConfig(name="c", expression_type="micro", description="Part C, micro-expressions of a mock crime."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Ask the Chinese Academy of Sciences (casme.psych.ac.cn) for it, then unpack:
      cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx                   (casme3/a)
      CAS(ME)3_part_A_v2.xls                                      (casme3/a_macro)
      CAS(ME)3_part_C_ME.xlsx                                     (casme3/c)
      part_A/spNO.1/a/color/355.jpg ...                           (casme3/a, a_macro)
      or Part_A_ME_clip/frame/spNo.1_a_355/355.jpg ...            (casme3/a)
      part_C/1/a/color/355.jpg ...                                (casme3/c)"""

    def clips(self, manual_dir: Path, report: BuildReport) -> Iterable[Item]:
        """One job an event of the sheet; long recordings are cut around it."""
        config: EventConfig = self.builder_config
        part, how = config.name, self.MANUAL_DOWNLOAD_INSTRUCTIONS
        sheet = layout.sheet(manual_dir, _SHEETS[part], how)
        rows = _current(read_sheet(_FORMATS[part], sheet)).of_type(config.expression_type)
        if part == "a_macro":
            rows = rows.usable()
        source = _SOURCES[part]
        videos = long_videos.Videos(config.margin_frames(_FPS))
        folder_name = "part_C" if part == "c" else "part_A"
        long = layout.find(sheet.parent, folder_name) or layout.find(manual_dir, folder_name)
        cut = None
        if part == "a":
            cut = layout.find(sheet.parent, *_CUT_CLIPS) or layout.find(manual_dir, *_CUT_CLIPS)
        if long is None and cut is None:
            long = layout.root_folder(manual_dir, (folder_name,), how)

        def make(row: Annotation) -> Item:
            onset, _ = row.frames
            if long is None and cut is not None:
                folder = layout.find(cut, f"{row.subject}_{row.clip}_{_sheet_onset(row)}")
                if folder is None:
                    return sheet_clips.no_folder(row, cut, f"{row.subject}_{row.clip}_{_sheet_onset(row)}")
                return sheet_clips.sheet_clip(row, list_frames(folder), source, report, name=f"{row.clip}/{onset}")
            assert long is not None
            folder = _recording(long, row, part)
            if folder is None:
                return sheet_clips.no_folder(row, long, f"{row.subject}/{row.clip}")
            # About 130 images of part A are damaged (the authors' list): a clip does without them.
            return videos.event(row, folder, source, report, whole_only=True)

        yield from sheet_clips.sheet_items(rows, source, report, make)


def _current(rows: Annotations) -> Annotations:
    """The authors withdrew 61 rows of version 1 of part A as wrongly labelled."""
    if rows.version == "v1":
        raise UserError(
            f"{rows.file}: wrong sheet version: found version 1 of part A ({len(rows.rows)} rows), expected version 2;"
            " take it from the authors' repository jingtingEmmaLi/CAS-ME-3"
        )
    return rows


def _sheet_onset(row: Annotation) -> str:
    """Folders of cut clips carry the onset that the sheet had before any correction."""
    return row.cells["onset"].split(".")[0]


def _recording(root: Path, row: Annotation, part: str) -> Path | None:
    if part == "c":
        number = row.subject.lstrip("0") or "0"
        person = layout.find(root, (number, row.subject, f"sp{number}", f"spNO.{number}"))
        place = None if person is None else layout.find(person, ("a", row.clip))
    else:
        place = layout.find(root, row.subject, row.clip)
    return None if place is None else layout.find(place, "color") or place
