"""The CSV of a clip folder -> rows, strictly: whatever is unclear is refused with file, row and column."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mer_jax.data.clips import EXPRESSION_TYPES, MODALITIES
from mer_jax.errors import UserError
from tfds_builders.common.facs import parse_action_units

REQUIRED = ("path", "subject", "label")
POSITIONS = ("start", "end", "onset", "apex", "offset")
BOX = ("x", "y", "w", "h")
COLUMNS = (
    *REQUIRED, "clip", *POSITIONS, "fps", *BOX, "landmarks", "action_units", "expression_type", "dataset", "cohort",
    "modality",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row:
    """One clip as the CSV describes it; None or an empty text where a cell is not given.

    Positions count frames of the whole video or folder (see the README for `positions`).
    """

    where: str  # "<file>, row <n>"
    path: Path
    subject: str
    label: str
    clip: str
    start: int | None
    end: int | None
    onset: int | None
    apex: int | None
    offset: int | None
    fps: float | None
    box: tuple[int, int, int, int] | None  # x, y, w, h
    landmarks: Path | None
    action_units: str
    expression_type: str
    dataset: str
    cohort: str
    modality: str

    def refuse(self, column: str, found: object, expected: str) -> NoReturn:
        """Raises the error of a cell."""
        refuse(self.where, column, found, expected)


def refuse(where: str, column: str, found: object, expected: str) -> NoReturn:
    """Raises the error of a cell: file, row, column, found, expected."""
    shown = repr(found) if isinstance(found, str) and " " not in found else found
    raise UserError(f"{where}, column {column!r}: found {shown}; expected {expected}")


def read_rows(path: Path, dataset: str, required: Sequence[str] = REQUIRED) -> list[Row]:
    """Reads the CSV.

    Args:
      path: the CSV file; relative paths in it start at its folder.
      dataset: name of the dataset of rows that name none.
      required: columns that must be there; what is recognised needs no label.

    Raises:
      UserError: no such file, unknown or missing column, a cell that cannot be right, a file that is not there, a clip
        that appears twice.
    """
    cells = _read_cells(path, required)
    rows: list[Row] = []
    seen: dict[tuple[str, str, str], str] = {}
    for number, row_cells in cells:
        row = _row(f"{path}, row {number}", path.parent, row_cells, dataset, required)
        name = (row.dataset, row.subject, row.clip)
        if name in seen:
            row.refuse(
                "clip",
                f"{row.clip} of subject {row.subject} again (first in {seen[name]})",
                "each clip of a subject once; give the rows different names in the column 'clip'",
            )
        seen[name] = row.where.rsplit(", ", 1)[1]
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: no rows below the header; expected one row a clip")
    return rows


def _read_cells(path: Path, required: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as f:
            lines = list(csv.reader(f, strict=True))
    except FileNotFoundError:
        raise UserError(f"{path}: file not found; write it with the columns {', '.join(COLUMNS)}") from None
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise UserError(f"{path}: not a CSV file in UTF-8 ({error}); save it as CSV UTF-8") from None
    if not lines:
        raise UserError(f"{path}: an empty file; expected a header with the columns {', '.join(COLUMNS)}")
    header = [name.strip() for name in lines[0]]
    _check_header(path, header, required)
    table = []
    for number, line in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in line):
            continue
        if len(line) != len(header):
            raise UserError(
                f"{path}, row {number}: {len(line)} cells found, {len(header)} expected as in the header; "
                "put cells that hold a comma in quotes"
            )
        table.append((number, dict(zip(header, (cell.strip() for cell in line), strict=True))))
    return table


def _check_header(path: Path, header: list[str], required: Sequence[str]) -> None:
    for name in header:
        if name not in COLUMNS:
            if ";" in name or "\t" in name:
                raise UserError(f"{path}, row 1: found {name!r}; expected columns separated by commas")
            near = difflib.get_close_matches(name.lower(), COLUMNS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"columns are: {', '.join(COLUMNS)}"
            raise UserError(f"{path}, row 1: unknown column {name!r}; {hint}")
        if header.count(name) > 1:
            raise UserError(f"{path}, row 1: column {name!r} appears {header.count(name)} times; expected once")
    missing = [name for name in required if name not in header]
    if missing:
        raise UserError(f"{path}, row 1: column {missing[0]!r} is missing; {', '.join(required)} are required")


def _row(where: str, folder: Path, cells: dict[str, str], dataset: str, required: Sequence[str]) -> Row:
    for column in required:
        if not cells[column]:
            refuse(where, column, "an empty cell", "a text")
    for column in ("subject", "clip", "dataset", "cohort"):
        if "/" in cells.get(column, ""):
            refuse(where, column, cells[column], "a text without '/'")
    positions = {c: _whole_number(where, c, cells.get(c, "")) for c in POSITIONS}
    box = [_whole_number(where, c, cells.get(c, "")) for c in BOX]
    given = [v for v in box if v is not None]
    if given and len(given) < len(BOX):
        column = BOX[box.index(None)]
        refuse(where, column, "an empty cell", "x, y, w and h together, or none of them")
    if given and (given[2] == 0 or given[3] == 0):
        refuse(where, "w" if given[2] == 0 else "h", 0, "at least 1 pixel")
    path = _file(where, "path", folder, cells["path"])
    assert path is not None
    row = Row(
        where=where,
        path=path,
        subject=cells["subject"],
        label=cells.get("label", ""),
        clip=cells.get("clip", "") or _clip_name(path, positions["start"], positions["end"]),
        **positions,
        fps=_fps(where, cells.get("fps", "")),
        box=(given[0], given[1], given[2], given[3]) if given else None,
        landmarks=_file(where, "landmarks", folder, cells.get("landmarks", "")),
        action_units=cells.get("action_units", ""),
        expression_type=_choice(where, "expression_type", cells.get("expression_type", ""), EXPRESSION_TYPES)
        or "micro",
        dataset=cells.get("dataset", "") or dataset,
        cohort=cells.get("cohort", "") or cells.get("dataset", "") or dataset,
        modality=_choice(where, "modality", cells.get("modality", ""), MODALITIES),
    )
    parse_action_units(row.action_units, f"{where}, column 'action_units'")
    _check_order(row)
    return row


def _clip_name(path: Path, start: int | None, end: int | None) -> str:
    name = path.stem.strip() if path.is_file() else path.name
    if start is None and end is None:
        return name
    return f"{name}_{'' if start is None else start}-{'' if end is None else end}"


def _check_order(row: Row) -> None:
    """start <= onset <= apex <= offset <= end among those given; onset and offset come together."""
    if (row.onset is None) != (row.offset is None):
        empty = "onset" if row.onset is None else "offset"
        row.refuse(empty, "an empty cell", "onset and offset together, or none of them (then the whole clip counts)")
    order = [(c, getattr(row, c)) for c in ("start", "onset", "apex", "offset", "end") if getattr(row, c) is not None]
    for (before, low), (after, high) in itertools.pairwise(order):
        if low > high:
            row.refuse(before, f"{before} {low} > {after} {high}", "start <= onset <= apex <= offset <= end")


def _whole_number(where: str, column: str, cell: str) -> int | None:
    if not cell:
        return None
    if not (cell.isascii() and cell.isdigit() and len(cell) <= 9):
        refuse(where, column, cell, "a whole number from 0")
    return int(cell)


def _fps(where: str, cell: str) -> float | None:
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        refuse(where, "fps", cell, "a number of frames a second above 0")
    return value


def _choice(where: str, column: str, cell: str, allowed: tuple[str, ...]) -> str:
    if cell and cell not in allowed:
        refuse(where, column, cell, f"one of {', '.join(allowed)}, or an empty cell")
    return cell


def _file(where: str, column: str, folder: Path, cell: str) -> Path | None:
    if not cell:
        return None
    path = folder / cell
    if not path.exists():
        refuse(where, column, cell, f"a file or folder that is there ({path} is not)")
    return path
