"""The sheets of the datasets, written by the tests with the real columns, header rows and quirks."""

from collections import Counter

import numpy as np
import pytest

from mer_jax.errors import UserError
from tests.tfds_builders import trees
from tfds_builders.common import annotations
from tfds_builders.common.report import BuildReport

COUNTS_2014 = {
    "others": 99, "disgust": 63, "happiness": 32, "repression": 27, "surprise": 25, "sadness": 7, "fear": 2,
}  # fmt: skip


def casme2_rows(counts):
    words = [word for word, count in counts.items() for _ in range(count)]
    return [
        [i % 26 + 1, f"EP{i // 26:02d}_{i:02d}f", None, 10, 20 + i % 5, 60, None, 4, word]
        for i, word in enumerate(words)
    ]


def find(read, clip):
    (row,) = [r for r in read.rows if r.clip == clip]
    return row


def test_casme2_of_2014(tmp_path):
    rows = casme2_rows(COUNTS_2014)
    rows[0] = ["4", "EP12_01f", None, 261, "/", 321, None, "4+7+L10", "disgust"]
    rows[1] = [5.0, "EP09_05f", None, 69, 69, 123, None, "R2+15 ", "Disgust "]
    rows[2] = ["01", "EP19_05f", None, 396, 416, 446, None, "?", "others"]
    counts = Counter(r[8].strip().lower() for r in rows)
    read = annotations.read("casme2", trees.write_xlsx(tmp_path / "CASME2-coding-20140508.xlsx", {
        "Sheet1": [trees.CASME2_2014, *rows], "Sheet2": [], "Sheet3": []
    })).check()  # fmt: skip
    assert (read.version, read.sheet_rows, len(read.rows)) == ("2014", 255, 255)
    assert Counter(r.emotion for r in read.rows) == counts
    assert {len(r.subject) for r in read.rows} == {2}
    first, second, third = read.rows[:3]
    assert (first.subject, first.clip, first.onset, first.apex, first.offset) == ("04", "EP12_01f", 261, None, 321)
    assert first.apex_source == "missing"
    assert first.action_units.numbers() == (4, 7, 10)
    assert (second.subject, second.apex, second.apex_source, second.emotion) == ("05", 69, "annotated", "disgust")
    assert (third.subject, third.action_units.complete) == ("01", False)
    assert not read.corrected
    assert "version 2014" in read.summary()


def test_casme2_of_2019_and_copies_that_are_neither(tmp_path):
    counts = COUNTS_2014 | {"surprise": 28, "sadness": 4}
    rows = [[*row, "III"] for row in casme2_rows(counts)]
    read = annotations.read("casme2", trees.write_xlsx(tmp_path / "a.xlsx", {"s": [trees.CASME2_2019, *rows]}))
    assert read.version == "2019"
    assert {r.objective_class for r in read.rows} == {"III"}
    mixed = [[*row, 3] for row in casme2_rows(COUNTS_2014)]
    read = annotations.read("casme2", trees.write_xlsx(tmp_path / "b.xlsx", {"s": [trees.CASME2_2019, *mixed]}))
    assert read.version == "unknown: header of 2019, 255 rows, surprise 25"
    assert {r.objective_class for r in read.rows} == {"III"}


def test_the_wrong_sheet_is_refused(tmp_path):
    objective = trees.write_xlsx(
        tmp_path / "CASME2-ObjectiveClasses.xlsx",
        {"s": [["Subject", "Filename", "Objective Class"], [1, "EP02_01f", 1]]},
    )
    with pytest.raises(UserError, match=r"missing column 'OnsetFrame', 'ApexFrame'.*is this the right sheet"):
        annotations.read("casme2", objective)
    read = annotations.read("casme2_objective", objective).check()
    assert (read.rows[0].subject, read.rows[0].objective_class) == ("01", "I")
    with pytest.raises(UserError, match="missing column"):
        annotations.read("samm_long_videos", trees.samm_sheet(tmp_path / "samm.xlsx", []))
    with pytest.raises(UserError, match="unknown annotation format 'casme4'"):
        annotations.read("casme4", objective)


