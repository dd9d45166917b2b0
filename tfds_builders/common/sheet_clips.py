"""A row of a sheet and a folder of frames -> a clip. Nothing here imports TensorFlow: the pool's workers import it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from mer_jax.data import frames as frames_lib
from mer_jax.data.clips import ClipRecord
from mer_jax.errors import UserError
from tfds_builders.common import facs, landmark_files, layout
from tfds_builders.common.annotation_rows import Annotation, Annotations
from tfds_builders.common.frame_numbers import FrameMap
from tfds_builders.common.jobs import Item, Job
from tfds_builders.common.report import BuildReport, Skipped

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
LANDMARKS = "_landmarks"


@dataclasses.dataclass(frozen=True)
class Source:
    """What is the same for all clips of a set.

    Attributes:
      dataset: name in the clips.
      cohort: the group of people.
      fps: frames a second, NaN where unknown.
      modality: one of MODALITIES; "" for rgb or grey by the number of channels.
    """

    dataset: str
    cohort: str
    fps: float
    modality: str = ""


@dataclasses.dataclass(frozen=True)
class FolderClip:
    """A clip whose frames are image files; small and picklable. Attributes are those of ClipRecord.

    Attributes:
      paths: image files of the frames.
      landmarks: file with the landmarks of the clip, or one text file a frame, or () for none.
      same_shape: frames that differ in size from the first one are scaled to it (face crops of sets in the wild).
    """

    source: Source
    clip: str
    subject: str
    paths: tuple[Path, ...]
    onset: int
    apex: int
    offset: int
    apex_source: str
    emotion: str
    expression_type: str
    action_units: facs.ActionUnits = facs.UNKNOWN
    landmarks: tuple[Path | None, ...] = ()
    same_shape: bool = False


def read_frame(path: Path) -> bytes:
    """The bytes of a JPEG or PNG file as they are; any other image as PNG, without loss.

    Raises:
      UserError: truncated, damaged, or no 8-bit image.
    """
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read the frame ({error.strerror or error})") from error
    try:
        frames_lib.check_whole(encoded)
        if encoded.startswith((_PNG, _JPEG)):
            return encoded
        return frames_lib.encode_png(frames_lib.decode(encoded))
    except (frames_lib.FrameError, cv2.error) as error:
        raise UserError(
            f"{path}: found {error}; expected a whole 8-bit image; copy it again from the distribution"
        ) from error


def make_folder_clip(clip: FolderClip) -> ClipRecord:
    """Reads the frames and landmarks of a clip.

    Raises:
      UserError: a frame or a landmark file that cannot be read, with its path.
    """
    frames = [read_frame(path) for path in clip.paths]
    if clip.same_shape:
        frames = _of_one_shape(frames, clip.paths)
    return make_record(clip, frames, _landmarks(clip))


def _of_one_shape(frames: list[bytes], paths: tuple[Path, ...]) -> list[bytes]:
    """Scales frames to the shape of the first one; frames of that shape keep their bytes."""
    try:
        images = [frames_lib.decode(frame) for frame in frames]
    except frames_lib.FrameError as error:
        raise UserError(f"{paths[0].parent}: a frame is {error}; expected whole 8-bit images") from error
    height, width, channels = images[0].shape

    def fitted(image: np.ndarray) -> bytes:
        image = frames_lib.with_channels(image, channels)
        shrinks = image.shape[0] >= height and image.shape[1] >= width
        scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        return frames_lib.encode_png(scaled.reshape(height, width, channels))

    return [f if i.shape == images[0].shape else fitted(i) for f, i in zip(frames, images, strict=True)]


def make_record(clip: FolderClip, frames: list[bytes], landmarks: np.ndarray) -> ClipRecord:
    """The record of a clip whose frames are at hand."""
    present, sides, intensity = clip.action_units.vectors()
    modality = clip.source.modality
    if not modality:
        try:
            modality = "grey" if frames_lib.decode(frames[0]).shape[2] == 1 else "rgb"
        except frames_lib.FrameError as error:
            raise UserError(
                f"{clip.paths[0] if clip.paths else clip.clip}: found {error}; expected an image"
            ) from error
    return ClipRecord(
        clip=f"{clip.source.dataset}/{clip.subject}/{clip.clip}",
        dataset=clip.source.dataset,
        subject=clip.subject,
        cohort=clip.source.cohort,
        frames=frames,
        modality=modality,
        fps=clip.source.fps,
        onset=clip.onset,
        apex=clip.apex,
        offset=clip.offset,
        apex_source=clip.apex_source,
        emotion=clip.emotion,
        expression_type=clip.expression_type,
        action_units=present,
        action_unit_sides=sides,
        action_unit_intensity=intensity,
        landmarks=landmarks,
    )


def _landmarks(clip: FolderClip) -> np.ndarray:
    length = len(clip.paths)
    if not clip.landmarks:
        return landmark_files.unknown(length)
    if (
        len(clip.landmarks) == 1
        and clip.landmarks[0] is not None
        and clip.landmarks[0].suffix in landmark_files.SUFFIXES
    ):
        return landmark_files.read_clip(clip.landmarks[0], length)
    unknown = landmark_files.unknown(1)[0]
    return np.stack([unknown if path is None else landmark_files.read_points(path) for path in clip.landmarks])


def landmark_file(root: Path, subject_folder: str, clip: str, frames: Path | None = None) -> tuple[Path, ...]:
    """The file with the landmarks that a user has put beside the frames of `root`, if any.

    `<root>_landmarks/<subject folder>/<clip>.npy` or `.csv`, or below `<root>_landmarks` where the clip's folder
    `frames` is below `root` (as `python -m mer_jax.data.landmarks` writes them). Frames and crops of one set have
    different pixels, and so different folders.
    """
    beside = root.with_name(root.name + LANDMARKS)
    places = [beside / subject_folder / clip]
    if frames is not None:
        places.append(beside / frames.relative_to(root))
    files = (place.with_name(place.name + suffix) for place in places for suffix in landmark_files.SUFFIXES)
    return tuple(path for path in files if path.is_file())[:1]


def sheet_clip(
    row: Annotation,
    frames: FrameMap,
    source: Source,
    report: BuildReport,
    *,
    name: str = "",
    emotion: str | None = None,
    landmarks: tuple[Path, ...] = (),
    folder_wins: bool = False,
) -> Job | Skipped:
    """The job that makes the clip of a row; key frames that are not among the frames are moved, and reported.

    A key frame in a gap takes the frame before it; onset and offset outside of the frames take the first and last one,
    an apex outside of them the middle of onset and offset.

    Args:
      row: the row, without problem.
      frames: the frames of the clip (or of the part of a video around the event).
      source: see Source.
      report: moved key frames are entered as corrections.
      name: of the clip, where it is not `row.clip`.
      emotion: in place of the row's.
      landmarks: file with the landmarks of the clip.
      folder_wins: onset and offset that are missing, out of order or not among the frames become the first and last
        frame; otherwise a row that lies outside of the frames altogether is skipped.
    """
    who = f"{row.where} ({row.subject}/{row.clip})"
    first, last = frames.numbers[0], frames.numbers[-1]

    def place(field: str, number: int) -> tuple[int, bool]:
        position, moved = frames.position(number)
        if moved:
            report.correct(who, field, number, frames.numbers[position], moved)
        return position, bool(moved)

    if folder_wins:
        onset_number, offset_number = _told_by_folder(row, frames, report, who)
    else:
        onset_number, offset_number = row.frames
        if offset_number < first or onset_number > last:
            return Skipped(
                who,
                f"frames {onset_number} to {offset_number} are not in {frames.folder}, which holds {first} to {last}",
            )
    onset, _ = place("onset", onset_number)
    offset, _ = place("offset", offset_number)
    apex, apex_source = -1, "missing"
    if row.apex is not None:
        apex_source = row.apex_source
        if first <= row.apex <= last:
            apex, moved = place("apex", row.apex)
            apex, inside = min(max(apex, onset), offset), apex
            apex_source = "corrected" if moved or apex != inside else apex_source
        else:
            apex, apex_source = (onset + offset) // 2, "corrected"
            reason = f"frame {row.apex} does not exist; the middle of onset and offset is taken"
            report.correct(who, "apex", row.apex, frames.numbers[apex], reason)
    return Job(
        make_folder_clip,
        (
            FolderClip(
                source=source,
                clip=name or row.clip,
                subject=row.subject,
                paths=frames.paths,
                onset=onset,
                apex=apex,
                offset=offset,
                apex_source=apex_source,
                emotion=row.emotion if emotion is None else emotion,
                expression_type=row.expression_type,
                action_units=row.action_units,
                landmarks=landmarks,
            ),
        ),
    )


def _told_by_folder(row: Annotation, frames: FrameMap, report: BuildReport, who: str) -> tuple[int, int]:
    """Onset and offset of the row where they are among the frames; else the first and the last frame."""
    first, last = frames.numbers[0], frames.numbers[-1]
    onset = row.onset if row.onset is not None and first <= row.onset <= last else first
    offset = row.offset if row.offset is not None and first <= row.offset <= last else last
    if onset > offset:
        onset, offset = first, last
    for field, found, used in (("onset", row.onset, onset), ("offset", row.offset, offset)):
        if found != used:
            reason = f"the sheet disagrees with the frames of the folder, {first} to {last}"
            report.correct(who, field, "" if found is None else found, used, reason)
    return onset, offset


def whole_clip(
    source: Source,
    subject: str,
    name: str,
    frames: FrameMap,
    emotion: str,
    expression_type: str,
    *,
    apex: int = -1,
    action_units: facs.ActionUnits = facs.UNKNOWN,
    landmarks: tuple[Path | None, ...] = (),
    same_shape: bool = False,
) -> Job:
    """The job of a clip without a sheet: the event is the whole folder."""
    return Job(
        make_folder_clip,
        (
            FolderClip(
                source=source,
                clip=name,
                subject=subject,
                paths=frames.paths,
                onset=0,
                apex=apex,
                offset=len(frames) - 1,
                apex_source="missing" if apex < 0 else "annotated",
                emotion=emotion,
                expression_type=expression_type,
                action_units=action_units,
                landmarks=landmarks,
                same_shape=same_shape,
            ),
        ),
    )


def sheet_items(
    rows: Annotations, source: Source, report: BuildReport, make: Callable[[Annotation], Item]
) -> Iterator[Item]:
    """One item for each row of a checked sheet; the sheet's facts go into the report.

    Args:
      rows: the sheet.
      source: see Source.
      report: gets the sheet's version, its corrections, and the objective class of each clip where the sheet has one.
      make: the item of a row.

    Raises:
      UserError: the sheet has rows that cannot be used.
    """
    rows.check().tell(report)
    objective = report.notes.setdefault("objective_classes", {})
    for row in rows.rows:
        item = make(row)
        if isinstance(item, Job) and row.objective_class:
            clip: FolderClip = item.arguments[0]
            objective[f"{source.dataset}/{clip.subject}/{clip.clip}"] = row.objective_class
        yield item


def no_folder(row: Annotation, root: Path, expected: str) -> Skipped:
    """The entry of a row whose frames are not there."""
    there = ", ".join(layout.children(root)[:6]) or "nothing"
    return Skipped(f"{row.where} ({row.subject}/{row.clip})", f"no folder {expected} in {root}, which holds {there}")
