"""Annotation sheets (xls, xlsx, csv) as rows of text: the header row is found, columns are chosen by name.

Public copies of one sheet differ in preamble rows, spacer columns, trailing blanks and number formats; none of that
reaches the callers. Every error names file, worksheet, row (as a spreadsheet program counts it) and column.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import io
import math
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mer_jax.errors import UserError

Columns = Mapping[str, tuple[str, ...]]  # our name of a column -> the spellings seen in sheets, best first

MISSING_MARKS = frozenset(("", "/", "\\", "-", "--", "nan", "none", "n/a", "na", "null"))
NOT_CALCULATED = "(formula without a stored value: open the file in a spreadsheet program and save it)"
_MAX_DIGITS = 15  # every real frame number is shorter; also keeps int() clear of its own limit on digits
# Full-width forms (U+FF01 to U+FF5E, typed with an East Asian keyboard) and the ideographic space to ASCII.
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20, 0x3001: 0x2C, 0xA0: 0x20}


@dataclasses.dataclass(frozen=True)
class Worksheet:
    """One worksheet: `rows[i]` are the cells, as text, of the row that a spreadsheet program numbers i + 1."""

    file: Path
    name: str
    rows: tuple[tuple[str, ...], ...]

    @property
    def where(self) -> str:
        """File and worksheet, for messages."""
        return f"{self.file} [{self.name}]" if self.name else str(self.file)


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table: cells by our column names. `number` is the spreadsheet's row number, `index` counts rows
    below the header from 0 (the position that published lists of corrections use)."""

    where: str
    number: int
    index: int
    cells: Mapping[str, str]

    def text(self, column: str) -> str:
        """The cell, stripped; "" where blank or where the sheet lacks this optional column."""
        return self.cells.get(column, "")

    def at(self, column: str) -> str:
        """`file [sheet], row n, column c`, for messages."""
        return f"{self.where}, row {self.number}, column {column!r}"

    def frame(self, column: str) -> int | None:
        """The cell as a frame number; None where it is blank or a mark for missing (`/`, backslash, ...).

        Raises:
          UserError: not a whole number.
        """
        return parse_frame_cell(self.text(column), self.at(column))


def fold_width(text: str) -> str:
    """Replaces full-width characters (`，`, `４`, `＋`) by their ASCII forms."""
    return text.translate(_FULL_WIDTH)


def parse_frame_cell(cell: object, where: str) -> int | None:
    """Reads a cell that holds a frame number.

    Args:
      cell: the cell: text or a number.
      where: file, row and column, for the message.

    Returns:
      The number; None where the cell is blank or holds a mark for missing.

    Raises:
      UserError: the cell holds something else.
    """
    text = fold_width(cell_text(cell)).strip()
    if text.casefold() in MISSING_MARKS:
        return None
    match = re.fullmatch(r"([+-]?[0-9]+)(?:\.0*)?", text)
    if match is None or len(match[1]) > _MAX_DIGITS:
        raise UserError(f"{where}: found {_shorten(text)}, expected a frame number or a blank cell; correct the cell")
    return int(match[1])


def cell_text(value: object) -> str:
    """A cell's value as stripped text: 4.0 becomes "4", None becomes "" (ids stay text: "006" stays "006")."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()  # a cell that a spreadsheet program took for a date; its parser will refuse it
    return str(value).strip()


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:97] + "...")


def read_workbook(path: Path) -> list[Worksheet]:
    """Reads all worksheets of an xls, xlsx or csv file; the kind is told by the content, not by the name.

    Formula cells give the values that the program which saved the file has cached.

    Raises:
      UserError: missing, unreadable, of an unknown kind, or the package that reads it is not installed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read the annotation sheet ({error.strerror or error})") from error
    if not content:
        raise UserError(f"{path}: the annotation sheet is empty (0 bytes); copy it again from the distribution")
    try:
        if content.startswith(b"PK"):
            return _read_xlsx(path, content)
        if path.suffix.lower() in (".csv", ".tsv", ".txt"):
            return [_read_delimited(path, content)]
        return _read_xls(path, content)
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"{path}: reading this sheet needs the package {error.name!r}; install mer_jax with the extra 'data'"
        ) from error
    except Exception as error:  # the two libraries raise a dozen kinds (struct.error, KeyError, ...) on damaged files
        raise UserError(
            f"{path}: cannot be read as an annotation sheet ({type(error).__name__}: {error}); expected an undamaged"
            " xls, xlsx or csv file; copy it again from the distribution, or open it and save it as xlsx"
        ) from error


def _read_xlsx(path: Path, content: bytes) -> list[Worksheet]:
    import openpyxl

    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise UserError(
            f"{path}: a damaged xlsx file (its zip directory is missing: an interrupted download?); copy it again"
        )
    book = openpyxl.load_workbook(io.BytesIO(content), data_only=True)
    lost = _formulas(content)
    sheets = [
        Worksheet(path, sheet.title, _trim(_values(sheet.iter_rows(values_only=True), lost.get(sheet.title, set()))))
        for sheet in book.worksheets  # chart sheets have no cells and are not among them
    ]
    if not any(cell for sheet in sheets for row in sheet.rows for cell in row):
        raise UserError(f"{path}: every cell of this workbook is empty; copy the sheet again from the distribution")
    return sheets


def _formulas(content: bytes) -> dict[str, set[tuple[int, int]]]:
    """Rows and columns (from 1) of the formula cells of each worksheet."""
    import openpyxl

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = [n for n in archive.namelist() if n.startswith("xl/worksheets/") and n.endswith(".xml")]
        if not any(re.search(rb"<f[ >/]", archive.read(part)) for part in parts):
            return {}
    book = openpyxl.load_workbook(io.BytesIO(content), data_only=False)
    return {
        sheet.title: {(c.row, c.column) for row in sheet.iter_rows() for c in row if c.data_type == "f"}
        for sheet in book.worksheets
    }


