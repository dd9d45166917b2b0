"""What is recognised: a video file, a folder of frames, or the rows of a clip folder's CSV."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from mer_jax.data import landmarks as landmark_lib
from mer_jax.errors import UserError
from tfds_builders.clip_folder import table as clip_folder
from tfds_builders.common import landmark_files

Box = tuple[int, int, int, int]  # x, y, w, h in pixels of the original frames


@dataclasses.dataclass(frozen=True)
class Recording:
    """Frames of one person in time.

    Attributes:
      name: for files and messages.
      path: a video file or a folder of frames.
      fps: frames a second, NaN where unknown.
      first: position of the first frame that counts.
      last: position of the last one; None for all.
      box: part of the frames that is looked at; None for all.
      landmarks: float32 [T, 68, 2] of the frames from `first`, in pixels of the original frames; None where not given.
      dataset: of the person; "" where not given.
      subject: the person; "" where not given.
      key_frames: onset, apex (-1 where unknown) and offset, counted from `first`: the recording is one event; None
        where events are to be looked for.
    """

    name: str
    path: Path
    fps: float
    first: int = 0
    last: int | None = None
    box: Box | None = None
    landmarks: np.ndarray | None = None
    dataset: str = ""
    subject: str = ""
    key_frames: tuple[int, int, int] | None = None

    def frames(self) -> Iterator[np.ndarray]:
        """The frames that count, uint8 [H, W, C], cut to the box, decoded one after another.

        Raises:
          UserError: a frame cannot be decoded, frames of several shapes, or a box that is not inside them.
        """
        end = None if self.last is None else self.last + 1
        shape: tuple[int, ...] | None = None
        for number, frame in enumerate(landmark_lib.read_clip(self.path)):
            shape = shape or frame.shape
            if frame.shape != shape:
                raise UserError(f"{self.path}: frame {number} has the shape {frame.shape} after {shape}; expected one")
            if end is not None and number >= end:
                return
            if number >= self.first:
                yield self._cut(frame)

    def length(self) -> int | None:
        """Number of frames as far as it is known without decoding."""
        if self.path.is_dir():
            whole = len(landmark_lib.images(self.path))
        else:
            video = cv2.VideoCapture(str(self.path))
            whole = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
            video.release()
        end = whole if self.last is None else min(self.last + 1, whole)
        return max(end - self.first, 0) if whole > 0 else None

    def points(self, first: int, last: int) -> np.ndarray | None:
        """Given landmarks of frames first .. last, [n, 68, 2] in pixels of the box; None where none are given."""
        if self.landmarks is None:
            return None
        corner = np.array(self.box[:2] if self.box else (0, 0), np.float32)
        return np.asarray(self.landmarks[first : last + 1] - corner)

    def _cut(self, frame: np.ndarray) -> np.ndarray:
        if self.box is None:
            return frame
        x, y, w, h = self.box
        if x + w > frame.shape[1] or y + h > frame.shape[0]:
            raise UserError(
                f"{self.name}: the box {x},{y},{w},{h} (x, y, w, h) ends outside the frame of {frame.shape[1]}x"
                f"{frame.shape[0]} pixels (w x h); give one inside it"
            )
        return np.ascontiguousarray(frame[y : y + h, x : x + w])


def read(
    path: Path,
    fps: float | None = None,
    box: Box | None = None,
    landmarks: Path | None = None,
    dataset: str = "",
    subject: str = "",
) -> list[Recording]:
    """The recordings that an input names.

    Args:
      path: a video file, a folder of frames, or a CSV with the columns of a clip folder (`label` may be missing).
      fps: frames a second, over what the file says; needed for folders.
      box: as `Recording.box`, not for a CSV.
      landmarks: `.npy` [T, 68, 2] or OpenFace's `.csv`, one entry a frame; not for a CSV.
      dataset: of the person; not for a CSV.
      subject: the person; not for a CSV.

    Raises:
      UserError: nothing there, an unknown kind of file, or one that cannot be read.
    """
    if path.suffix.lower() == ".csv" and path.is_file():
        given = {"--box": box, "--landmarks": landmarks, "--dataset": dataset, "--subject": subject}
        for flag, value in given.items():
            if value:
                raise UserError(f"{flag}: {path.name} is a CSV, which has a column for it; leave the flag out")
        return [_of_row(row, fps) for row in clip_folder.read_rows(path, "clip_folder", required=("path", "subject"))]
    points = landmark_files.read(landmarks) if landmarks else None
    found = Recording(
        path.stem, path, _fps(path, fps), box=box, landmarks=points, dataset=dataset, subject=subject
    )  # fmt: skip
    whole = found.length()
    if points is not None and whole is not None and len(points) != whole:
        raise UserError(f"--landmarks {landmarks}: found {len(points)} frames; expected the {whole} of {path.name}")
    return [found]


def _of_row(row: clip_folder.Row, fps: float | None) -> Recording:
    first = row.start or 0
    points = None if row.landmarks is None else landmark_files.read(row.landmarks)
    recording = Recording(
        name=f"{row.subject}_{row.clip}",
        path=row.path,
        fps=_fps(row.path, row.fps or fps),
        first=first,
        last=row.end,
        box=row.box,
        dataset=row.dataset,
        subject=row.subject,
    )
    length = recording.length()
    if points is not None and length is not None and len(points) != length:
        if len(points) < first + length:
            row.refuse("landmarks", f"{len(points)} frames", f"{length} frames (of the clip), or those of the whole")
        points = points[first : first + length]
    keys = None
    if row.onset is not None and row.offset is not None:
        keys = (row.onset - first, -1 if row.apex is None else row.apex - first, row.offset - first)
        if length is not None and keys[2] >= length:
            row.refuse("offset", row.offset, f"a position below {first + length}, the end of the clip")
    return dataclasses.replace(recording, landmarks=points, key_frames=keys)


def _fps(path: Path, given: float | None) -> float:
    """Frames a second: as given, else as the video says.

    Raises:
      UserError: nothing there, or no kind of file that is known.
    """
    if path.is_dir():
        landmark_lib.images(path)
        return given or math.nan
    if not path.exists():
        raise UserError(f"{path}: found no file or folder of that name")
    if path.suffix.lower() not in landmark_lib.VIDEOS:
        raise UserError(
            f"{path}: found a file of the kind {path.suffix or 'without ending'!r}; expected a video "
            f"({', '.join(landmark_lib.VIDEOS)}), a folder of frames ({', '.join(landmark_lib.IMAGES)}) or a .csv"
        )
    video = cv2.VideoCapture(str(path))
    opened, said = video.isOpened(), float(video.get(cv2.CAP_PROP_FPS))
    video.release()
    if not opened:
        raise UserError(f"{path}: OpenCV cannot open this video; convert it, or give a folder of its frames")
    return given or (said if math.isfinite(said) and said > 0 else math.nan)


class Buffer:
    """The frames of a recording, decoded in order; those that later stretches want again are kept.

    Args:
      recording: see Recording.
      work: what is done to a frame when it is decoded; what is kept is its result.
    """

    def __init__(self, recording: Recording, work: Callable[[np.ndarray], np.ndarray] = lambda frame: frame) -> None:
        self._frames, self._work = recording.frames(), work
        self._kept: dict[int, np.ndarray] = {}
        self._next = 0

    @property
    def decoded(self) -> int:
        """Number of frames decoded so far."""
        return self._next

    def stretch(self, first: int, last: int) -> list[np.ndarray] | None:
        """Frames first .. last; None where the recording ends before. Calls must not go backwards."""
        for number in [n for n in self._kept if n < first]:
            del self._kept[number]
        for frame in itertools.islice(self._frames, max(last + 1 - self._next, 0)):
            if self._next >= first:
                self._kept[self._next] = self._work(frame)
            self._next += 1
        return [self._kept[n] for n in range(first, last + 1)] if self._next > last else None
