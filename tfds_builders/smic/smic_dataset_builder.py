"""SMIC: spontaneous micro-expressions before a fast camera (HS), a camera (VIS) and a near-infrared one (NIR)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from mer_jax.errors import UserError
from tfds_builders.common import layout, sheet_clips
from tfds_builders.common.annotation_rows import Annotation
from tfds_builders.common.annotations import read as read_sheet
from tfds_builders.common.builder import ClipBuilder, ClipConfig
from tfds_builders.common.frame_numbers import list_frames
from tfds_builders.common.jobs import Item
from tfds_builders.common.report import BuildReport
from tfds_builders.common.sheet_clips import Source

EMOTIONS = ("negative", "positive", "surprise")
_CODES = {"ne": "negative", "po": "positive", "sur": "surprise"}
_FPS = {"HS": 100.0, "VIS": 25.0, "NIR": 25.0}


@dataclasses.dataclass(eq=False, kw_only=True)
class SmicConfig(ClipConfig):
    """One camera.

    Attributes:
      camera: HS, VIS or NIR.
      kind: `raw` or `cropped`: the cut clips, whose folder is the label; `long`: SMIC-E, with a sheet.
    """

    camera: str = "HS"
    kind: str = "raw"

    @property
    def source(self) -> Source:
        """People are the same before all cameras: one cohort."""
        suffix = {"HS": "e", "VIS": "e_vis"}[self.camera] if self.kind == "long" else self.camera.lower()
        return Source(f"smic_{suffix}", "smic", _FPS[self.camera], "nir" if self.camera == "NIR" else "")


class Builder(ClipBuilder):
    """Builder of `smic/hs`, `smic/vis`, `smic/nir`, their face crops, and SMIC-E: `smic/e` (HS), `smic/e_vis`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar[list[SmicConfig]] = [
        *(SmicConfig(name=c.lower(), camera=c, description=f"Camera {c}, cut clips.") for c in _FPS),
        *(
            SmicConfig(name=f"{c.lower()}_cropped", camera=c, kind="cropped", description=f"Camera {c}, face crops.")
            for c in _FPS
        ),
        SmicConfig(name="e", camera="HS", kind="long", description="SMIC-E: long clips of camera HS."),
        SmicConfig(name="e_vis", camera="VIS", kind="long", description="SMIC-E: long clips of camera VIS."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Ask the University of Oulu (Guoying Zhao) for a licence, then unpack:
      SMIC_all_raw/HS/s1/micro/negative/s1_ne_01/image090823.bmp ...            (smic/hs, vis, nir)
      SMIC_all_cropped/HS/s1/micro/negative/s1_ne_01/reg_image090823.bmp ...    (smic/hs_cropped, ...)
      SMIC-HS-E_annotation.xlsx and
      SMIC-E_raw image/HS_long/SMIC-HS-E/s01/s1_ne_01/image090800.jpg ...       (smic/e, e_vis)"""

    def clips(self, manual_dir: Path, report: BuildReport) -> Iterable[Item]:
        """One job a folder of a cut clip, or a row of SMIC-E's sheet."""
        config: SmicConfig = self.builder_config
        if config.kind == "long":
            return self._long_clips(manual_dir, report, config)
        return self._cut_clips(manual_dir, report, config)

    def _cut_clips(self, manual_dir: Path, report: BuildReport, config: SmicConfig) -> Iterable[Item]:
        names = ("SMIC_all_raw",) if config.kind == "raw" else ("SMIC_all_cropped",)
        root = layout.root_folder(manual_dir, names, self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        camera = layout.find(root, config.camera)
        if camera is None:
            raise UserError(f"{root}: no folder {config.camera!r}. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        report.notes["labels"] = "the folder a clip lies in"
        for person in layout.folders(camera):
            match = re.fullmatch(r"s0*([0-9]+)", person.name, re.IGNORECASE)
            if match is None:
                raise UserError(f"{person}: found folder {person.name!r}, expected a subject such as 's1'")
            subject = f"s{match[1]:0>2}"  # as SMIC-E and the lists of MEGC write it
            micro = layout.find(person, "micro")
            if micro is None:
                report.notes.setdefault("subjects_without_micro", []).append(person.name)
                continue
            for folder in layout.folders(micro):
                emotion = folder.name.casefold()
                if emotion not in EMOTIONS:
                    raise UserError(f"{folder}: unknown label {folder.name!r}; expected a folder {', '.join(EMOTIONS)}")
                for clip in layout.folders(folder):
                    _check_name(clip, match[1], emotion)
                    marks = sheet_clips.landmark_file(root, f"{config.camera}/{person.name}", clip.name, clip)
                    yield sheet_clips.whole_clip(
                        config.source, subject, clip.name, list_frames(clip), emotion, "micro", landmarks=marks
                    )

    def _long_clips(self, manual_dir: Path, report: BuildReport, config: SmicConfig) -> Iterable[Item]:
        how = self.MANUAL_DOWNLOAD_INSTRUCTIONS
        sheet = layout.sheet(manual_dir, ("SMIC-HS-E_annotation*", "*SMIC*E*annotation*"), how)
        rows = read_sheet("smic_e", sheet, config.camera)
        base = layout.root_folder(manual_dir, ("SMIC-E_raw image", "SMIC-E_raw_image", "SMIC-E"), how, near=sheet)
        root = layout.find(base, f"{config.camera}_long", f"SMIC-{config.camera}-E") or layout.find(
            base, f"{config.camera}_long"
        )
        if root is None:
            raise UserError(f"{base}: no folder '{config.camera}_long'. {how}")
        later = {r.clip: r.cells["onset2"] for r in rows.rows if r.cells.get("onset2")}
        report.notes["further_events"] = later  # the clip's event is the first one

        def make(row: Annotation) -> Item:
            number = int(row.subject[1:])
            folder = layout.find(root, (row.subject, f"s{number}"), row.clip)
            if folder is None:
                return sheet_clips.no_folder(row, root, f"{row.subject}/{row.clip}")
            marks = sheet_clips.landmark_file(root, row.subject, row.clip, folder)
            return sheet_clips.sheet_clip(row, list_frames(folder), config.source, report, landmarks=marks)

        yield from sheet_clips.sheet_items(rows, config.source, report, make)


def _check_name(clip: Path, subject: str, emotion: str) -> None:
    match = re.match(r"s0*([0-9]+)_([a-z]+)", clip.name, re.IGNORECASE)
    if match is None or match[1] != subject or _CODES.get(match[2].casefold(), emotion) != emotion:
        raise UserError(
            f"{clip}: found {clip.name!r} among the {emotion} clips of subject s{subject}; expected a name such as"
            f" 's{subject}_{next(c for c, e in _CODES.items() if e == emotion)}_01'; move the folder back"
        )
