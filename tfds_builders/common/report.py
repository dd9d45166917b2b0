"""What a build made of every row of the sheet: written, corrected or skipped, each with its reason."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A row that gives no clip.

    Attributes:
      row: where it stands: file and row, or the name of a clip.
      reason: why it gives none.
    """

    row: str
    reason: str


@dataclasses.dataclass
class BuildReport:
    """Counts and reasons of one build.

    Attributes:
      rows: rows of the sheet that describe clips; None where a set has no sheet. A builder sets it.
      beyond_sheet: clips that no row describes (neutral stretches, a folder without a row). A builder sets it.
      clips: clips written.
      corrected: known errors of the sheet that were mended: row, field, found, used, reason.
      skipped: rows without a clip: row, reason.
      notes: other facts, such as the version of the sheet.
    """

    rows: int | None = None
    beyond_sheet: int = 0
    clips: int = 0
    corrected: list[dict[str, str]] = dataclasses.field(default_factory=list)
    skipped: list[dict[str, str]] = dataclasses.field(default_factory=list)
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def skip(self, row: str, reason: str) -> None:
        """Names a row that gives no clip."""
        self.skipped.append({"row": row, "reason": reason})

    def correct(self, row: str, field: str, found: Any, used: Any, reason: str) -> None:
        """Names a cell that was mended."""
        entry = {"row": row, "field": field, "found": str(found), "used": str(used), "reason": reason}
        self.corrected.append(entry)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON, after checking that no row was lost.

        Raises:
          RuntimeError: rows and clips do not add up, a mistake of the builder.
        """
        if self.rows is not None and self.rows + self.beyond_sheet != self.clips + len(self.skipped):
            raise RuntimeError(
                f"the builder lost rows: {self.rows} in the sheet and {self.beyond_sheet} beyond it, but "
                f"{self.clips} clips written and {len(self.skipped)} rows skipped"
            )
        return dataclasses.asdict(self)

    def summary(self) -> str:
        """One line for the terminal."""
        of = "" if self.rows is None else f" of {self.rows} rows"
        return f"{self.clips} clips{of}, {len(self.corrected)} corrected, {len(self.skipped)} skipped"
