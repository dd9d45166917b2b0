"""Annotation sheets of the micro-expression datasets -> one `Annotation` a row.

    annotations = read("casme2", Path("CASME2-coding-20190701.xlsx"))
    annotations.check()

`read` is tolerant: it accepts every public copy of a sheet, and a row that cannot be used is kept with its `problem`,
so that counts can be compared. `check` is strict: it refuses the sheet in one message that names all such rows.

    python -m tfds_builders.common.annotations casme2 CASME2-coding-20190701.xlsx

prints what was read: version, counts of emotions, subjects and action units, corrections and problems.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mer_jax.errors import UserError
from tfds_builders.common import casme_squared_sheet, facs, sheets
from tfds_builders.common import corrections as corrections_lib
from tfds_builders.common.annotation_rows import Annotation, Annotations, Corrected
from tfds_builders.common.report import Skipped
from tfds_builders.common.sheet_formats import FORMATS, SheetFormat, match_subject, roman


def read(dataset: str, path: Path, worksheet: str | None = None) -> Annotations:
    """Reads a sheet.

    Args:
      dataset: a name of `sheet_formats.FORMATS`, or `casme_squared`.
      path: the sheet: xls, xlsx or csv.
      worksheet: in place of the format's own (SMIC-E: `HS` or `VIS`).

    Raises:
      UserError: the file cannot be read, or is not the sheet of this dataset.
    """
    if dataset == "casme_squared":
        return casme_squared_sheet.read(path)
    if dataset not in FORMATS:
        raise UserError(f"unknown annotation format {dataset!r}; known: {', '.join((*FORMATS, 'casme_squared'))}")
    form = FORMATS[dataset]
    book = sheets.read_workbook(path)
    worksheet = worksheet or form.worksheet
    if worksheet is None and any(s.name == form.prefer_worksheet for s in book):
        worksheet = form.prefer_worksheet
    _, _, rows = sheets.read_table(book, form.columns, form.needed, worksheet)
    readings = [_Reading(dataset, form, row, len(rows)) for row in rows]
    skipped = [s for r in readings if (s := r.skipped()) is not None]
    kept = [r for r in readings if r.skipped() is None]
    _swap_action_units(dataset, readings)
    annotations = tuple(r.annotation() for r in kept)
    corrected = tuple(c for r in kept for c in r.corrected)
    version = _version(dataset, path, rows, annotations)
    return Annotations(dataset, path, version, form.key_has_onset, len(rows), annotations, tuple(skipped), corrected)


class _Reading:
    """One row on its way to an Annotation: collects corrections and the first problem."""

    def __init__(self, dataset: str, form: SheetFormat, row: sheets.Row, sheet_rows: int) -> None:
        self.dataset, self.form, self.row, self.sheet_rows = dataset, form, row, sheet_rows
        self.corrected: list[Corrected] = []
        self.problem = ""
        self.where = f"{row.where}, row {row.number}"
        self.subject = self._subject()
        self.clip = self.form.clip_form.format(sheets.fold_width(row.text("clip")).strip())
        self.units_cell = row.text("action_units")

    def skipped(self) -> Skipped | None:
        """A reason to leave the row out: no clip, or excluded by name."""
        if not self.row.text("clip") and not (self.row.text("subject") and self.row.text("onset")):
            text = " ".join(cell for cell in self.row.cells.values() if cell)[:80]
            return Skipped(self.where, f"no clip name: a note beside the table ({text!r})")
        if self.subject is None and not any(self.row.text(c) for c in ("onset", "offset", "emotion")):
            return Skipped(self.where, f"no clip: a note beside the table ({self.row.text('subject')[:80]!r})")
        if self.form.skip_incomplete:
            for field in ("onset", "offset"):
                if self.row.text(field).casefold() in sheets.MISSING_MARKS:
                    return Skipped(f"{self.where} ({self.clip})", f"the sheet gives no {field} for it")
        for exclusion in corrections_lib.EXCLUSIONS:
            if (exclusion.dataset, exclusion.clip) == (self.dataset, self.clip):
                return Skipped(f"{self.where} ({self.clip})", exclusion.reason)
        return None

    def annotation(self) -> Annotation:
        if self.subject is None:
            self._fail(f"{self.row.at('subject')}: found {self.row.text('subject')!r}, expected a subject such as"
                       f" {self.form.subject_form.format(1)!r}")  # fmt: skip
        if not self.clip:
            self._fail(f"{self.row.at('clip')}: found a blank cell, expected the name of a clip")
        frames = self._frames()
        apex_source = self._check_frames(frames) if "onset" in self.form.columns else "missing"
        return Annotation(
            where=self.where,
            subject=self.subject or "",
            clip=self.clip,
            onset=frames["onset"],
            apex=frames["apex"],
            offset=frames["offset"],
            apex_source=apex_source,
            emotion=self._emotion(),
            expression_type=self._expression_type(),
            action_units=self._action_units(),
            objective_class=roman(self.row.text("objective_class")),
            cells=self.row.cells,
            problem=self.problem,
        )

    def _fail(self, problem: str) -> None:
        self.problem = self.problem or problem

    def _subject(self) -> str | None:
        return match_subject(self.form, sheets.fold_width(self.row.text("subject")))

    def _frames(self) -> dict[str, int | None]:
        frames: dict[str, int | None] = {}
        for field in ("onset", "apex", "offset"):
            try:
                frames[field] = self.row.frame(field)
            except UserError as error:
                frames[field] = None
                self._fail(str(error))
        if self.form.zero_apex_missing and frames["apex"] == 0:
            frames["apex"] = None
        if self.form.zero_offset_is_apex and frames["offset"] == 0 and frames["apex"] is not None:
            self._correct(frames, "offset", frames["apex"], "the offset is 0 (not seen): the apex ends the event")
        before = dict(frames)
        for known in corrections_lib.CORRECTIONS:
            if known.dataset == self.dataset and known.applies(
                self.subject or "", self.clip, self.row.index, self.sheet_rows, before
            ):
                self._correct(frames, known.field, known.value, known.reason)
        return frames

    def _correct(self, frames: dict[str, int | None], field: str, value: int, reason: str) -> None:
        found = "" if frames[field] is None else str(frames[field])
        self.corrected.append(Corrected(f"{self.where} ({self.subject}/{self.clip})", field, found, str(value), reason))
        frames[field] = value

    def _check_frames(self, frames: dict[str, int | None]) -> str:
        """Fills and clamps the apex; returns its source."""
        source = "corrected" if any(c.field == "apex" for c in self.corrected) else "annotated"
        onset, apex, offset = frames["onset"], frames["apex"], frames["offset"]
        if self.form.folder_decides and (onset is None or offset is None or onset > offset):
            return "missing" if apex is None else source
        for field in ("onset", "offset"):
            if frames[field] is None:
                self._fail(f"{self.row.at(field)}: found {self.row.text(field)!r}, expected a frame number")
        if onset is None or offset is None:
            return "missing" if apex is None else source
        if onset > offset:
            self._fail(
                f"{self.where} ({self.subject}/{self.clip}): onset {onset} is after offset {offset}; correct the cells"
            )
            return "missing" if apex is None else source
        if apex is None:
            if not self.form.midpoint:
                return "missing"
            frames["apex"] = (onset + offset) // 2
            return "imputed"
        if not onset <= apex <= offset:
            self._correct(
                frames,
                "apex",
                min(max(apex, onset), offset),
                f"the apex is outside of onset {onset} to offset {offset}",
            )
            return "corrected"
        return source

    def _emotion(self) -> str:
        if not self.form.has_emotion and not self.row.text("emotion"):
            return ""
        text = re.sub(r"\s+", " ", sheets.fold_width(self.row.text("emotion"))).strip().casefold()
        words = [w.strip() for w in re.split(r"[+/,&]", text)] if self.form.split_emotions else [text]
        words = [self.form.aliases.get(w, w) for w in words]
        unknown = [w for w in words if w not in self.form.emotions]
        if unknown:
            self._fail(
                f"{self.row.at('emotion')}: unknown label {self.row.text('emotion')!r}; expected one of"
                f" {', '.join(self.form.emotions)}; correct the cell"
            )
        return "+".join(words)

    def _expression_type(self) -> str:
        if "expression_type" not in self.form.columns:
            return self.form.expression_type
        text = self.row.text("expression_type").casefold()
        for kind in ("micro", "macro"):
            if text.startswith(kind):
                return kind
        self._fail(f"{self.row.at('expression_type')}: found {text!r}, expected Micro or Macro; correct the cell")
        return self.form.expression_type

    def _action_units(self) -> facs.ActionUnits:
        try:
            return facs.parse_action_units(self.units_cell, self.row.at("action_units"))
        except UserError as error:
            self._fail(str(error))
            return facs.ActionUnits(raw=self.units_cell)


def _swap_action_units(dataset: str, readings: Sequence[_Reading]) -> None:
    for name, rows, (first, second), reason in corrections_lib.SWAPPED_ACTION_UNITS:
        if (name, rows) != (dataset, len(readings)):
            continue
        one, other = readings[first], readings[second]
        one.units_cell, other.units_cell = other.units_cell, one.units_cell
        for reading, found in ((one, other.units_cell), (other, one.units_cell)):
            reading.corrected.append(
                Corrected(
                    f"{reading.where} ({reading.subject}/{reading.clip})",
                    "action_units",
                    found,
                    reading.units_cell,
                    reason,
                )
            )


def _version(dataset: str, path: Path, rows: Sequence[sheets.Row], annotations: Sequence[Annotation]) -> str:
    """Which version in circulation a sheet is, by its content."""
    emotions = Counter(a.emotion for a in annotations)
    if dataset == "casme2":
        # The 2019 sheet has a column more, and moved three clips from sadness to surprise (25 -> 28).
        by_header = "2019" if rows and "objective_class" in rows[0].cells else "2014"
        by_count = {25: "2014", 28: "2019"}.get(emotions["surprise"])
        if len(annotations) < 250:
            return f"{by_header} (by its header; an excerpt of {len(annotations)} rows)"
        if by_count == by_header:
            return by_header
        return f"unknown: header of {by_header}, {len(annotations)} rows, surprise {emotions['surprise']}"
    if dataset == "samm":
        if not rows:
            return ""
        preamble = rows[0].number - 2
        return f"as distributed ({preamble} rows above the header)" if preamble else "stripped (header in row 1)"
    if dataset in ("casme3", "casme3_macro"):
        first_version = {"casme3": 921, "casme3_macro": 921 + 3285}[dataset]
        micro = sum(a.expression_type == "micro" for a in annotations)
        old = micro == 921 or (len(annotations) not in (860, first_version) and re.search(r"[_ ]v1\b", path.stem))
        return "v1" if old else "v2"
    if dataset == "smic_e":
        return f"{len(annotations)} clips"
    return ""


def main(arguments: Sequence[str]) -> int:
    """Prints what a sheet holds; 0, or 2 where a row cannot be used or the file cannot be read."""
    if len(arguments) not in (2, 3):
        print("usage: python -m tfds_builders.common.annotations FORMAT SHEET [WORKSHEET]", file=sys.stderr)
        print(f"formats: {', '.join((*FORMATS, 'casme_squared'))}", file=sys.stderr)
        return UserError.exit_code
    try:
        annotations = read(arguments[0], Path(arguments[1]), *arguments[2:])
    except UserError as error:
        print(error, file=sys.stderr)
        return UserError.exit_code
    print(annotations.summary())
    return UserError.exit_code if annotations.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
