"""Rows of a clip folder's CSV -> clips: frames of videos and frame folders, cropped and scaled, with landmarks."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mer_jax.data import frames as frames_lib
from mer_jax.data.clips import ClipRecord
from mer_jax.data.frames import Window
from mer_jax.errors import UserError
from tfds_builders.clip_folder.table import POSITIONS, Row
from tfds_builders.common import landmark_files
from tfds_builders.common.facs import parse_action_units
from tfds_builders.common.frame_numbers import IMAGE_SUFFIXES, FrameMap, list_frames
from tfds_builders.common.report import Skipped

# Containers announce a number of frames that decoding may miss by one or two; a larger gap is a broken file.
_COUNT_TOLERANCE = 2  # INFERRED: no container format promises an exact count


@dataclasses.dataclass
class _Clip:
    """A clip being collected: its frames, and the way that they went through."""

    row: Row
    frames: list[bytes] = dataclasses.field(default_factory=list)
    window: Window | None = None
    channels: int = 3
    whole_shape: tuple[int, ...] = ()


def make_clips(rows: Sequence[Row], size: int | None, positions: str) -> list[ClipRecord | Skipped]:
    """Makes the clips of rows that share one video, frame folder or image; it is read once.

    Args:
      rows: rows of one path.
      size: side that the shorter side of a (cropped) frame is scaled to; None keeps the size.
      positions: `index` or `file_number`, see the README.

    Raises:
      UserError: anything that does not fit, with file, row and column.
    """
    path = rows[0].path
    if path.is_dir():
        return [_from_folder(row, size, positions) for row in rows]
    if positions != "index":
        rows[0].refuse("path", path.name, f"a frame folder, since --positions is {positions}")
    if path.suffix.lower() in IMAGE_SUFFIXES:  # as a video, OpenCV would read img1.png, img2.png ... from it
        return [_from_folder(row, size, positions) for row in rows]
    return _from_video(rows, size)


def _from_folder(row: Row, size: int | None, positions: str) -> ClipRecord:
    """A clip of a folder of frames, or of a single image."""
    try:
        listed = list_frames(row.path) if row.path.is_dir() else FrameMap(row.path.parent, (0,), (row.path,))
    except UserError as error:
        raise UserError(f"{row.where}, column 'path': {error}") from None
    if positions == "file_number":
        found: dict[str, Any] = {c: _position_of(row, c, listed) for c in POSITIONS}
        row = dataclasses.replace(row, **found)
    _check_end(row, len(listed))
    last = len(listed) - 1 if row.end is None else row.end
    clip = _Clip(row)
    for path in listed.paths[row.start or 0 : last + 1]:
        encoded = path.read_bytes()
        try:
            _add(clip, frames_lib.decode(encoded), size, encoded, path.name)
        except frames_lib.FrameError as error:
            row.refuse("path", f"{path}, which is {error}", "whole 8-bit images")
    return _record(clip, math.nan)


def _position_of(row: Row, column: str, listed: FrameMap) -> int | None:
    number = getattr(row, column)
    if number is None:
        return None
    position, problem = listed.position(number)
    if problem:
        row.refuse(
            column, number, f"the number of a frame in {row.path.name} ({listed.numbers[0]} to {listed.numbers[-1]})"
        )
    return position


def _check_end(row: Row, length: int) -> None:
    for column in POSITIONS:
        value = getattr(row, column)
        if value is not None and value >= length:
            row.refuse(column, value, f"a position below {length}, the number of frames of {row.path.name}")


def _from_video(rows: Sequence[Row], size: int | None) -> list[ClipRecord | Skipped]:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # its complaints are told in our words
    path = rows[0].path
    video = cv2.VideoCapture(str(path))
    try:
        if not video.isOpened():
            rows[0].refuse("path", path.name, "a video that OpenCV can open, or a folder of frames")
        announced = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        fps = float(video.get(cv2.CAP_PROP_FPS))
        clips = [_Clip(row) for row in rows]
        stop = None if any(row.end is None for row in rows) else max(row.end or 0 for row in rows) + 1
        length = 0
        while length != stop and video.grab():
            wanted = [c for c in clips if (c.row.start or 0) <= length and (c.row.end is None or length <= c.row.end)]
            if wanted:
                done, image = video.retrieve()
                if not done:
                    break
                frame = np.ascontiguousarray(image[:, :, ::-1])
                for clip in wanted:
                    _add(clip, frame, size, None, f"frame {length}")
            length += 1
    finally:
        video.release()
    for row in rows:
        _check_end(row, length)
        if row.end is None and announced - length > _COUNT_TOLERANCE:
            row.refuse(
                "path",
                f"{path.name}, a video that breaks off: {length} of {announced} frames can be decoded",
                "a whole video; give 'end' to take what is there",
            )
    return [_record(clip, fps if math.isfinite(fps) and fps > 0 else math.nan) for clip in clips]


def _add(clip: _Clip, frame: np.ndarray, size: int | None, encoded: bytes | None, name: str) -> None:
    """Adds a frame; the original bytes are kept where nothing has to change."""
    if clip.window is None:
        clip.whole_shape, clip.channels = frame.shape, frame.shape[2]
        clip.window = _window(clip.row, frame.shape[0], frame.shape[1], size)
    elif frame.shape != clip.whole_shape:
        clip.row.refuse("path", f"{name} of shape {frame.shape} after {clip.whole_shape}", "frames of one shape")
    h, w = frame.shape[:2]
    if encoded is not None and clip.window == Window(0, 0, w, h, w, h):
        clip.frames.append(encoded)
    else:
        clip.frames.append(frames_lib.encode_png(clip.window.image(frame)))


def _window(row: Row, height: int, width: int, size: int | None) -> Window:
    x, y, w, h = row.box or (0, 0, width, height)
    for column, found, limit in (("w", x + w, width), ("h", y + h, height)):
        if found > limit:
            row.refuse(
                column, f"a box that ends at {found}", f"a box inside the frame of {width}x{height} pixels (w x h)"
            )
    if size is None:
        return Window(x, y, w, h, w, h)
    scale = size / min(w, h)
    return Window(x, y, w, h, max(round(w * scale), 1), max(round(h * scale), 1))


def _record(clip: _Clip, container_fps: float) -> ClipRecord:
    row, length, window = clip.row, len(clip.frames), clip.window
    assert window is not None
    start = row.start or 0
    present, sides, intensity = parse_action_units(row.action_units, f"{row.where}, column 'action_units'").vectors()
    if row.modality == "grey" and clip.channels == 3:
        row.refuse("modality", "'grey' for frames of 3 channels", "'rgb', 'nir' or frames of one channel")
    if row.modality in ("rgb", "flow_strain") and clip.channels == 1:
        row.refuse("modality", f"{row.modality!r} for frames of one channel", "'grey' or 'nir'")
    return ClipRecord(
        clip=f"{row.dataset}/{row.subject}/{row.clip}",
        dataset=row.dataset,
        subject=row.subject,
        cohort=row.cohort,
        frames=clip.frames,
        modality=row.modality or ("rgb" if clip.channels == 3 else "grey"),
        fps=container_fps if row.fps is None else row.fps,
        onset=0 if row.onset is None else row.onset - start,
        apex=-1 if row.apex is None else row.apex - start,
        offset=length - 1 if row.offset is None else row.offset - start,
        apex_source="missing" if row.apex is None else "annotated",
        emotion=row.label,
        expression_type=row.expression_type,
        action_units=present,
        action_unit_sides=sides,
        action_unit_intensity=intensity,
        landmarks=window.points(_landmarks(row, start, length)),
    )


def _landmarks(row: Row, start: int, length: int) -> np.ndarray:
    """float32 [length, 68, 2] in pixels of the original frames; NaN where none are given."""
    if row.landmarks is None:
        return landmark_files.unknown(length)
    try:
        points = landmark_files.read(row.landmarks)
    except UserError as error:
        raise UserError(f"{row.where}, column 'landmarks': {error}") from None
    if len(points) == length:
        return points
    if len(points) < start + length:  # not those of the whole video or folder either
        row.refuse(
            "landmarks",
            f"{len(points)} frames in {row.landmarks.name}",
            f"{length} frames (of the clip), or those of the whole video or folder",
        )
    return points[start : start + length]


def stamp(path: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a file, or of all files of a folder: changes when the data do."""
    paths = sorted(path.iterdir()) if path.is_dir() else [path]
    facts = [(p, p.stat()) for p in paths]
    return [(p.name, s.st_size, s.st_mtime_ns) for p, s in facts]