def test_casme(tmp_path):
    rows = [
        [1, "EP01_5", None, 100, 120, None, 149, None, 1000, 800, "4+9", "disgust"],
        [35, "EP02_1", None, 7, 9, 12, 20, None, 10, 20, 14, "tense"],
        [2, "EP02_2", None, 7, "\\", None, 20, None, 10, 20, "\\", "Repression "],
    ]
    read = annotations.read(
        "casme", trees.write_xls(tmp_path / "CASME-coded-20190721.xls", {"a": [trees.CASME, *rows]})
    )
    read.check()
    assert [(r.subject, r.clip, r.onset, r.apex, r.offset) for r in read.rows] == [
        ("01", "EP01_5", 100, 120, 149),
        ("35", "EP02_1", 7, 9, 20),
        ("02", "EP02_2", 7, None, 20),
    ]
    assert read.rows[1].cells["apex2"] == "12"
    assert (read.rows[2].emotion, read.rows[2].action_units.complete) == ("repression", False)


def test_casme_positions_hold_for_the_sheet_of_189_rows_only(tmp_path):
    def sheet(count):
        rows = [[1, f"EP{i}_1", None, 10, 15, None, 20, None, 1, 1, 4, "tense"] for i in range(count)]
        rows[40][3:7] = [120, 15, None, 20]
        return annotations.read("casme", trees.write_xlsx(tmp_path / f"{count}.xlsx", {"s": [trees.CASME, *rows]}))

    mended = sheet(189).check().rows[40]
    assert (mended.onset, mended.apex, mended.offset, mended.apex_source) == (100, 120, 149, "corrected")
    assert {c.field for c in sheet(189).corrected} == {"onset", "apex", "offset"}
    kept = sheet(193).check().rows[40]  # other positions: nothing is changed, the clip's folder will tell
    assert (kept.onset, kept.apex, kept.offset) == (120, 15, 20)
    assert not sheet(193).corrected


def samm_row(subject, clip, onset, apex, offset, units="12", emotion="Anger", objective=7):
    return [subject, clip, 2, onset, apex, offset, None, "Micro - 1/2", units, emotion, objective, None]


def test_samm_under_its_preamble_and_stripped(tmp_path):
    rows = [
        samm_row("006", "006_1_2", 5562, 5588, 5632, "4+7 ", "Anger", 7),
        samm_row(7, "007_4_2", 5900, 5943, 5999, "L12 or L14", "Other", 1),
        samm_row("028", "028_4_1", 1071, 1143, 1134, "R14+17+soft focus", "Contempt"),
        samm_row("032", "032_3_1", 4896, 1930, 4970),
        samm_row("013", "013_1_9", 5658, 5680, 5793),
        samm_row("014", "014_1_1", 100, 90, 130),
    ]
    full = annotations.read("samm", trees.samm_sheet(tmp_path / "SAMM_Micro_FACS_Codes_v2.xlsx", rows)).check()
    assert full.version == "as distributed (13 rows above the header)"
    stripped = annotations.read("samm", trees.samm_sheet(tmp_path / "SAMM.xlsx", rows, 0, "Sheet1")).check()
    assert stripped.version == "stripped (header in row 1)"
    assert [(r.subject, r.clip, r.apex, r.emotion) for r in full.rows] == [
        (r.subject, r.clip, r.apex, r.emotion) for r in stripped.rows
    ]
    assert full.rows[0].where.endswith("[MICRO_ONLY], row 15")
    assert [(r.subject, r.emotion, r.objective_class) for r in full.rows[:2]] == [
        ("006", "anger", "VII"), ("007", "other", "I"),
    ]  # fmt: skip
    assert [(r.apex, r.offset, r.apex_source) for r in full.rows] == [
        (5588, 5632, "annotated"), (5943, 5999, "annotated"), (1124, 1134, "corrected"), (4930, 4970, "corrected"),
        (5680, 5739, "annotated"), (100, 130, "corrected"),
    ]  # fmt: skip
    assert [(c.field, c.found, c.used) for c in full.corrected] == [
        ("apex", "1143", "1124"), ("apex", "1930", "4930"), ("offset", "5793", "5739"), ("apex", "90", "100"),
    ]  # fmt: skip
    assert all(c.reason for c in full.corrected)


