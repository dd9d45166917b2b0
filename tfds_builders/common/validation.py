"""Every record is checked against the clip contract before it is written."""

from __future__ import annotations

import numpy as np

from mer_jax.data import frames as frames_lib
from mer_jax.data.clips import APEX_SOURCES, AU_SIDES, AU_SLOTS, EXPRESSION_TYPES, MODALITIES, N_LANDMARKS, ClipRecord
from mer_jax.errors import UserError


def check_record(record: ClipRecord) -> None:
    """Checks one clip; its frames are decoded.

    Raises:
      UserError: names the clip, the field, what was found and what is expected.
    """
    _check_texts(record)
    length = len(record.frames)
    if length == 0:
        _refuse(record, "frames", "no frame", "at least one")
    _check_positions(record, length)
    if not (np.isnan(record.fps) or (np.isfinite(record.fps) and record.fps > 0)):
        _refuse(record, "fps", record.fps, "a positive number, or NaN where unknown")
    _check_action_units(record)
    landmarks = np.asarray(record.landmarks)
    if landmarks.shape != (length, N_LANDMARKS, 2):
        _refuse(record, "landmarks", f"shape {landmarks.shape}", f"({length}, {N_LANDMARKS}, 2)")
    if np.isinf(landmarks).any():
        _refuse(record, "landmarks", "an infinite number", "pixels, or NaN where unknown")
    _check_frames(record)


def _refuse(record: ClipRecord, field: str, found: object, expected: str) -> None:
    raise UserError(f"clip {record.clip!r}, field {field!r}: found {found}; expected {expected}")


def _check_texts(record: ClipRecord) -> None:
    for field in ("clip", "dataset", "subject", "cohort", "emotion"):
        value = getattr(record, field)
        empty_allowed = field == "emotion"  # sets with unlabelled clips (CK+, macro intervals) write ""
        if not isinstance(value, str) or not (value.strip() or empty_allowed) or value != value.strip():
            _refuse(record, field, repr(value), "a text that is not empty, without blanks around it")
    for field in ("dataset", "subject", "cohort"):
        if "/" in getattr(record, field):
            _refuse(record, field, repr(getattr(record, field)), "a text without '/'")
    if not record.clip.startswith(f"{record.dataset}/{record.subject}/"):
        _refuse(record, "clip", repr(record.clip), f"a name that begins with '{record.dataset}/{record.subject}/'")
    for field, allowed in (
        ("modality", MODALITIES), ("apex_source", APEX_SOURCES), ("expression_type", EXPRESSION_TYPES),
    ):  # fmt: skip
        if getattr(record, field) not in allowed:
            _refuse(record, field, repr(getattr(record, field)), f"one of {', '.join(allowed)}")


def _check_positions(record: ClipRecord, length: int) -> None:
    if not 0 <= record.onset <= record.offset < length:
        _refuse(
            record, "onset", f"onset {record.onset}, offset {record.offset}, {length} frames",
            "0 <= onset <= offset < number of frames",
        )  # fmt: skip
    if record.apex == -1:
        if record.apex_source != "missing":
            _refuse(record, "apex_source", f"{record.apex_source!r} with apex -1", "'missing'")
    elif record.apex_source == "missing":
        _refuse(record, "apex_source", f"'missing' with apex {record.apex}", "where the apex comes from")
    elif not record.onset <= record.apex <= record.offset:
        _refuse(
            record, "apex", f"{record.apex} with onset {record.onset}, offset {record.offset}",
            "onset <= apex <= offset, or -1 where unknown",
        )  # fmt: skip
    for field in ("true_onset", "true_apex", "true_offset"):
        if not -1 <= getattr(record, field) < length:
            _refuse(record, field, getattr(record, field), f"-1, or a position among the {length} frames")


def _check_action_units(record: ClipRecord) -> None:
    for field, low, high in (
        ("action_units", -1, 1), ("action_unit_sides", 0, len(AU_SIDES) - 1), ("action_unit_intensity", 0, 5),
    ):  # fmt: skip
        values = np.asarray(getattr(record, field))
        if values.shape != (AU_SLOTS,) or values.min() < low or values.max() > high:
            _refuse(record, field, f"shape {values.shape}, values {values}", f"({AU_SLOTS},) within {low}..{high}")


def _check_frames(record: ClipRecord) -> None:
    first = None
    for t, encoded in enumerate(record.frames):
        try:
            shape = frames_lib.decode(encoded).shape
        except frames_lib.FrameError as error:
            _refuse(record, "frames", f"frame {t} is {error}", "a whole 8-bit image")
        first = first or shape
        if shape != first:
            _refuse(record, "frames", f"frame {t} of shape {shape} after {first}", "one shape for all frames of a clip")
