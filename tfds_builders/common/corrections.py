"""Known errors of the annotation sheets, each with its correction and the reason; and rows that are left out by name.

A correction is applied only where the sheet still holds the error, so that mended copies in circulation pass
unchanged. Rows are named by subject and clip; where public sources give a position in the table only, the position
counts from 0 below the header and holds for a sheet of exactly that many rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Correction:
    """One cell that is known to be wrong.

    Attributes:
      dataset: name of the sheet format.
      field: `onset`, `apex` or `offset`.
      value: what to use instead.
      reason: what is wrong and where the value comes from.
      subject: subject of the row.
      clip: clip of the row.
      onset: onset of the row as in the sheet, where subject and clip do not tell it from others.
      found: the wrong value; None where only the rule `when` tells.
      when: `found` applies to that value, `differs` to any other than `value`, `broken` where the row's frames are
        missing or out of order.
      index: position of the row, in place of subject and clip.
      rows: number of rows of the sheet for which `index` holds.
    """

    dataset: str
    field: str
    value: int
    reason: str
    subject: str = ""
    clip: str = ""
    onset: int | None = None
    found: int | None = None
    when: Literal["found", "differs", "broken"] = "found"
    index: int | None = None
    rows: int | None = None

    def applies(self, subject: str, clip: str, index: int, rows: int, frames: Mapping[str, int | None]) -> bool:
        """Whether this row of a sheet with `rows` rows still holds the error."""
        if self.index is not None:
            if (index, rows) != (self.index, self.rows):
                return False
        elif (subject, clip) != (self.subject, self.clip):
            return False
        if self.onset is not None and frames["onset"] != self.onset:
            return False
        value = frames[self.field]
        if self.when == "found":
            return value == self.found
        return value != self.value and (self.when == "differs" or broken(frames))


def broken(frames: Mapping[str, int | None]) -> bool:
    """Whether onset, apex and offset are incomplete or out of order."""
    onset, apex, offset = frames["onset"], frames["apex"], frames["offset"]
    return onset is None or apex is None or offset is None or not onset <= apex <= offset


@dataclasses.dataclass(frozen=True)
class Exclusion:
    """A row that the source says not to use."""

    dataset: str
    clip: str
    reason: str


def _positions(dataset: str, field: str, rows: int, values: Mapping[int, int], reason: str) -> Iterable[Correction]:
    for index, value in values.items():
        yield Correction(dataset, field, value, reason, index=index, rows=rows, when="broken")


_FOLDER = "the sheet disagrees with the frames in the clip's folder (MEB, tvaranka/meb)"
_CASME = "casme"
_MMEW_ROWS = (33, 35, 36, 37, 38, 39, 40, 41, 42, 142, 143, 145, 146, 148, 154, 156)
_MMEW_APEX = (40, 15, 46, 20, 25, 20, 23, 28, 32, 56, 32, 27, 22, 29, 31, 38)
_MMEW_OFFSET = (75, 54, 59, 98, 80, 93, 58, 61, 68, 88, 80, 85, 61, 108, 72, 106)
_MMEW = "apex or offset is missing or wrong in the sheet; values estimated from the frames by MEB (tvaranka/meb)"

CORRECTIONS: tuple[Correction, ...] = (
    *_positions(_CASME, "onset", 189, {40: 100, 42: 101, 43: 57}, _FOLDER),
    *_positions(_CASME, "offset", 189, {40: 149, 42: 119, 43: 74, 54: 40, 140: 142}, _FOLDER),
    *_positions(_CASME, "apex", 189, {40: 120, 42: 110, 43: 65}, _FOLDER + "; apex set to about the middle"),
    *_positions("casme2", "offset", 256, {60: 91}, "the offset is wrong in the 256-row copy (MEB, tvaranka/meb)"),
    Correction(
        "samm", "apex", 1124, "apex 1143 lies after the offset 1134; the copy of QqXuyujie reads 1124",
        "028", "028_4_1", found=1143,
    ),
    Correction(
        "samm", "apex", 4930, "apex 1930 lies before the onset 4896; first digit mistyped, two public copies read 4930",
        "032", "032_3_1", found=1930,
    ),
    Correction(
        "samm", "offset", 5739, "the offset is mistyped; 5739 in MEB (tvaranka/meb) and in the SLSTT copy",
        "013", "013_1_9", when="differs",
    ),
    Correction("casme3", "apex", 160, "apex 83 lies before the onset 112; value of MEB", "spNO.149", "d", 112, 83),
    Correction(
        "casme3", "onset", 2647, "onset 3647 lies after the offset; first digit mistyped", "spNO.216", "d", found=3647
    ),
    Correction("casme3", "onset", 1, "there is no frame 0; the first frame is meant", "spNO.216", "e", found=0),
    Correction("casme3", "apex", 1, "there is no frame 0; the first frame is meant", "spNO.216", "e", 0, 0),
    Correction("casme3", "offset", 1845, "the offset is 0; value of MEB", "spNO.40", "e", 1812, 0),
    Correction("casme3", "offset", 2403, "the offset is 0; value of MEB", "spNO.40", "e", 2327, 0),
    Correction(
        "casme3", "offset", 34, "offset 3460 for an event at frame 5; value of MEB", "spNO.214", "c", found=3460
    ),
    *_positions("mmew", "apex", 300, dict(zip(_MMEW_ROWS, _MMEW_APEX, strict=True)), _MMEW),
    *_positions("mmew", "offset", 300, dict(zip(_MMEW_ROWS, _MMEW_OFFSET, strict=True)), _MMEW),
)  # fmt: skip

EXCLUSIONS: tuple[Exclusion, ...] = (
    Exclusion("fourdme", "S13_1st_001_01_1", "excluded by the MEB benchmark (tvaranka/meb): no usable frames"),
)

# Pairs of rows whose action-unit cells stand in each other's row: dataset, number of rows, positions, reason.
SWAPPED_ACTION_UNITS: tuple[tuple[str, int, tuple[int, int], str], ...] = (
    ("fourdme", 267, (144, 145), "the action units of rows 144 and 145 stand in each other's row (MEB, tvaranka/meb)"),
)
