"""CAS(ME)^2: macro- and micro-expressions of the same people in long recordings, 30 frames a second."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from mer_jax.errors import UserError
from tfds_builders.common import layout, long_videos, sheet_clips
from tfds_builders.common.annotation_rows import Annotation
from tfds_builders.common.annotations import read as read_sheet
from tfds_builders.common.builder import ClipBuilder
from tfds_builders.common.jobs import Item
from tfds_builders.common.long_videos import EventConfig
from tfds_builders.common.report import BuildReport
from tfds_builders.common.sheet_clips import Source

_COHORT, _FPS = "casme_squared", 30.0
_SOURCES = {
    "micro": Source("casme_squared", _COHORT, _FPS),
    "macro": Source("casme_squared_macro", _COHORT, _FPS),
}
_ROOTS = {"": ("rawpic",), "_cropped": ("cropped",)}


class Builder(ClipBuilder):
    """Builder of `casme_squared/micro`, `casme_squared/macro` and their face crops."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar[list[EventConfig]] = [
        EventConfig(name=f"{kind}{crop}", expression_type=kind, description=f"{kind} events, {text}.")
        for crop, text in (("", "frames as recorded"), ("_cropped", "face crops of the distribution"))
        for kind in ("micro", "macro")
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Ask the Chinese Academy of Sciences (casme.psych.ac.cn) for it, then unpack:
      CAS(ME)^2code_final.xlsx                             (three worksheets)
      rawpic/s15/15_0101disgustingteeth/img001.jpg ...     (casme_squared/micro, casme_squared/macro)
      cropped/s15/15_0101disgustingteeth/img001.jpg ...    (the same with _cropped)"""

    def clips(self, manual_dir: Path, report: BuildReport) -> Iterable[Item]:
        """One job an event of the sheet, with margins around it."""
        config: EventConfig = self.builder_config
        how = self.MANUAL_DOWNLOAD_INSTRUCTIONS
        sheet = layout.sheet(manual_dir, ("CAS(ME)^2code_final*", "*code_final*"), how)
        rows = read_sheet("casme_squared", sheet).of_type(config.expression_type).usable()
        source = _SOURCES[config.expression_type]
        root = layout.root_folder(manual_dir, _ROOTS[config.name.removeprefix(config.expression_type)], how, sheet)
        videos = long_videos.Videos(config.margin_frames(source.fps))
        report.notes["self_reports"] = {
            f"{r.subject}/{r.clip}/{r.onset}": r.cells["self_report"] for r in rows.rows if r.cells["self_report"]
        }

        def make(row: Annotation) -> Item:
            person = layout.find(root, row.subject)
            code = row.cells["video"]
            if person is None:
                return sheet_clips.no_folder(row, root, row.subject)
            # The title of the stimulus is part of the folder's name: 15_0101disgustingteeth.
            found = [f for f in layout.folders(person) if re.search(rf"(?<![0-9]){code}(?![0-9])", f.name)]
            if len(found) > 1:
                raise UserError(
                    f"{person}: {', '.join(f.name for f in found)} all carry the code {code}; expected one recording"
                )
            if not found:
                return sheet_clips.no_folder(row, person, f"with the code {code}")
            return videos.event(row, found[0], source, report)

        yield from sheet_clips.sheet_items(rows, source, report, make)
