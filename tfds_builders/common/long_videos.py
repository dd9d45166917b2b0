"""Events in long recordings whose frames are image files: a clip is the event with margins on both sides."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from tfds_builders.common.annotation_rows import Annotation
from tfds_builders.common.builder import ClipConfig
from tfds_builders.common.frame_numbers import FrameMap, list_frames
from tfds_builders.common.jobs import Item
from tfds_builders.common.report import BuildReport, Skipped
from tfds_builders.common.sheet_clips import Source, sheet_clip


@dataclasses.dataclass(eq=False, kw_only=True)
class EventConfig(ClipConfig):
    """Events of one type.

    Attributes:
      expression_type: `micro` or `macro`.
      margin: seconds kept before the onset and after the offset. INFERRED: half a second is the usual upper limit of a
        micro-expression, so that a neutral face is seen on both sides; the recordings themselves go on for minutes.
    """

    expression_type: str = "micro"
    margin: float = 0.5

    def margin_frames(self, fps: float) -> int:
        """The margin in frames."""
        return math.ceil(self.margin * fps)


class Videos:
    """The recordings of a set; the listing of the last one is kept, for rows of one recording follow one another."""

    def __init__(self, margin: int) -> None:
        self._margin = margin
        self._last: tuple[Path, FrameMap] | None = None

    def frames(self, folder: Path) -> FrameMap:
        """The frames of a recording."""
        if self._last is None or self._last[0] != folder:
            self._last = (folder, list_frames(folder))
        return self._last[1]

    def event(
        self, row: Annotation, folder: Path, source: Source, report: BuildReport, *, whole_only: bool = False
    ) -> Item:
        """The clip of a row, named `<clip>/<onset>`.

        Args:
          row: the row.
          folder: the recording.
          source: see Source.
          report: see `sheet_clip`.
          whole_only: leaves out frames whose JPEG file breaks off, and reports them.
        """
        onset, offset = row.frames
        video = self.frames(folder)
        frames = video.between(onset - self._margin, offset + self._margin)
        who = f"{row.where} ({row.subject}/{row.clip})"
        if not len(frames):
            return Skipped(
                who,
                f"no frame from {onset} to {offset} in {folder}, which holds {video.numbers[0]} to {video.numbers[-1]}",
            )
        if whole_only:
            frames = _without_broken(frames, who, report)
            if not len(frames):
                return Skipped(who, f"every frame from {onset} to {offset} in {folder} is damaged")
        return sheet_clip(row, frames, source, report, name=f"{row.clip}/{onset}")


def _without_broken(frames: FrameMap, who: str, report: BuildReport) -> FrameMap:
    kept = []
    for number, path in zip(frames.numbers, frames.paths, strict=True):
        if breaks_off(path):
            report.correct(who, "frames", path.name, "", "the file is damaged (it breaks off); the frame is left out")
        else:
            kept.append((number, path))
    return FrameMap(frames.folder, tuple(n for n, _ in kept), tuple(p for _, p in kept))


def breaks_off(path: Path) -> bool:
    """Whether a JPEG file lacks its end marker; reads its last bytes only."""
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        return False
    with open(path, "rb") as f:
        size = f.seek(0, 2)
        f.seek(max(size - 64, 0))
        return not f.read().rstrip(b"\x00").endswith(b"\xff\xd9")
