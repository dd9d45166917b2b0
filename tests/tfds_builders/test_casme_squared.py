"""CAS(ME)^2 from a tiny tree in the distributed layout."""

import pytest

from mer_jax.errors import UserError
from tests.tfds_builders import trees

ROWS = [
    [1, "anger1_1", 50, 55, 60, "4+7", "negative", "macro-expression", "anger"],
    [1, "anger1_2", 0, 0, 8, "4", "negative", "micro-expression", "anger"],
    [2, "happy1_1", 20, 25, 0, "L12", "Positive", "micro-expression", "happiness"],
    [2, "disgust1_1", 20, 25, 30, "9", "negative", "macro-expression", "disgust"],
    [2, "happy1_2", 500, 505, 510, "12", "positive", "macro-expression", "happiness"],
]


@pytest.fixture
def tree(tmp_path):
    data = tmp_path / "data"
    trees.casme_squared_sheet(data / "CAS(ME)^2code_final.xlsx", ROWS)
    trees.write_frames(data / "rawpic/s15/15_0401angerfromtheft", range(1, 100), "img{:03d}.jpg")
    trees.write_frames(data / "rawpic/s15/15_0101disgustingteeth", range(1, 5), "img{:03d}.jpg")
    trees.write_frames(data / "rawpic/s16/16_0505funnyerrors", range(1, 41), "img{:03d}.jpg")
    trees.write_frames(data / "cropped/s15/15_0401angerfromtheft", range(1, 100), "img{:03d}.jpg")
    return data


def test_micro(tree, tmp_path):
    clips, skipped, report = trees.run_builder("casme_squared", "micro", tree, tmp_path / "out")
    assert [(c, len(r.frames), r.onset, r.apex, r.offset, r.apex_source) for c, r in clips.items()] == [
        # Frame 0 does not exist: frames 1 to 8 and a margin of 15.
        ("casme_squared/s15/anger1_2/0", 23, 0, 3, 7, "imputed"),
        ("casme_squared/s16/happy1_1/20", 36, 15, 20, 20, "annotated"),
    ]
    assert {(r.dataset, r.cohort, r.fps, r.expression_type) for r in clips.values()} == {
        ("casme_squared", "casme_squared", 30.0, "micro")
    }
    assert [r.emotion for r in clips.values()] == ["negative", "positive"]
    assert not skipped
    assert report.rows == 2
    assert {(c["field"], c["found"], c["used"]) for c in report.corrected} >= {
        ("offset", "0", "25"),
        ("onset", "0", "1"),
    }
    assert report.notes["self_reports"]["s16/happy1_1/20"] == "happiness"


def test_macro_shares_the_cohort(tree, tmp_path):
    clips, skipped, _ = trees.run_builder("casme_squared", "macro", tree, tmp_path / "out")
    (clip,) = clips.values()
    assert (clip.clip, clip.dataset, clip.cohort) == (
        "casme_squared_macro/s15/anger1_1/50", "casme_squared_macro", "casme_squared",
    )  # fmt: skip
    assert (len(clip.frames), clip.onset, clip.apex, clip.offset) == (41, 15, 20, 25)
    assert clip.frames[15] == (tree / "rawpic/s15/15_0401angerfromtheft/img050.jpg").read_bytes()
    assert "no folder with the code 0101" in skipped[0].reason
    assert "no frame from 500 to 510" in skipped[1].reason
    clips, skipped, _ = trees.run_builder("casme_squared", "macro_cropped", tree, tmp_path / "out")
    assert len(clips) == 1


def test_bad_trees(tree, tmp_path):
    trees.write_frames(tree / "rawpic/s15/15_0401again", [1], "img{:03d}.jpg")
    with pytest.raises(UserError, match=r"15_0401again, 15_0401angerfromtheft all carry the code 0401"):
        trees.run_builder("casme_squared", "micro", tree, tmp_path / "out")
    with pytest.raises(UserError, match=r"(?s)no annotation sheet.*three worksheets.*rawpic/s15"):
        trees.run_builder("casme_squared", "micro", tree / "rawpic", tmp_path / "out")
