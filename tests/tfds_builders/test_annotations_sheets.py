"""Sheets: kinds of files, header rows, lost formulas, damaged files."""

import pytest

from mer_jax.errors import UserError
from tests.tfds_builders import trees
from tfds_builders.common.sheets import read_table, read_workbook

COLUMNS = {"subject": ("Subject",), "clip": ("Filename",), "apex": ("Apex Frame", "ApexF"), "extra": ("Extra",)}
NEEDED = ("subject", "clip", "apex")
ROWS = [["Subject", "Filename", None, "ApexFrame"], ["006", "a ", None, 5], [], [7, "b", None, 6.0]]


def cells(path, **kwargs):
    _, _, rows = read_table(read_workbook(path), COLUMNS, NEEDED, **kwargs)
    return [(r.number, r.index, r.text("subject"), r.text("clip"), r.text("apex"), r.text("extra")) for r in rows]


EXPECTED = [(2, 0, "006", "a", "5", ""), (4, 1, "7", "b", "6", "")]


def test_the_same_table_from_every_kind_of_file(tmp_path):
    assert cells(trees.write_xlsx(tmp_path / "a.xlsx", {"s": ROWS})) == EXPECTED
    assert cells(trees.write_xls(tmp_path / "a.xls", {"s": ROWS})) == EXPECTED
    # An xlsx file that somebody named xls.
    assert cells(trees.write_xlsx(tmp_path / "b.xls", {"s": ROWS})) == EXPECTED
    csv = tmp_path / "a.csv"
    csv.write_text("\ufeffSubject,Filename,,apex_frame\r\n006,a ,,5\r\n,,,\r\n7,b,,6\r\n", encoding="utf-8")
    assert cells(csv) == EXPECTED
    csv.write_bytes("Subject;Filename;ApexF;备注\n006;a;5;无\n".encode("gb18030"))
    assert cells(csv) == EXPECTED[:1]


def test_the_header_is_searched_under_a_preamble(tmp_path):
    preamble = [[f"note {i}"] for i in range(13)]
    sheets = {"empty": [], "CODES": preamble + ROWS, "later": ROWS[:1]}
    assert [c[0] for c in cells(trees.write_xlsx(tmp_path / "a.xlsx", sheets))] == [15, 17]


def test_worksheets_by_name(tmp_path):
    path = trees.write_xlsx(tmp_path / "a.xlsx", {"first": ROWS, "Label ": [*ROWS[:1], ["1", "z", None, 9]]})
    assert cells(path, worksheet="label")[0][3] == "z"
    with pytest.raises(UserError, match="no worksheet 'other'; found 'first', 'Label '"):
        cells(path, worksheet="other")


def test_missing_columns_are_named(tmp_path):
    path = trees.write_xlsx(tmp_path / "a.xlsx", {"s": [["Subject", "Filename", "Peak"], ["1", "a", 5]]})
    with pytest.raises(UserError, match=r"a\.xlsx \[s\], row 1: missing column 'Apex Frame'; found 'Subject', 'File"):
        cells(path)
    with pytest.raises(UserError, match="no header row"):
        cells(trees.write_xlsx(tmp_path / "b.xlsx", {"s": [["something", "else"]]}))


def test_formulas_give_their_stored_values(tmp_path):
    path = trees.add_formulas(trees.write_xlsx(tmp_path / "a.xlsx", {"HS": ROWS, "other": [[1]]}), 1)
    assert cells(path)[0][4] == "5"
    lost = trees.add_formulas(trees.write_xlsx(tmp_path / "b.xlsx", {"HS": ROWS}), 1, keep_values=False)
    _, _, rows = read_table(read_workbook(lost), COLUMNS, NEEDED)  # nobody may need these cells
    with pytest.raises(
        UserError, match=r"b\.xlsx \[HS\], row 2, column 'apex': found '\(formula without a stored value"
    ):
        rows[0].frame("apex")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"none\.xlsx: cannot read"):
        read_workbook(tmp_path / "none.xlsx")
    path = trees.write_xlsx(tmp_path / "a.xlsx", {"s": ROWS})
    trees.truncate(path)
    with pytest.raises(UserError, match=r"a\.xlsx: a damaged xlsx"):
        read_workbook(path)
    path.write_bytes(b"PK\x03\x04 nothing of a zip")
    with pytest.raises(UserError, match=r"a\.xlsx"):
        read_workbook(path)
    (tmp_path / "b.xls").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 broken")
    with pytest.raises(UserError, match=r"b\.xls: cannot be read as an annotation sheet"):
        read_workbook(tmp_path / "b.xls")
    (tmp_path / "c.xlsx").write_text("<html>please log in</html>")
    with pytest.raises(UserError, match=r"c\.xlsx: cannot be read"):
        read_workbook(tmp_path / "c.xlsx")
    (tmp_path / "d.xlsx").write_bytes(b"")
    with pytest.raises(UserError, match="0 bytes"):
        read_workbook(tmp_path / "d.xlsx")
    with pytest.raises(UserError, match="every cell"):
        read_workbook(trees.write_xlsx(tmp_path / "e.xlsx", {"s": []}))
    import zipfile

    with zipfile.ZipFile(tmp_path / "f.xlsx", "w") as archive:
        archive.writestr("readme.txt", "not a workbook")
    with pytest.raises(UserError, match=r"f\.xlsx: cannot be read"):
        read_workbook(tmp_path / "f.xlsx")
