"""CK+: posed and some spontaneous expressions from a neutral face to the peak, FACS-coded, with landmarks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from mer_jax.errors import UserError
from tfds_builders.common import facs, layout, sheet_clips
from tfds_builders.common.builder import ClipBuilder
from tfds_builders.common.frame_numbers import list_frames
from tfds_builders.common.jobs import Item
from tfds_builders.common.report import BuildReport
from tfds_builders.common.sheet_clips import Source

_SOURCE = Source("ck_plus", "ck_plus", 30.0)  # NTSC video recorders (Kanade, Cohn and Tian 2000)
EMOTIONS = ("neutral", "anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")


class Builder(ClipBuilder):
    """Builder of `ck_plus`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Ask the University of Pittsburgh (Jeffrey Cohn) for a licence, then unpack:
      cohn-kanade-images/S005/001/S005_001_00000011.png ...
      Emotion/S005/001/S005_001_00000011_emotion.txt           (327 sequences have one)
      FACS/S005/001/S005_001_00000011_facs.txt                 (if you have them)
      Landmarks/S005/001/S005_001_00000011_landmarks.txt ...   (if you have them)"""

    def clips(self, manual_dir: Path, report: BuildReport) -> Iterable[Item]:
        """One job a sequence; without an emotion file its emotion is empty. The last frame is the peak."""
        root = layout.root_folder(manual_dir, ("cohn-kanade-images",), self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        emotions = layout.root_folder(manual_dir, ("Emotion", "Emotion_labels"), self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        codes, points = layout.find(root.parent, ("FACS", "FACS_labels")), layout.find(root.parent, "Landmarks")
        labelled = 0
        for person in layout.folders(root):
            for folder in layout.folders(person):
                frames = list_frames(folder)
                emotion = _emotion(emotions / person.name / folder.name)
                labelled += bool(emotion)
                marks: tuple[Path | None, ...] = ()
                if points is not None:
                    names = [points / person.name / folder.name / f"{p.stem}_landmarks.txt" for p in frames.paths]
                    marks = tuple(name if name.is_file() else None for name in names)
                yield sheet_clips.whole_clip(
                    _SOURCE,
                    person.name,
                    folder.name,
                    frames,
                    emotion,
                    "neutral" if emotion == "neutral" else "macro",
                    apex=len(frames) - 1,
                    action_units=facs.UNKNOWN if codes is None else _units(codes / person.name / folder.name),
                    landmarks=marks if any(marks) else (),
                )
        report.notes["labelled"] = labelled


def _only(folder: Path, suffix: str) -> Path | None:
    found = [folder / name for name in layout.children(folder) if name.endswith(suffix)]
    if len(found) > 1:
        raise UserError(f"{folder}: found {len(found)} files {suffix!r}, expected one or none")
    return found[0] if found else None


def _emotion(folder: Path) -> str:
    """The word of the one number in the file, written as `   3.0000000e+00`; "" without a file."""
    path = _only(folder, "_emotion.txt")
    if path is None:
        return ""
    text = path.read_text(errors="replace").strip()
    try:
        code = float(text)
    except ValueError:
        code = -1.0
    if not code.is_integer() or not 0 <= code < len(EMOTIONS):
        raise UserError(f"{path}: found {text[:40]!r}, expected one number from 0 to {len(EMOTIONS) - 1}")
    return EMOTIONS[int(code)]


def _units(folder: Path) -> facs.ActionUnits:
    """Lines `unit intensity`; 0 is an intensity that is not given."""
    path = _only(folder, "_facs.txt")
    if path is None:
        return facs.UNKNOWN
    pairs = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = [float(cell) for cell in line.split()]
        except ValueError:
            values = []
        if len(values) != 2 or not all(v.is_integer() for v in values):
            raise UserError(
                f"{path}, line {number}: found {line.strip()[:40]!r}, expected an action unit and its intensity"
            )
        pairs.append((int(values[0]), int(values[1])))
    return facs.from_codes(pairs, str(path))