def test_samm_copies_that_are_mended_already_pass_unchanged(tmp_path):
    rows = [samm_row("028", "028_4_1", 1071, 1134, 1134), samm_row("032", "032_3_1", 4896, 4930, 4970)]
    read = annotations.read("samm", trees.samm_sheet(tmp_path / "a.xlsx", rows)).check()
    assert not read.corrected
    assert [r.apex_source for r in read.rows] == ["annotated", "annotated"]


def test_samm_long_videos(tmp_path):
    rows = [
        ["006", "006_1_1", 1, 100, 150, 200, 101, "Macro", "4+7", None],
        ["006", "006_1_2", 1, 300, 320, 340, 41, "Micro - 1/2", "12A", None],
        ["007", "007_5_1", 1, 300, 0, 340, 41, "Macro", "?", None],
        ["007", "007_5_2", 1, 300, 320, 0, 41, "Macro", "?", None],
        ["007", "007_5_3", 1, 300, 0, 0, 41, "Macro", "?", None],
    ]
    notes = [["note"]] * 10
    path = trees.write_xlsx(tmp_path / "SAMM_LongVideos_V1_Release.xlsx", {"s": [*notes, trees.SAMM_LONG, *rows]})
    read = annotations.read("samm_long_videos", path)
    with pytest.raises(UserError, match=r"row 16 \(007/007_5_3\): onset 300 is after offset 0"):
        read.check()
    read = read.usable().check()
    assert [(r.expression_type, r.apex, r.emotion) for r in read.rows] == [
        ("macro", 150, ""), ("micro", 320, ""), ("macro", None, ""), ("macro", 320, ""),
    ]  # fmt: skip
    assert read.rows[3].offset == 320  # an offset of 0 stands for the apex
    assert ["onset 300 is after offset 0" in s.reason for s in read.skipped] == [True]


def test_smic_e_with_formulas_footnotes_and_incomplete_rows(tmp_path):
    def row(subject, clip, onset, offset, emotion):
        return [subject, clip, None, onset, offset, None, None, None, None, None, 1, 99, 1, 1, -5, 99, emotion]

    hs = [
        trees.SMIC_E,
        row("s01", "s1_ne_01", 12, 34, "negative"),
        row("s20", "s20_sur_02", 12, 34, "Surprise"),
        row("s03", "s3_ne_20", 12, None, "negative"),
        [],
        ["Note: OnsetF is the onset of the first event"],
        [None, None, None, None, None, None, None, None, None, None, None, "LastF: last frame"],
    ]
    path = trees.write_xlsx(
        tmp_path / "SMIC-HS-E_annotation.xlsx",
        {"HS": hs, "VIS": [trees.SMIC_E, row("s11", "s11_po_01", 1, 2, "positive")]},
    )
    read = annotations.read("smic_e", trees.add_formulas(path, 1)).check()
    assert [(r.subject, r.clip, r.onset, r.offset, r.emotion, r.apex_source) for r in read.rows] == [
        ("s01", "s1_ne_01", 12, 34, "negative", "missing"),
        ("s20", "s20_sur_02", 12, 34, "surprise", "missing"),
    ]
    assert read.sheet_rows == 5
    assert ["offset" in s.reason or "note" in s.reason for s in read.skipped] == [True] * 3
    assert annotations.read("smic_e", path, "VIS").rows[0].subject == "s11"
    report = BuildReport()
    read.tell(report)
    assert (report.rows, len(report.skipped)) == (5, 3)


