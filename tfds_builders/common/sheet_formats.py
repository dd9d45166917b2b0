"""The annotation sheets of the datasets: their columns, words and ids. Facts only; `annotations` reads with them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from types import MappingProxyType

from tfds_builders.common.sheets import Columns


@dataclasses.dataclass(frozen=True)
class SheetFormat:
    """How one dataset writes its sheet.

    Attributes:
      columns: our names of columns -> spellings in the sheet.
      needed: columns by which the header row is known.
      emotions: the dataset's own words, in lower case.
      aliases: other spellings of those words.
      subject: pattern of a subject cell; its group is the id.
      subject_form: how the id is written (`{:0>3}` pads to three digits).
      clip_from: "filename", or "count" with `clip_form` where the clip is a number.
      worksheet: where the workbook has look-alikes.
      zero_apex_missing: an apex of 0 means that there is none.
      midpoint: a missing apex is imputed as the midpoint, as the dataset's users do.
      key_has_onset: subject and clip name a video, and the onset tells its events apart.
      expression_type: of every row, where the sheet has no column for it.
      split_emotions: words may be joined by `+`, `/` or `,` (multi-label).
      has_emotion: False where the sheet has no emotion column.
      skip_incomplete: rows without onset or offset are known to occur and give no clip.
      folder_decides: onset and offset may be missing or out of order: the frames of the clip's folder tell them.
      zero_offset_is_apex: an offset of 0 (not seen in the recording) stands for the apex.
      prefer_worksheet: the worksheet to take where it exists, among look-alikes.
    """

    columns: Columns
    needed: tuple[str, ...]
    emotions: tuple[str, ...] = ()
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    subject: str = r"(?:sub)?\s*0*([0-9]+)"
    subject_form: str = "{:0>2}"
    clip_form: str = "{}"
    worksheet: str | None = None
    zero_apex_missing: bool = False
    midpoint: bool = False
    key_has_onset: bool = False
    expression_type: str = "micro"
    split_emotions: bool = False
    has_emotion: bool = True
    skip_incomplete: bool = False
    folder_decides: bool = False
    zero_offset_is_apex: bool = False
    prefer_worksheet: str | None = None


def _columns(**spellings: str | tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {name: (s,) if isinstance(s, str) else s for name, s in spellings.items()}


_ONSET, _APEX, _OFFSET = (("OnsetFrame", "OnsetF"), ("ApexFrame", "ApexF"), ("OffsetFrame", "OffsetF"))
_PLAIN_ONSET, _PLAIN_APEX, _PLAIN_OFFSET = (("Onset", *_ONSET), ("Apex", *_APEX), ("Offset", *_OFFSET))
_AUS = ("Action Units", "Action Unit", "AUs", "AU")
_EMOTION = ("Estimated Emotion", "Emotion")
_OBJECTIVE = ("Objective Classes", "Objective Class")
_FRAMES = ("subject", "clip", "onset", "apex", "offset")

FORMATS: Mapping[str, SheetFormat] = MappingProxyType(
    {
        "casme": SheetFormat(
            # OnsetF, ApexF1 ... are frames; the later columns Onset and Total are milliseconds.
            _columns(
                subject="Subject", clip="Filename", onset="OnsetF", apex=("ApexF1", "ApexF"), apex2="ApexF2",
                offset="OffsetF", action_units=_AUS, emotion=_EMOTION,
            ),
            (*_FRAMES, "action_units", "emotion"),
            ("tense", "disgust", "repression", "surprise", "happiness", "sadness", "fear", "contempt"),
            folder_decides=True,
        ),
        "casme2": SheetFormat(
            _columns(
                subject="Subject", clip="Filename", onset=_ONSET, apex=_APEX, offset=_OFFSET, action_units=_AUS,
                emotion=_EMOTION, objective_class=_OBJECTIVE,
            ),
            (*_FRAMES, "action_units", "emotion"),
            ("others", "disgust", "happiness", "repression", "surprise", "sadness", "fear"),
        ),
        "casme2_objective": SheetFormat(
            _columns(subject="Subject", clip="Filename", objective_class=_OBJECTIVE),
            ("subject", "clip", "objective_class"),
            has_emotion=False,
        ),
        "samm": SheetFormat(
            _columns(
                subject="Subject", clip="Filename", onset=_PLAIN_ONSET, apex=_PLAIN_APEX, offset=_PLAIN_OFFSET,
                action_units=_AUS, emotion=_EMOTION, objective_class=_OBJECTIVE,
            ),
            (*_FRAMES, "emotion"),
            ("anger", "happiness", "other", "surprise", "contempt", "disgust", "fear", "sadness"),
            {"others": "other"},
            subject=r"0*([0-9]+)",
            subject_form="{:0>3}",
        ),
        "samm_long_videos": SheetFormat(
            _columns(
                subject="Subject", clip="Filename", onset=_PLAIN_ONSET, apex=_PLAIN_APEX, offset=_PLAIN_OFFSET,
                expression_type="Type", action_units=_AUS,
            ),
            (*_FRAMES, "expression_type"),
            subject=r"0*([0-9]+)",
            subject_form="{:0>3}",
            zero_apex_missing=True,
            zero_offset_is_apex=True,
            key_has_onset=True,
            has_emotion=False,
        ),
        "smic_e": SheetFormat(
            _columns(
                subject="Subject", clip="Filename", onset="OnsetF", offset="OffsetF", onset2="Onset2F",
                offset2="Offset2F", onset3="Onset3F", offset3="Offset3F", first="FirstF",
                last="LastF", emotion="Emotion",
            ),
            ("subject", "clip", "onset", "offset", "emotion"),
            ("negative", "positive", "surprise"),
            {"ne": "negative", "po": "positive", "sur": "surprise"},
            subject=r"s?\s*0*([0-9]+)",
            subject_form="s{:0>2}",
            worksheet="HS",
            skip_incomplete=True,
        ),
        "casme3": SheetFormat(
            _columns(
                subject="Subject", clip="Filename", onset="Onset", apex="Apex", offset="Offset", action_units=_AUS,
                objective_class=_OBJECTIVE, emotion=_EMOTION,
            ),
            (*_FRAMES, "emotion"),
            ("disgust", "surprise", "others", "fear", "anger", "sad", "happy"),
            {"other": "others"},
            subject=r"spno\.?\s*0*([0-9]+)",
            subject_form="spNO.{}",
            key_has_onset=True,
        ),
        "casme3_macro": SheetFormat(
            _columns(
                subject="Subject", clip="Filename", onset="Onset", apex="Apex", offset="Offset", action_units=_AUS,
                expression_type="Expression type", objective_class=_OBJECTIVE, emotion=_EMOTION,
            ),
            (*_FRAMES, "expression_type"),
            ("disgust", "surprise", "others", "fear", "anger", "sad", "happy"),
            {"other": "others"},
            subject=r"spno\.?\s*0*([0-9]+)",
            subject_form="spNO.{}",
            zero_apex_missing=True,
            zero_offset_is_apex=True,
            key_has_onset=True,
            has_emotion=False,
            prefer_worksheet="AU+Emotion",
        ),
        "casme3_c": SheetFormat(
            _columns(subject="sub", clip="count", onset="onset", offset="offset", action_units=_AUS, emotion="emotion"),
            ("subject", "clip", "onset", "offset", "action_units", "emotion"),
            ("negative", "surprise", "others", "positive"),
            {"other": "others"},
            subject=r"[a-z.\s]*0*([0-9]+)",
            midpoint=True,
            key_has_onset=True,
        ),
        "mmew": SheetFormat(
            _columns(
                subject="Subject", clip="Filename", onset=_ONSET, apex=_APEX, offset=_OFFSET, action_units=_AUS,
                emotion=_EMOTION, remarks="remarks",
            ),
            (*_FRAMES, "action_units", "emotion"),
            ("happiness", "anger", "surprise", "disgust", "fear", "sadness", "others"),
            {"other": "others", "repression": "others"},
            subject=r"s?\s*0*([0-9]+)",
            subject_form="S{:0>2}",
        ),
        "fourdme": SheetFormat(
            _columns(
                subject="sub_ID", clip="fold_name", onset="Onset", apex="Apex", offset="Offset", action_units="AUs",
                emotion="Emotion",
            ),
            (*_FRAMES, "action_units", "emotion"),
            ("positive", "negative", "surprise", "repression", "others"),
            {"other": "others"},
            subject=r"(\S+)",
            subject_form="{}",
            split_emotions=True,
        ),
        "dfme": SheetFormat(
            _columns(
                subject="Subject", clip="Filename", onset=_ONSET, apex=_APEX, offset=_OFFSET, emotion="Emotion",
                fps="Fps", action_units=_AUS,
            ),
            (*_FRAMES, "emotion"),
            ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise"),
            subject=r"sub\s*0*([0-9]+)",
            subject_form="sub{:0>4}",
        ),
    }
)  # fmt: skip


def match_subject(form: SheetFormat, cell: str) -> str | None:
    """The id as the dataset's folders write it; None where the cell is none."""
    match = re.fullmatch(form.subject, cell.strip(), re.IGNORECASE)
    return form.subject_form.format(match[1]) if match else None


def roman(cell: str) -> str:
    """An objective class (`3`, `III`, `iii`, `Class III`) as a Roman number; "" where it is none."""
    text = re.sub(r"class", "", cell, flags=re.IGNORECASE).strip().upper()
    numbers = ("I", "II", "III", "IV", "V", "VI", "VII")
    if text.isdigit() and text.isascii() and len(text) == 1 and 1 <= int(text) <= 7:
        return numbers[int(text) - 1]
    return text if text in numbers else ""
