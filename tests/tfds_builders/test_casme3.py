"""CAS(ME)^3 from tiny trees in the distributed layouts."""

import pytest

from mer_jax.errors import UserError
from tests.tfds_builders import trees

ROWS = [
    ["spNO.1", "b", 30, 33, 36, "4", "III", "disgust"],
    ["spNO.1", "b", 44, 46, 50, "R2+R1", "II", "surprise"],
    ["spNO.39", "J", 3, 9, 12, "38", "VII", "Others"],
    ["spNO.216", "e", 0, 0, 12, "9+4+14", "III", "happy"],
]


@pytest.fixture
def tree(tmp_path):
    data = tmp_path / "data"
    sheet = data / "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx"
    trees.write_xlsx(sheet, {"label": [trees.CASME3, *ROWS], "Sheet2": [], "Sheet3": []})
    color = data / "part_A/spNo.1/b/color"
    trees.write_frames(color, [n for n in range(8, 80) if n not in (33, 34)], "{}.jpg")
    trees.truncate(color / "40.jpg")
    trees.write_frames(data / "part_A/spNo.39/j/color", range(8, 60), "{}.jpg")
    trees.write_frames(data / "part_A/spNo.39/j/depth", range(8, 60), "{}.png", channels=1)
    return data


def test_part_a_from_long_recordings(tree, tmp_path):
    clips, skipped, report = trees.run_builder("casme3", "a", tree, tmp_path / "out")
    assert [(c, len(r.frames), r.onset, r.apex, r.offset, r.apex_source) for c, r in clips.items()] == [
        ("casme3/spNO.1/b/30", 34, 15, 17, 19, "corrected"),
        ("casme3/spNO.1/b/44", 34, 12, 14, 18, "annotated"),
        ("casme3/spNO.39/J/3", 20, 0, 1, 4, "annotated"),
    ]
    first = clips["casme3/spNO.1/b/30"]
    paths = [tree / f"part_A/spNo.1/b/color/{n}.jpg" for n in range(15, 52) if n not in (33, 34, 40)]
    assert list(first.frames) == [p.read_bytes() for p in paths]
    assert {(r.dataset, r.cohort, r.fps, r.modality) for r in clips.values()} == {("casme3", "casme3", 30.0, "rgb")}
    assert [r.emotion for r in clips.values()] == ["disgust", "surprise", "others"]
    assert "no folder spNO.216/e" in skipped[0].reason
    fields = [(c["field"], c["found"]) for c in report.corrected]
    assert ("frames", "40.jpg") in fields  # a damaged image of the distribution
    assert ("apex", "33") in fields  # a gap of the distribution
    assert ("onset", "3") in fields  # the first frames do not exist
    assert report.notes["sheets"][0]["version"] == "v2"
    assert report.notes["objective_classes"]["casme3/spNO.1/b/44"] == "II"


def test_part_a_from_cut_clips(tree, tmp_path):
    (tree / "part_A").rename(tmp_path / "elsewhere")
    trees.write_frames(tree / "Part_A_ME_clip/frame/spNo.1_b_30", range(30, 37), "{}.jpg")
    trees.write_frames(tree / "Part_A_ME_clip/frame/spNo.216_e_0", range(1, 13), "{}.jpg")
    clips, skipped, _ = trees.run_builder("casme3", "a", tree, tmp_path / "out")
    assert [(c, r.onset, r.apex, r.offset, r.apex_source) for c, r in clips.items()] == [
        ("casme3/spNO.1/b/30", 0, 3, 6, "annotated"),
        ("casme3/spNO.216/e/1", 0, 0, 11, "corrected"),
    ]
    assert len(skipped) == 2


def test_version_1_is_the_wrong_sheet(tree, tmp_path):
    (tree / "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx").unlink()
    trees.write_xls(tree / "cas(me)3_part_A_ME_label_JpgIndex_v1.xls", {"label": [trees.CASME3, *ROWS]})
    with pytest.raises(UserError, match=r"wrong sheet version: found version 1 of part A .* expected version 2"):
        trees.run_builder("casme3", "a", tree, tmp_path / "out")


def test_part_a_macro(tree, tmp_path):
    rows = [
        ["spNO.1", "b", 44, 46, 50, 4, "Micro-expression", "III"],
        ["spNO.1", "b", 44, 0, 60, "12", "Macro-expression", "I"],
    ]
    trees.write_xls(tree / "CAS(ME)3_part_A_v2.xls", {"AU+Emotion": [trees.CASME3_MACRO, *rows]})
    clips, _, report = trees.run_builder("casme3", "a_macro", tree, tmp_path / "out")
    (clip,) = clips.values()
    assert (clip.clip, clip.dataset, clip.cohort, clip.expression_type) == (
        "casme3_macro/spNO.1/b/44", "casme3_macro", "casme3", "macro",
    )  # fmt: skip
    assert (clip.apex, clip.apex_source, clip.emotion) == (-1, "missing", "")
    assert report.rows == 1


def test_part_c(tmp_path):
    rows = [[1, 1, 20, 31, "4,45,", "negative"], [12, 2, 7, 9, "4，11", "others"]]
    trees.write_xlsx(tmp_path / "CAS(ME)3_part_C_ME.xlsx", {"s": [trees.CASME3_C, *rows]})
    trees.write_xlsx(tmp_path / "CAS(ME)3_part_C.xlsx", {"s": [["Subject", "Onset"]]})  # the authors: not this one
    trees.write_frames(tmp_path / "part_C/1/a/color", range(1, 60), "{}.jpg")
    clips, skipped, _ = trees.run_builder("casme3", "c", tmp_path, tmp_path / "out")
    assert [(c, r.onset, r.apex, r.offset, r.apex_source, r.cohort) for c, r in clips.items()] == [
        ("casme3_c/01/1/20", 15, 20, 26, "imputed", "casme3_c")
    ]
    assert trees.units_of(next(iter(clips.values()))) == [4, 45]
    assert len(skipped) == 1
