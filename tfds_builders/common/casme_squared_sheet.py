"""The workbook of CAS(ME)^2: three worksheets, the events without a header row and two tables of names.

`CASFEcode_final` lists one event a row in nine columns: subject number, clip (`anger1_1`), onset, apex, offset, action
units, valence, macro- or micro-expression, self-reported emotion. `naming rule1` gives the folder (`s15`) of a subject
number, `naming rule2` the code (`0401`, part of the folder's name) of a stimulus (`anger1`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mer_jax.errors import UserError
from tfds_builders.common import facs, sheets
from tfds_builders.common.annotation_rows import Annotation, Annotations, Corrected
from tfds_builders.common.report import Skipped

COLUMNS = (
    "subject", "clip", "onset", "apex", "offset", "action_units", "emotion", "expression_type", "self_report",
)  # fmt: skip
VALENCES = ("positive", "negative", "surprise", "others")
_EVENTS, _SUBJECTS, _VIDEOS = "CASFEcode_final", "naming rule1", "naming rule2"


def read(path: Path) -> Annotations:
    """Reads the events; `cells["video"]` of a row is the code of its recording, `cells["self_report"]` the report.

    Raises:
      UserError: unreadable, or a worksheet is missing.
    """
    book = sheets.read_workbook(path)
    events = _worksheet(book, _EVENTS)
    subjects = _names(_worksheet(book, _SUBJECTS), r"s\s*([0-9]+)", "s{:0>2}", r"([0-9]+)", "{}")
    videos = _names(_worksheet(book, _VIDEOS), r"([0-9]{3,4})", "{:0>4}", r"([a-z]+ ?[0-9]*)", "{}")
    annotations: list[Annotation] = []
    skipped: list[Skipped] = []
    corrected: list[Corrected] = []
    count = 0
    for number, cells in enumerate(events.rows, start=1):
        if not any(cells) or _is_header(cells):
            continue
        row = sheets.Row(events.where, number, count, dict(zip(COLUMNS, (*cells, *[""] * len(COLUMNS)), strict=False)))
        count += 1
        if not row.text("clip"):
            skipped.append(Skipped(f"{events.where}, row {number}", "no clip name: a note beside the table"))
            continue
        annotation, mended = _annotation(row, subjects, videos)
        annotations.append(annotation)
        corrected += mended
    return Annotations("casme_squared", path, "", True, count, tuple(annotations), tuple(skipped), tuple(corrected))


def _worksheet(book: Sequence[sheets.Worksheet], name: str) -> sheets.Worksheet:
    for sheet in book:
        if sheets.normal_name(sheet.name) == sheets.normal_name(name):
            return sheet
    found = ", ".join(repr(s.name) for s in book)
    raise UserError(
        f"{book[0].file}: no worksheet {name!r}; found {found}; expected the workbook CAS(ME)^2code_final.xlsx with"
        f" {_EVENTS!r}, {_SUBJECTS!r} and {_VIDEOS!r}"
    )


def _names(sheet: sheets.Worksheet, left: str, left_form: str, right: str, right_form: str) -> dict[str, str]:
    """The table right -> left of a naming rule; the columns are told by their content, in either order."""
    table: dict[str, str] = {}
    for cells in sheet.rows:
        lefts = [m for c in cells if (m := re.fullmatch(left, c, re.IGNORECASE))]
        others = [c for c in cells if c and not re.fullmatch(left, c, re.IGNORECASE)]
        rights = [m for c in others if (m := re.fullmatch(right, c, re.IGNORECASE))]
        if lefts and rights:
            table[right_form.format(rights[0][1]).replace(" ", "").casefold()] = left_form.format(lefts[0][1])
    return table


def _is_header(cells: Sequence[str]) -> bool:
    names = {sheets.normal_name(c) for c in cells}
    return bool(names & {"onset", "onsetframe", "onsetf"}) and bool(names & {"offset", "offsetframe", "offsetf"})


def _annotation(
    row: sheets.Row, subjects: dict[str, str], videos: dict[str, str]
) -> tuple[Annotation, list[Corrected]]:
    where = f"{row.where}, row {row.number}"
    problems: list[str] = []
    corrected: list[Corrected] = []
    clip = row.text("clip")
    number = re.fullmatch(r"s?\s*0*([0-9]+)", row.text("subject"), re.IGNORECASE)
    subject = subjects.get(number[1], "") if number else ""
    if not subject:
        problems.append(
            f"{row.at('subject')}: found {row.text('subject')!r}, which worksheet {_SUBJECTS!r} does not list"
        )
    stimulus = clip.split("_")[0].replace(" ", "").casefold()
    if stimulus not in videos:
        problems.append(
            f"{row.at('clip')}: found {clip!r}; worksheet {_VIDEOS!r} has no stimulus {stimulus!r}, only"
            f" {', '.join(sorted(videos)) or 'none'}"
        )
    frames: dict[str, int | None] = {}
    for field in ("onset", "apex", "offset"):
        try:
            frames[field] = row.frame(field)
        except UserError as error:
            frames[field] = None
            problems.append(str(error))
    source = _mend(frames, row, f"{where} ({subject}/{clip})", corrected, problems)
    kind = row.text("expression_type").casefold()
    if not kind.startswith(("macro", "micro")):
        problems.append(
            f"{row.at('expression_type')}: found {row.text('expression_type')!r}, expected macro-expression or"
            " micro-expression"
        )
    emotion = row.text("emotion").casefold()
    emotion = "others" if emotion == "other" else emotion
    if emotion not in VALENCES:
        problems.append(
            f"{row.at('emotion')}: unknown label {row.text('emotion')!r}; expected one of {', '.join(VALENCES)}"
        )
    try:
        units = facs.parse_action_units(row.text("action_units"), row.at("action_units"))
    except UserError as error:
        units = facs.ActionUnits(raw=row.text("action_units"))
        problems.append(str(error))
    annotation = Annotation(
        where=where,
        subject=subject,
        clip=clip,
        onset=frames["onset"],
        apex=frames["apex"],
        offset=frames["offset"],
        apex_source=source,
        emotion=emotion,
        expression_type=kind[:5] if kind.startswith(("macro", "micro")) else "micro",
        action_units=units,
        objective_class="",
        cells={**row.cells, "video": videos.get(stimulus, "")},
        problem=problems[0] if problems else "",
    )
    return annotation, corrected


def _mend(
    frames: dict[str, int | None], row: sheets.Row, who: str, corrected: list[Corrected], problems: list[str]
) -> str:
    """Offset 0 stands for the apex, apex 0 for the midpoint; returns the source of the apex."""

    def use(field: str, value: int, reason: str) -> None:
        corrected.append(Corrected(who, field, row.text(field), str(value), reason))
        frames[field] = value

    for field in ("apex", "offset"):
        if frames[field] == 0:
            frames[field] = None
    onset, apex, offset = frames["onset"], frames["apex"], frames["offset"]
    if offset is None and apex is not None:
        use("offset", apex, "the offset is 0 (not seen in the recording): the apex ends the event")
        offset = apex
    if onset is None or offset is None:
        problems.append(f"{row.where}, row {row.number} ({who}): onset, or both apex and offset, are missing")
        return "missing" if apex is None else "annotated"
    if onset > offset:
        problems.append(f"{who}: onset {onset} is after offset {offset}; correct the cells")
        return "missing" if apex is None else "annotated"
    if apex is None:
        frames["apex"] = (onset + offset) // 2
        return "imputed"
    if not onset <= apex <= offset:
        use("apex", min(max(apex, onset), offset), f"the apex is outside of onset {onset} to offset {offset}")
        return "corrected"
    return "annotated"