def test_casme_squared(tmp_path):
    rows = [
        [1, "anger1_1", 557, 572, 608, "4+7", "negative", "macro-expression", "anger"],
        [2, "happy1_2", 0, 0, 30, "L12", "Positive", "micro-expression", "happiness"],
        [2, "disgust1_3", 10, 15, 0, "4", "negative", "macro-expression", "disgust"],
        [2, "disgust1_4", 10, 9, 20, "4", "others", "macro-expression", "pain"],
    ]
    read = annotations.read(
        "casme_squared", trees.casme_squared_sheet(tmp_path / "CAS(ME)^2code_final.xlsx", rows)
    ).check()
    assert [(r.subject, r.clip, r.onset, r.apex, r.offset, r.apex_source) for r in read.rows] == [
        ("s15", "anger1_1", 557, 572, 608, "annotated"),
        ("s16", "happy1_2", 0, 15, 30, "imputed"),
        ("s16", "disgust1_3", 10, 15, 15, "annotated"),
        ("s16", "disgust1_4", 10, 10, 20, "corrected"),
    ]
    assert [r.cells["video"] for r in read.rows] == ["0401", "0505", "0101", "0101"]
    assert [r.expression_type for r in read.rows] == ["macro", "micro", "macro", "macro"]
    assert (read.rows[1].emotion, read.rows[1].cells["self_report"]) == ("positive", "happiness")
    assert {c.field for c in read.corrected} == {"offset", "apex"}
    bad = [[9, "anger1_1", 1, 2, 3, "4", "negative", "macro-expression", "x"]]
    with pytest.raises(UserError, match=r"row 1, column 'subject': found '9', which worksheet 'naming rule1'"):
        annotations.read("casme_squared", trees.casme_squared_sheet(tmp_path / "b.xlsx", bad)).check()
    bad = [[1, "sad1_1", 1, 2, 3, "4", "negative", "macro-expression", "x"]]
    with pytest.raises(UserError, match="has no stimulus 'sad1'"):
        annotations.read("casme_squared", trees.casme_squared_sheet(tmp_path / "c.xlsx", bad)).check()
    with pytest.raises(UserError, match="no worksheet 'CASFEcode_final'; found 's'"):
        annotations.read("casme_squared", trees.write_xlsx(tmp_path / "d.xlsx", {"s": rows}))


def test_casme3_part_a(tmp_path):
    rows = [
        ["spNO.1", "b", 166, 175, 179, "4", "III", "disgust"],
        ["spNO.1", "b", 266, 275, 279, "R2+R1", "II", "surprise"],
        ["SPNO.39", "J", 10, 12, 14, "38", "VII", "Others"],
        ["spNO.149", "d", 112, 83, 358, "T28+14", "VII", "fear"],
        ["spNO.216", "d", 3647, 2655, 2660, "9+4+14", "VII", "sad"],
        ["spNO.216", "e", 0, 0, 12, "4", "III", "happy"],
        ["spNO.40", "e", 1812, 1820, 0, "4", "III", "anger"],
        ["spNO.40", "e", 2327, 2330, 0, "4", "III", "anger"],
        ["spNO.214", "c", 5, 9, 3460, "4", "III", "anger"],
    ]
    path = trees.write_xlsx(
        tmp_path / "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx",
        {"label": [trees.CASME3, *rows], "Sheet2": [], "Sheet3": []},
    )
    read = annotations.read("casme3", path).check()
    assert read.version == "v2"
    assert [(r.subject, r.clip, r.onset, r.apex, r.offset, r.apex_source) for r in read.rows] == [
        ("spNO.1", "b", 166, 175, 179, "annotated"),
        ("spNO.1", "b", 266, 275, 279, "annotated"),
        ("spNO.39", "J", 10, 12, 14, "annotated"),
        ("spNO.149", "d", 112, 160, 358, "corrected"),
        ("spNO.216", "d", 2647, 2655, 2660, "annotated"),
        ("spNO.216", "e", 1, 1, 12, "corrected"),
        ("spNO.40", "e", 1812, 1820, 1845, "annotated"),
        ("spNO.40", "e", 2327, 2330, 2403, "annotated"),
        ("spNO.214", "c", 5, 9, 34, "annotated"),
    ]
    assert len(read.corrected) == 7
    assert read.rows[2].emotion == "others"
    twice = trees.write_xlsx(tmp_path / "twice.xlsx", {"label": [trees.CASME3, rows[0], rows[0]]})
    with pytest.raises(UserError, match=r"row 3: clip 'b' of subject 'spNO\.1' stands in the sheet twice"):
        annotations.read("casme3", twice).check()


