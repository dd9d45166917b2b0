"""CASME from a tiny tree in the distributed layout."""

import pytest

from mer_jax.errors import UserError
from tests.tfds_builders import trees

ROWS = [
    [1, "EP01_5", None, 9, 10, None, 12, None, 150, 50, "4+L9", "disgust"],
    [1, "EP03_1", None, 120, 15, None, 200, None, 1, 1, 14, "Tense "],
    [35, "EP01_5", None, 1, "\\", 3, 4, None, 1, 1, "?", "repression"],
    [35, "EP02_1", None, 10, 12, None, 4, None, 1, 1, "4", "fear"],
    [35, "EP03_1", None, 11, 12, None, None, None, 1, 1, "4", "fear"],
]


@pytest.fixture
def tree(tmp_path):
    trees.write_xls(tmp_path / "CASME-coded-20190721.xls", {"sheet": [trees.CASME, *ROWS]})
    raw = tmp_path / "CASME_raw_selected"
    trees.write_frames(raw / "sub01/EP01_5", range(8, 14), "EP01_5-{}.jpg")
    trees.write_frames(raw / "sub01/EP03_1", range(57, 66), "EP03_1-{}.jpg")
    trees.write_frames(raw / "sub35/EP01_5", range(1, 6), "EP01_5-{:03d}.jpg")
    trees.write_frames(raw / "sub35/EP02_1", range(8, 15), "EP02_1-{:03d}.jpg")
    trees.write_frames(raw / "sub35/EP03_1", range(8, 15), "EP03_1-{:03d}.jpg")
    trees.write_frames(tmp_path / "Cropped/sub01/EP01_5", range(8, 14), "reg_EP01_5-{}.jpg")
    return tmp_path


def test_raw(tree, tmp_path):
    clips, skipped, report = trees.run_builder("casme", "raw", tree, tmp_path / "out")
    assert list(clips) == [f"casme/{c}" for c in ("01/EP01_5", "01/EP03_1", "35/EP01_5", "35/EP02_1", "35/EP03_1")]
    assert not skipped
    one = clips["casme/01/EP01_5"]
    assert (one.dataset, one.subject, one.cohort, one.modality, one.fps) == ("casme", "01", "casme", "rgb", 60.0)
    assert (one.onset, one.apex, one.offset, one.apex_source) == (1, 2, 4, "annotated")
    assert (one.emotion, one.expression_type) == ("disgust", "micro")
    assert trees.units_of(one) == [4, 9]
    paths = [tree / f"CASME_raw_selected/sub01/EP01_5/EP01_5-{n}.jpg" for n in range(8, 14)]
    assert list(one.frames) == [p.read_bytes() for p in paths]  # numbers in order, bytes as distributed
    assert one.landmarks.shape == (6, 68, 2)
    last = clips["casme/35/EP01_5"]
    assert (last.onset, last.apex, last.offset, last.apex_source) == (0, -1, 3, "missing")
    assert (last.action_units == -1).all()
    assert report.notes["second_apex"] == {"35/EP01_5": "3"}


def test_the_folder_is_right_where_the_sheet_disagrees(tree, tmp_path):
    clips, _, report = trees.run_builder("casme", "raw", tree, tmp_path / "out")
    clip = clips["casme/01/EP03_1"]
    assert (clip.onset, clip.apex, clip.offset, clip.apex_source) == (0, 4, 8, "corrected")
    for name in ("EP02_1", "EP03_1"):  # the offset is before the onset, or missing: what the folder holds goes
        clip = clips[f"casme/35/{name}"]
        assert (clip.onset, clip.apex, clip.offset, clip.apex_source) == (3 - (name == "EP02_1"), 4, 6, "annotated")
    mended = [c for c in report.corrected if "EP03_1" in c["row"]]
    assert {(c["field"], c["found"], c["used"]) for c in mended} >= {("onset", "120", "57"), ("offset", "200", "65")}


def test_cropped_names_the_rows_without_folder(tree, tmp_path):
    clips, skipped, _ = trees.run_builder("casme", "cropped", tree, tmp_path / "out")
    assert list(clips) == ["casme/01/EP01_5"]
    assert [s.row.split("(")[1] for s in skipped] == ["01/EP03_1)", "35/EP01_5)", "35/EP02_1)", "35/EP03_1)"]
    assert "no folder sub35/EP01_5" in skipped[1].reason


def test_missing_folder_tells_how_to_obtain_it(tmp_path):
    trees.write_xls(tmp_path / "CASME-coded-20190721.xls", {"sheet": [trees.CASME, *ROWS]})
    with pytest.raises(UserError, match=r"(?s)no folder 'CASME_raw_selected'.*casme\.psych\.ac\.cn.*sub01/EP01_5"):
        trees.run_builder("casme", "raw", tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match=r"(?s)no annotation sheet.*CASME-coded-20190721\.xls"):
        trees.run_builder("casme", "raw", tmp_path / "none", tmp_path / "out")
