"""What an annotation sheet says: one `Annotation` a row, and the sheet as a whole."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from mer_jax.errors import UserError
from tfds_builders.common import facs
from tfds_builders.common.report import BuildReport, Skipped


@dataclasses.dataclass(frozen=True)
class Corrected:
    """A cell for which another value is used: where it stands, its column, the value found and used, the reason."""

    row: str
    field: str
    found: str
    used: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Annotation:
    """One row of a sheet.

    Attributes:
      where: file and row, for messages.
      subject: the subject as the dataset's folders write it.
      clip: name of the clip within the subject.
      onset: frame number as in file names; None only where `problem` says so, or where the folder tells it (CASME).
      apex: frame number, None where unknown.
      offset: frame number.
      apex_source: one of APEX_SOURCES.
      emotion: the dataset's own word, in lower case; "" where the sheet has none.
      expression_type: one of EXPRESSION_TYPES.
      action_units: codes of the cell.
      objective_class: `I` to `VII`, "" where the sheet has none.
      cells: all cells that were read, as text, by our names of columns.
      problem: why the row cannot be used, "" where it can.
    """

    where: str
    subject: str
    clip: str
    onset: int | None
    apex: int | None
    offset: int | None
    apex_source: str
    emotion: str
    expression_type: str
    action_units: facs.ActionUnits
    objective_class: str
    cells: Mapping[str, str]
    problem: str = ""

    @property
    def frames(self) -> tuple[int, int]:
        """Onset and offset of a row without problem."""
        assert self.onset is not None
        assert self.offset is not None
        return self.onset, self.offset

    def key(self, with_onset: bool) -> tuple[object, ...]:
        """What no other row of the sheet may share."""
        return self.subject, self.clip, self.expression_type, self.onset if with_onset else None


@dataclasses.dataclass(frozen=True)
class Annotations:
    """A sheet that was read.

    Attributes:
      dataset: name of the format.
      file: the sheet.
      version: which of the versions in circulation it is; "" where there is one only.
      key_has_onset: subject and clip name a video, and the onset tells its events apart.
      sheet_rows: rows below the header that hold anything.
      rows: the clips of the sheet, in its order.
      skipped: rows that are no clips (footnotes, excluded ones), with the reason.
      corrected: known errors that were mended.
    """

    dataset: str
    file: Path
    version: str
    key_has_onset: bool
    sheet_rows: int
    rows: tuple[Annotation, ...]
    skipped: tuple[Skipped, ...]
    corrected: tuple[Corrected, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each row that cannot be used."""
        return tuple(row.problem for row in self.rows if row.problem)

    def check(self) -> Annotations:
        """Refuses a sheet with rows that cannot be used.

        Raises:
          UserError: names them; also where two rows name one clip, or no row is left.
        """
        if self.problems:
            listed = "\n  ".join(self.problems[:20])
            more = f"\n  and {len(self.problems) - 20} more" if len(self.problems) > 20 else ""
            if len(self.problems) == 1:
                raise UserError(listed)
            raise UserError(f"{self.file}: {len(self.problems)} rows cannot be used:\n  {listed}{more}")
        if not self.rows:
            raise UserError(f"{self.file}: no row with a clip below the header; is this the sheet of the distribution?")
        seen: dict[tuple[object, ...], Annotation] = {}
        for row in self.rows:
            key = row.key(self.key_has_onset)
            if key in seen:
                raise UserError(
                    f"{row.where}: clip {row.clip!r} of subject {row.subject!r} stands in the sheet twice (first in"
                    f" {seen[key].where}); delete one of the rows"
                )
            seen[key] = row
        return self

    def usable(self) -> Annotations:
        """The sheet without rows that cannot be used and without repeated ones, which are skipped by name.

        For the sheets of long recordings, whose thousands of intervals no user can mend.
        """
        kept: dict[tuple[object, ...], Annotation] = {}
        skipped = list(self.skipped)
        for row in self.rows:
            first = kept.setdefault(row.key(self.key_has_onset), row) if not row.problem else row
            if row.problem:
                skipped.append(Skipped(f"{row.where} ({row.subject}/{row.clip})", row.problem))
            elif first is not row:
                skipped.append(Skipped(f"{row.where} ({row.subject}/{row.clip})", f"the same event as {first.where}"))
        return dataclasses.replace(self, rows=tuple(kept.values()), skipped=tuple(skipped))

    def of_type(self, expression_type: str) -> Annotations:
        """The rows of one expression type, as a sheet of their own (skipped rows stay with both)."""
        rows = tuple(row for row in self.rows if row.expression_type == expression_type)
        places = {row.where for row in rows}
        corrected = tuple(c for c in self.corrected if c.row.rsplit(" (", 1)[0] in places)
        return dataclasses.replace(self, rows=rows, sheet_rows=len(rows) + len(self.skipped), corrected=corrected)

    def tell(self, report: BuildReport) -> None:
        """Writes version, rows, corrections and skipped rows into the report of a build (skipped rows are counted,
        but not yielded again by the builder)."""
        report.rows = (report.rows or 0) + self.sheet_rows
        report.notes.setdefault("sheets", []).append(
            {"file": self.file.name, "version": self.version, "rows": self.sheet_rows}
        )
        for entry in self.corrected:
            report.correct(entry.row, entry.field, entry.found, entry.used, entry.reason)
        for skipped in self.skipped:
            report.skip(skipped.row, skipped.reason)

    def summary(self) -> str:
        """Counts for the terminal."""
        emotions = Counter(row.emotion or "(none)" for row in self.rows)
        types = Counter(row.expression_type for row in self.rows)
        objective = Counter(row.objective_class for row in self.rows if row.objective_class)
        units = facs.count_numbers(row.action_units for row in self.rows)
        lines = [
            f"{self.file}: {self.dataset}{', version ' + self.version if self.version else ''}",
            f"rows: {self.sheet_rows} below the header, {len(self.rows)} clips, {len(self.skipped)} skipped",
            f"subjects: {len({row.subject for row in self.rows})}",
            "types: " + _counts(types),
            "emotions: " + _counts(emotions),
            "apex: " + _counts(Counter(row.apex_source for row in self.rows)),
        ]
        if objective:
            lines.append("objective classes: " + _counts(objective))
        if units:
            lines.append("action units: " + ", ".join(f"AU{n} {c}" for n, c in units.most_common()))
        lines += [f"corrected: {c.row}: {c.field} {c.found} -> {c.used} ({c.reason})" for c in self.corrected]
        lines += [f"skipped: {s.row}: {s.reason}" for s in self.skipped]
        lines += [f"problem: {p}" for p in self.problems]
        return "\n".join(lines)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common())
