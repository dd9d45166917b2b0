"""MMI: posed and spontaneous expressions from neutral over apex to neutral, some of them FACS-coded."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from mer_jax.errors import UserError
from tfds_builders.common import facs, layout
from tfds_builders.common.builder import ClipBuilder
from tfds_builders.common.jobs import Item
from tfds_builders.common.report import BuildReport, Skipped
from tfds_builders.common.sheet_clips import Source
from tfds_builders.common.video_clips import VideoClip, VideoConfig, video_job

_SOURCE = Source("mmi", "mmi", float("nan"))  # the video files say their own frame rate
EMOTIONS = {1: "anger", 2: "disgust", 3: "fear", 4: "happy", 5: "sadness", 6: "surprise"}
FRONT, DUAL = "0", "2"


class Builder(ClipBuilder):
    """Builder of `mmi/front`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar[list[VideoConfig]] = [
        VideoConfig(name="front", size=None, description="Sessions filmed from the front, full frames.")
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Register at mmifacedb.eu, download the sessions, and unpack them:
      Sessions/1/session.xml
      Sessions/1/S001-001.avi
      Sessions/1/S001-001.xml                (emotion)
      Sessions/1/S001-001-oao_aucs.xml       (action units, of the coded ones)"""

    def clips(self, manual_dir: Path, report: BuildReport) -> Iterable[Item]:
        """One job a session of view 0; every other session is skipped by name."""
        config: VideoConfig = self.builder_config
        root = layout.root_folder(manual_dir, ("Sessions",), self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        sessions = sorted(layout.folders(root), key=lambda f: (len(f.name), f.name))
        report.rows = len(sessions)
        for session in sessions:
            yield _session(session, config.size)


def _session(folder: Path, size: int | None) -> Item:
    where = f"session {folder.name}"
    videos = [folder / name for name in layout.children(folder) if name.lower().endswith(".avi")]
    if not videos:
        return Skipped(where, "no avi file (a session of stills)")
    if len(videos) > 1:
        return Skipped(where, f"{len(videos)} avi files, expected one")
    (video,) = videos
    session = _parse(folder / "session.xml")
    views = {t.get("view") for t in session.iter("track")} if session is not None else set()
    if views != {FRONT}:
        kind = (
            "a dual view: two half-width faces, front and profile"
            if views == {DUAL}
            else f"views {sorted(map(str, views))}"
        )
        return Skipped(where, f"not filmed from the front alone ({kind})")
    subject = _subject(video, session)
    if subject is None:
        return Skipped(where, f"neither {video.name} nor session.xml names the subject")
    code = _emotion_code(folder / f"{video.stem}.xml")
    units, keys = _units(folder / f"{video.stem}-oao_aucs.xml")
    if code is None and not units.complete:
        return Skipped(where, "neither an emotion nor action units")
    if code is not None and code not in EMOTIONS:
        return Skipped(where, f"emotion code {code} is none of the six basic emotions")
    return video_job(
        VideoClip(
            source=_SOURCE,
            clip=video.stem,
            subject=subject,
            path=video,
            emotion="" if code is None else EMOTIONS[code],
            expression_type="macro",
            size=size,
            action_units=units,
            keys=keys,
            upright=True,  # some recordings of view 0 are stored lying on their side
        )
    )


def _parse(path: Path) -> ElementTree.Element | None:
    if not path.is_file():
        return None
    try:
        return ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise UserError(f"{path}: cannot be read as XML ({error}); copy it again from the distribution") from error


def _subject(video: Path, session: ElementTree.Element | None) -> str | None:
    """INFERRED: file names begin with the subject (`S001-001.avi`); otherwise session.xml names one subject."""
    match = re.match(r"(S[0-9]+)-", video.name, re.IGNORECASE)
    if match is not None:
        return match[1].upper()
    found = {e.get("id") for e in session.iter("subject")} if session is not None else set()
    names = [n for n in found if n]
    return f"S{names[0]:0>3}" if len(names) == 1 and names[0].isalnum() else None


def _emotion_code(path: Path) -> int | None:
    root = _parse(path)
    for tag in root.iter("Metatag") if root is not None else ():
        if tag.get("Name") == "Emotion":
            value = (tag.get("Value") or "").strip()
            if not re.fullmatch("[0-9]{1,3}", value):
                raise UserError(f"{path}: Metatag 'Emotion' has the value {value!r}, expected a number")
            return int(value)
    return None


def _units(path: Path) -> tuple[facs.ActionUnits, tuple[int, int, int] | None]:
    """Action units, and onset, apex and offset of the whole movement where every unit marks them.

    INFERRED: markers carry onset, apex or offset in an attribute and a frame number (from 1) in another one; the first
    onset, the first apex of the unit that peaks last, and the last offset span the movement. Other forms give no key
    frames.
    """
    root = _parse(path)
    if root is None:
        return facs.UNKNOWN, None
    cells, marks = [], []
    for unit in root.iter("ActionUnit"):
        cells.append((unit.get("Number") or "").strip())
        marks.append(_markers(unit))
    units = facs.parse_action_units("+".join(cells), str(path))
    if not marks or any({"onset", "apex", "offset"} - m.keys() for m in marks):
        return units, None
    onset, offset = min(m["onset"] for m in marks), max(m["offset"] for m in marks)
    apex = max(m["apex"] for m in marks)
    return units, (onset, apex, offset) if 0 <= onset <= apex <= offset else None


def _markers(unit: ElementTree.Element) -> dict[str, int]:
    found: dict[str, int] = {}
    for element in unit.iter():
        text = " ".join((element.tag, *element.attrib.values())).casefold()
        numbers = [v for k, v in element.attrib.items() if k.casefold() in ("frame", "framenumber", "position")]
        if not numbers or not re.fullmatch("[0-9]{1,9}", numbers[0].strip()):
            continue
        for kind in ("onset", "apex", "offset"):
            if kind in text:
                found.setdefault(kind, int(numbers[0]) - 1)
    return found