def test_casme3_other_parts(tmp_path):
    rows = [
        ["spNO.1", "b", 166, 175, 179, 4, "Micro-expression", "III"],
        ["spNO.1", "b", 300, 0, 379, "12", "Macro-expression", "I"],
    ]
    read = annotations.read(
        "casme3_macro",
        trees.write_xls(tmp_path / "CAS(ME)3_part_A_v2.xls", {"AU+Emotion": [trees.CASME3_MACRO, *rows]}),
    ).check()
    assert [(r.expression_type, r.apex_source, r.emotion) for r in read.rows] == [
        ("micro", "annotated", ""), ("macro", "missing", ""),
    ]  # fmt: skip
    rows = [[1, 1, 100, 121, "4,45,", "negative"], [2, 3, 7, 9, "4，11", "others"], [2, 4, 17, 19, "13?", "surprise"]]
    read = annotations.read("casme3_c", trees.write_xlsx(tmp_path / "c.xlsx", {"s": [trees.CASME3_C, *rows]})).check()
    assert [(r.subject, r.clip, r.apex, r.apex_source) for r in read.rows] == [
        ("01", "1", 110, "imputed"), ("02", "3", 8, "imputed"), ("02", "4", 18, "imputed"),
    ]  # fmt: skip
    assert [r.action_units.numbers() for r in read.rows] == [(4, 45), (4, 11), (13,)]
    assert read.rows[2].action_units.vectors()[0][13] == -1


def test_mmew(tmp_path):
    rows = [[1, f"S01-01-{i:03d}", 1, 15, 31, "6+12", "happiness", None] for i in range(300)]
    rows[33][3:5] = [None, None]
    rows[35][3:5] = [80, 54]
    rows[36][6] = "others"
    read = annotations.read("mmew", trees.write_xlsx(tmp_path / "MMEW_Micro_Exp.xlsx", {"s": [trees.MMEW, *rows]}))
    assert not read.problems
    assert [(r.subject, r.apex, r.offset, r.apex_source) for r in (read.rows[33], read.rows[35], read.rows[36])] == [
        ("S01", 40, 75, "corrected"), ("S01", 15, 54, "corrected"), ("S01", 15, 31, "annotated"),
    ]  # fmt: skip
    assert read.rows[36].emotion == "others"


def test_fourdme(tmp_path):
    def row(i, units="AU4(k)+AU7", emotion="Surprise+Positive", clip=None):
        return ["S01", clip or f"S01_1st_{i:03d}", emotion, 1, 5, 9, units, 1, 0, 0, 0, 0, 0, 0, 1, 1, "happy"]

    rows = [row(i) for i in range(267)]
    rows[144], rows[145] = row(144, "AU1"), row(145, "AU12", "Others ")
    rows[0] = row(0, clip="S13_1st_001_01_1")
    path = trees.write_xlsx(tmp_path / "4DME_Labelling_Micro_release v1.xlsx", {"s": [trees.FOURDME, *rows]})
    read = annotations.read("fourdme", path).check()
    assert (len(read.rows), len(read.skipped), len(read.corrected)) == (266, 1, 2)
    assert [find(read, f"S01_1st_{i}").action_units.numbers() for i in (144, 145)] == [(12,), (1,)]
    assert [find(read, f"S01_1st_{i}").emotion for i in (144, 145)] == ["surprise+positive", "others"]
    assert read.rows[0].action_units.vectors()[0][4] == -1


