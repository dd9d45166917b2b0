"""A video file -> a clip. Nothing here imports TensorFlow: the pool's workers import it."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import cv2
import numpy as np

from mer_jax.data import frames as frames_lib
from mer_jax.data.clips import ClipRecord
from tfds_builders.common import facs, landmark_files
from tfds_builders.common.builder import ClipConfig
from tfds_builders.common.jobs import Job
from tfds_builders.common.report import Skipped
from tfds_builders.common.sheet_clips import FolderClip, Source, make_record

# Containers announce a number of frames that decoding may miss by one or two; a larger gap is a broken file.
_COUNT_TOLERANCE = 2  # INFERRED: no container format promises an exact count


@dataclasses.dataclass(eq=False, kw_only=True)
class VideoConfig(ClipConfig):
    """Clips from video files.

    Attributes:
      size: frames whose shorter side is longer are scaled down to it; None keeps all pixels. INFERRED: decoded frames
        are stored without loss, and networks see 224 pixels at most; 256 leaves room for cropping.
    """

    size: int | None = 256


@dataclasses.dataclass(frozen=True)
class VideoClip:
    """A clip that is one video file; small and picklable. Attributes as in ClipRecord.

    Attributes:
      size: see VideoConfig.
      keys: onset, apex and offset as positions; None for the whole video without an apex.
      upright: a video that is higher than wide is turned by 90 degrees clockwise.
    """

    source: Source
    clip: str
    subject: str
    path: Path
    emotion: str
    expression_type: str
    size: int | None = None
    action_units: facs.ActionUnits = facs.UNKNOWN
    keys: tuple[int, int, int] | None = None
    upright: bool = False


def video_job(video: VideoClip) -> Job:
    """The job that makes the clip of a video."""
    return Job(make_video_clip, (video,))


def make_video_clip(video: VideoClip) -> ClipRecord | Skipped:
    """Decodes a video; one that cannot be opened or breaks off is skipped by name (sets in the wild have some)."""
    name = f"{video.source.dataset}/{video.subject}/{video.clip}"
    frames, fps, problem = read_video(video.path, video.size, video.upright)
    if problem:
        return Skipped(name, f"{video.path}: {problem}")
    onset, apex, offset = video.keys or (0, -1, len(frames) - 1)
    if not (0 <= onset <= offset < len(frames) and (apex == -1 or onset <= apex <= offset)):
        return Skipped(
            name, f"{video.path}: onset {onset}, apex {apex}, offset {offset} do not fit its {len(frames)} frames"
        )
    source = video.source if math.isfinite(video.source.fps) else dataclasses.replace(video.source, fps=fps)
    facts = FolderClip(
        source=source,
        clip=video.clip,
        subject=video.subject,
        paths=(video.path,),
        onset=onset,
        apex=apex,
        offset=offset,
        apex_source="missing" if apex < 0 else "annotated",
        emotion=video.emotion,
        expression_type=video.expression_type,
        action_units=video.action_units,
    )
    return make_record(facts, frames, landmark_files.unknown(len(frames)))


def read_video(path: Path, size: int | None, upright: bool = False) -> tuple[list[bytes], float, str]:
    """All frames of a video as PNG.

    Args:
      path: the file.
      size: the shorter side is scaled down to it where it is longer.
      upright: turn frames that are higher than wide by 90 degrees clockwise.

    Returns:
      The frames, frames a second (NaN where the file does not say), and what is wrong with the file ("" for nothing).
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # its complaints are told in our words
    capture = cv2.VideoCapture(str(path))
    frames: list[bytes] = []
    try:
        if not capture.isOpened():
            return [], math.nan, "not a video that can be opened"
        announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        while True:
            done, image = capture.read()
            if not done:
                break
            if upright and image.shape[0] > image.shape[1]:
                image = cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE)
            frames.append(frames_lib.encode_png(_scaled(np.ascontiguousarray(image[:, :, ::-1]), size)))
    finally:
        capture.release()
    if not frames:
        return [], math.nan, "no frame can be decoded"
    if announced - len(frames) > _COUNT_TOLERANCE:
        return [], math.nan, f"it breaks off: {len(frames)} of {announced:.0f} frames can be decoded"
    return frames, fps if math.isfinite(fps) and fps > 0 else math.nan, ""


def _scaled(frame: np.ndarray, size: int | None) -> np.ndarray:
    height, width = frame.shape[:2]
    if size is None or min(height, width) <= size:
        return frame
    scale = size / min(height, width)
    shape = (round(width * scale), round(height * scale))
    return cv2.resize(frame, shape, interpolation=cv2.INTER_AREA)
