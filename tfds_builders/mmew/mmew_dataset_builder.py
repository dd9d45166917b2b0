"""MMEW: micro-expressions at 90 frames a second, and stills of macro-expressions of the same people."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from mer_jax.errors import UserError
from tfds_builders.common import layout, sheet_clips
from tfds_builders.common.annotation_rows import Annotation
from tfds_builders.common.annotations import read as read_sheet
from tfds_builders.common.builder import ClipBuilder, ClipConfig
from tfds_builders.common.frame_numbers import IMAGE_SUFFIXES, FrameMap, list_frames
from tfds_builders.common.jobs import Item
from tfds_builders.common.report import BuildReport
from tfds_builders.common.sheet_clips import Source

_MICRO = Source("mmew", "mmew", 90.0)
_MACRO = Source("mmew_macro", "mmew", 90.0)
EMOTIONS = ("happiness", "anger", "surprise", "disgust", "fear", "sadness", "others")
_OTHERS = ("others", "repression")  # the sheet's word and the folder's
_BASE = ("MMEW_Final",)
_NAME = re.compile(r"(S[0-9]+)-[0-9]+-[0-9]+", re.IGNORECASE)


@dataclasses.dataclass(eq=False, kw_only=True)
class MmewConfig(ClipConfig):
    """Micro-expressions (clips) or macro-expressions (stills)."""

    expression_type: str = "micro"


class Builder(ClipBuilder):
    """Builder of `mmew/micro` and `mmew/macro`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar[list[MmewConfig]] = [
        MmewConfig(name="micro", description="The 300 micro-expressions."),
        MmewConfig(name="macro", expression_type="macro", description="The 900 stills, each a clip of one frame."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Ask the owners for it (dpailab.com/database.html), then unpack:
      MMEW_Micro_Exp.xlsx
      MMEW_Final/Micro_Expression/happiness/S03-01-002/1.jpg ...    (mmew/micro)
      MMEW_Final/Macro_Expression/S03/happiness/S03-01-001.jpg ...  (mmew/macro)
      (S03/happiness/S03-01-002/1.jpg and S03/happiness/S03-01-001.jpg are understood as well)"""

    def clips(self, manual_dir: Path, report: BuildReport) -> Iterable[Item]:
        """One job a row of the sheet, or a still."""
        if self.builder_config.expression_type == "macro":
            return self._stills(manual_dir, report)
        return self._micro(manual_dir, report)

    def _micro(self, manual_dir: Path, report: BuildReport) -> Iterator[Item]:
        how = self.MANUAL_DOWNLOAD_INSTRUCTIONS
        sheet = layout.sheet(manual_dir, ("MMEW_Micro_Exp*", "*MMEW*"), how)
        rows = read_sheet("mmew", sheet)
        base = _base(sheet.parent, manual_dir)
        root = layout.find(base, ("Micro_Expression", "Micro-Expression"))
        if root is None and not any(_people(base)):
            raise UserError(f"{base}: no folder 'Micro_Expression' and no subject folders. {how}")

        def make(row: Annotation) -> Item:
            emotions = _OTHERS if row.emotion == "others" else (row.emotion,)
            folder = layout.find(base, row.subject, emotions, row.clip) if root is None else None
            if root is not None:
                folder = layout.find(root, emotions, row.clip) or layout.find(root, row.subject, emotions, row.clip)
            if folder is None:
                return sheet_clips.no_folder(row, root or base, f"{emotions[0]}/{row.clip}")
            marks = sheet_clips.landmark_file(root or base, row.subject, row.clip, folder)
            return sheet_clips.sheet_clip(row, list_frames(folder), _MICRO, report, landmarks=marks)

        yield from sheet_clips.sheet_items(rows, _MICRO, report, make)

    def _stills(self, manual_dir: Path, report: BuildReport) -> Iterator[Item]:
        """The owners say that one still is one sample; files of one prefix are not joined to a sequence."""
        base = _base(manual_dir)
        root = layout.find(base, ("Macro_Expression", "Macro-Expression")) or base
        people = _people(root)
        if not people:
            raise UserError(f"{root}: no subject folders such as 'S03'. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        report.notes["labels"] = "the folder a still lies in"
        for person in people:
            for place in layout.folders(person):
                emotion = "others" if place.name.casefold() in _OTHERS else place.name.casefold()
                if emotion not in EMOTIONS:
                    raise UserError(f"{place}: unknown label {place.name!r}; expected one of {', '.join(EMOTIONS)}")
                for name in layout.children(place):
                    path = place / name
                    if path.suffix.lower() not in IMAGE_SUFFIXES:
                        continue
                    match = _NAME.fullmatch(path.stem.strip())
                    if match is None or match[1].upper() != person.name.upper():
                        raise UserError(
                            f"{path}: found {path.stem!r} in the folder of {person.name}; expected a name such as"
                            f" '{person.name}-01-001'"
                        )
                    frames = FrameMap(place, (1,), (path,))
                    subject = match[1].upper()
                    yield sheet_clips.whole_clip(_MACRO, subject, path.stem.strip(), frames, emotion, "macro", apex=0)


def _base(*places: Path) -> Path:
    """The folder of the two trees: below one of the places, or the first place itself."""
    deeper = [f for p in places for f in layout.folders(p)]
    return next((f for p in (*places, *deeper) if (f := layout.find(p, _BASE)) is not None), places[0])


def _people(root: Path) -> list[Path]:
    return [f for f in layout.folders(root) if re.fullmatch(r"S[0-9]+", f.name, re.IGNORECASE)]
