"""SAMM long videos: macro- and micro-expressions in long recordings of SAMM's people."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from tfds_builders.common import layout, long_videos, sheet_clips
from tfds_builders.common.annotation_rows import Annotation, Annotations
from tfds_builders.common.annotations import read as read_sheet
from tfds_builders.common.builder import ClipBuilder
from tfds_builders.common.jobs import Item
from tfds_builders.common.long_videos import EventConfig
from tfds_builders.common.report import BuildReport
from tfds_builders.common.sheet_clips import Source

_SOURCE = Source("samm_long_videos", "samm", 200.0)  # the people of SAMM


class Builder(ClipBuilder):
    """Builder of `samm_long_videos/macro` and `samm_long_videos/micro`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar[list[EventConfig]] = [
        EventConfig(name="macro", expression_type="macro", description="The 343 macro-expressions."),
        EventConfig(name="micro", expression_type="micro", description="The 159 micro-expressions."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Ask Manchester Metropolitan University (Moi Hoon Yap) for a licence, then unpack:
      SAMM_LongVideos_V1_Release.xlsx             (or V2, V3)
      SAMM_Micro_FACS_Codes_v2.xlsx               (if you have it: emotions of the micro-expressions)
      SAMM_longvideos/006_1/006_1_0001.jpg ..."""

    def clips(self, manual_dir: Path, report: BuildReport) -> Iterable[Item]:
        """One job an interval of the sheet, with margins around it."""
        config: EventConfig = self.builder_config
        how = self.MANUAL_DOWNLOAD_INSTRUCTIONS
        sheet = layout.sheet(manual_dir, ("SAMM_LongVideos*", "*long*video*"), how)
        rows = read_sheet("samm_long_videos", sheet).of_type(config.expression_type).usable()
        rows = _with_emotions(rows, manual_dir)
        root = layout.root_folder(manual_dir, ("SAMM_longvideos", "SAMM_long_videos"), how, near=sheet)
        videos = long_videos.Videos(config.margin_frames(_SOURCE.fps))

        def make(row: Annotation) -> Item:
            video = "_".join(row.clip.split("_")[:2])
            folder = layout.find(root, (video, video.lstrip("0")))
            if folder is None:
                return sheet_clips.no_folder(row, root, video)
            return videos.event(row, folder, _SOURCE, report)

        yield from sheet_clips.sheet_items(rows, _SOURCE, report, make)


def _with_emotions(rows: Annotations, manual_dir: Path) -> Annotations:
    """This sheet has no emotions; those of the micro-expressions stand in SAMM's."""
    path = layout.optional_sheet(manual_dir, ("*SAMM*Micro*FACS*",))
    if path is None:
        return rows
    emotions = {row.clip: row.emotion for row in read_sheet("samm", path).check().rows}
    updated = tuple(
        dataclasses.replace(row, emotion=emotions.get(row.clip, "")) if row.expression_type == "micro" else row
        for row in rows.rows
    )
    return dataclasses.replace(rows, rows=updated)