def test_dfme(tmp_path):
    rows = [["sub0003", "sub0003_01", 0, 12, 40, "disgust", 2, 500, "4+AD38+M57"]]
    read = annotations.read("dfme", trees.write_xlsx(tmp_path / "training.xlsx", {"s": [trees.DFME, *rows]})).check()
    row = read.rows[0]
    assert (row.subject, row.clip, row.onset, row.cells["fps"]) == ("sub0003", "sub0003_01", 0, "500")
    assert list(np.flatnonzero(row.action_units.vectors()[0])) == [4, 38, 57]


@pytest.mark.parametrize(
    ("cell", "value", "message"),
    [
        (1, None, r"column 'clip': found a blank cell"),
        (0, "everybody", r"column 'subject': found 'everybody', expected a subject such as '01'"),
        (3, "about 40", r"a\.xlsx \[s\], row 2, column 'onset': found 'about 40', expected a frame number"),
        (3, 4.5, "expected a frame number"),
        (3, None, r"row 2, column 'onset': found '', expected a frame number"),
        (5, "/", r"row 2, column 'offset': found '/'"),
        (3, 99, r"row 2 \(01/EP02_01f\): onset 99 is after offset 86"),
        (7, "4+123", r"row 2, column 'action_units': found '123'"),
        (8, "bored", r"row 2, column 'emotion': unknown label 'bored'; expected one of others, disgust"),
        (8, None, "unknown label ''"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used_are_kept_and_refused(tmp_path, cell, value, message):
    row = [1, "EP02_01f", None, 46, 59, 86, None, 12, "happiness"]
    row[cell] = value
    good = [2, "EP02_01f", None, 46, 59, 86, None, 12, "happiness"]
    read = annotations.read("casme2", trees.write_xlsx(tmp_path / "a.xlsx", {"s": [trees.CASME2_2014, row, good]}))
    assert len(read.rows) == 2
    assert not read.rows[1].problem
    with pytest.raises(UserError, match=message):
        read.check()


def test_many_problems_come_in_one_message(tmp_path):
    rows = [[1, f"EP{i}", None, 46, 59, 86, None, 12, "bored"] for i in range(30)]
    read = annotations.read("casme2", trees.write_xlsx(tmp_path / "a.xlsx", {"s": [trees.CASME2_2014, *rows]}))
    with pytest.raises(UserError, match=r"(?s)30 rows cannot be used:.*row 2,.*row 21,.*and 10 more"):
        read.check()
    empty = annotations.read("casme2", trees.write_xlsx(tmp_path / "b.xlsx", {"s": [trees.CASME2_2014]}))
    with pytest.raises(UserError, match="no row with a clip"):
        empty.check()


def test_command_line(tmp_path, capsys):
    path = trees.samm_sheet(tmp_path / "a.xlsx", [samm_row("006", "006_1_2", 5562, 5588, 5632, "4+7 ")])
    assert annotations.main(["samm", str(path)]) == 0
    out = capsys.readouterr().out
    assert "1 clips" in out
    assert "AU4 1, AU7 1" in out
    assert annotations.main(["samm", str(tmp_path / "none.xlsx")]) == 2
    assert "cannot read" in capsys.readouterr().err
    assert annotations.main([]) == 2
    bad = trees.samm_sheet(tmp_path / "b.xlsx", [samm_row("006", "006_1_2", 5562, 5588, 5632, "4", "Bored")])
    assert annotations.main(["samm", str(bad)]) == 2
