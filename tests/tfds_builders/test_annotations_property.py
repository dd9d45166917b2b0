"""Whole sheets of random cells: a value or our error with the file, never an exception of Python's own; no row lost."""

import csv
import io

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mer_jax.errors import UserError
from tfds_builders.common import annotations
from tfds_builders.common.report import BuildReport
from tfds_builders.common.sheet_formats import FORMATS

CELLS = st.one_of(
    st.sampled_from(
        ["", "1", "01", "006", "spNO.1", "sub0003", "S01", "EP02_01f", "46", "59", "86", "/", "\\", "0", "4+L10", "?",
         "12.5", "disgust", "Surprise ", "Macro", "Micro - 1/2", "III", "nan", "-3", "1e9", "9" * 30, "2014-05-08"]
    ),
    st.text(max_size=8),
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_sheet_is_read_or_refused_by_name(tmp_path, data):
    dataset = data.draw(st.sampled_from(sorted(FORMATS)))
    form = FORMATS[dataset]
    header = [form.columns[c][0] for c in form.columns]
    rows = data.draw(st.lists(st.lists(CELLS, min_size=len(header), max_size=len(header)), max_size=5))
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    path = tmp_path / "sheet.csv"
    path.write_text(text.getvalue(), encoding="utf-8", errors="replace")
    try:
        read = annotations.read(dataset, path)
        usable = read.usable()
        report = BuildReport()
        usable.tell(report)
        report.clips = len(usable.rows)
        report.to_json()  # refuses a lost row
        assert len(read.rows) + len(read.skipped) == read.sheet_rows
        assert all(row.onset is not None or form.folder_decides or "onset" not in form.columns for row in usable.rows)
        read.summary()
        read.check()
    except UserError as error:
        if "sheet.csv" not in str(error):
            raise


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.sampled_from([".csv", ".xls", ".xlsx"]))
def test_any_file_is_read_or_refused_by_name(tmp_path, content, suffix):
    path = tmp_path / f"sheet{suffix}"
    path.write_bytes(content)
    try:
        annotations.read("casme2", path)
    except UserError as error:
        if path.name not in str(error):
            raise