def _values(rows: Iterable[Sequence[object]], formulas: set[tuple[int, int]]) -> Iterable[list[object]]:
    """Marks formulas that a program which does not calculate has saved without a value: they would read as blank."""
    for r, row in enumerate(rows, start=1):
        yield [NOT_CALCULATED if v is None and (r, c) in formulas else v for c, v in enumerate(row, start=1)]


def _read_xls(path: Path, content: bytes) -> list[Worksheet]:
    import xlrd

    book = xlrd.open_workbook(file_contents=content, logfile=io.StringIO())

    def value(cell: Any) -> object:
        if cell.ctype == xlrd.XL_CELL_ERROR:
            return xlrd.error_text_from_code.get(cell.value, "#ERROR")
        if cell.ctype == xlrd.XL_CELL_DATE:
            return xlrd.xldate_as_datetime(cell.value, book.datemode)
        return None if cell.ctype in (xlrd.XL_CELL_EMPTY, xlrd.XL_CELL_BLANK) else cell.value

    return [
        Worksheet(path, sheet.name, _trim([value(c) for c in sheet.row(i)] for i in range(sheet.nrows)))
        for sheet in book.sheets()
    ]


def _read_delimited(path: Path, content: bytes) -> Worksheet:
    for encoding in ("utf-8-sig", "gb18030", "latin-1"):
        try:
            text = content.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    if "\x00" in text:
        raise UserError(f"{path}: holds zero bytes, expected a text file of comma-separated values")
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    return Worksheet(path, "", _trim(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)))


def _trim(rows: Iterable[Iterable[object]]) -> tuple[tuple[str, ...], ...]:
    """Cells as text; empty rows between others stay (they count in row numbers)."""
    found = [tuple(cell_text(value) for value in row) for row in rows]
    while found and not any(found[-1]):
        found.pop()
    return tuple(found)


def normal_name(header: str) -> str:
    """A header without case, blanks and punctuation: "Apex Frame", "ApexFrame" and "apex_frame" are one name."""
    return re.sub(r"[\W_]+", "", fold_width(header).casefold())


def find_header(sheet: Worksheet, columns: Columns, needed: Sequence[str]) -> tuple[int, dict[str, int]] | None:
    """Finds the header: the first row that holds a spelling of every needed column.

    Returns:
      Its position in `sheet.rows` and the cell position of each column found; None where there is no such row.
    """
    for position, row in enumerate(sheet.rows):
        names: dict[str, int] = {}
        for cell, header in enumerate(row):
            names.setdefault(normal_name(header), cell)
        found = {}
        for column, spellings in columns.items():
            match = next((names[normal_name(s)] for s in spellings if normal_name(s) in names), None)
            if match is not None:
                found[column] = match
        if all(column in found for column in needed):
            return position, found
    return None


def read_table(
    sheets: Sequence[Worksheet], columns: Columns, needed: Sequence[str], worksheet: str | None = None
) -> tuple[Worksheet, tuple[str, ...], list[Row]]:
    """Reads the first worksheet that has the needed columns.

    Args:
      sheets: the workbook.
      columns: the columns to read, see `Columns`.
      needed: those of `columns` without which a row is the header of something else.
      worksheet: name of the worksheet (compared without case and blanks), where the workbook has look-alikes.

    Returns:
      The worksheet, its header cells and the rows below the header; rows without any text are left out.

    Raises:
      UserError: no such worksheet, or no row holds all needed columns (the closest one is shown).
    """
    file = sheets[0].file
    if worksheet is not None:
        chosen = [s for s in sheets if normal_name(s.name) == normal_name(worksheet)]
        if not chosen and sheets[0].name:  # a csv export has no worksheet names
            names = ", ".join(repr(s.name) for s in sheets)
            raise UserError(
                f"{file}: no worksheet {worksheet!r}; found {names}; is this the sheet of the distribution?"
            )
        sheets = chosen or sheets
    for sheet in sheets:
        header = find_header(sheet, columns, needed)
        if header is None:
            continue
        position, found = header
        rows: list[Row] = []
        for number, cells in enumerate(sheet.rows[position + 1 :], start=position + 2):
            if any(cells):
                values = {c: cells[i] if i < len(cells) else "" for c, i in found.items()}
                rows.append(Row(sheet.where, number, len(rows), values))
        return sheet, sheet.rows[position], rows
    raise UserError(_explain_missing(sheets, columns, needed))


def _explain_missing(sheets: Sequence[Worksheet], columns: Columns, needed: Sequence[str]) -> str:
    best: tuple[int, Worksheet, int, list[str]] | None = None
    for sheet in sheets:
        for position, row in enumerate(sheet.rows):
            names = {normal_name(c) for c in row}
            lacking = [c for c in needed if not any(normal_name(s) in names for s in columns[c])]
            if best is None or len(lacking) < best[0]:
                best = (len(lacking), sheet, position, lacking)
    if best is None or best[0] == len(needed):
        wanted = ", ".join(repr(columns[c][0]) for c in needed)
        return f"{sheets[0].where}: no header row; expected one row with the columns {wanted}; is this the right sheet?"
    _, sheet, position, lacking = best
    wanted = ", ".join(repr(columns[c][0]) for c in lacking)
    found = ", ".join(repr(c) for c in sheet.rows[position] if c)
    return f"{sheet.where}, row {position + 1}: missing column {wanted}; found {_cut(found)}; is this the right sheet?"


def _cut(text: str) -> str:
    return text if len(text) <= 300 else text[:297] + "..."
