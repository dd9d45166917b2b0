"""DFME from a tiny tree."""

import pytest

from mer_jax.errors import UserError
from tests.tfds_builders import trees


def test_positions_count_from_0(tmp_path):
    data = tmp_path / "data"
    rows = [
        ["sub0003", "sub0003_01", 0, 2, 5, "disgust", 2, 500, "4+AD38+M57"],
        ["sub0003", "sub0003_02", 1, 2, 3, "happiness", 4, 200, "L12"],
        ["sub0004", "sub0004_01", 1, 2, 9, "fear", 3, 300, "1"],
        ["sub0005", "sub0005_01", 1, 2, 9, "fear", 3, 300, "1"],
    ]
    trees.write_xlsx(data / "training_full_with_AU.xlsx", {"Sheet1": [trees.DFME, *rows]})
    trees.write_frames(data / "train/sub0003_01", range(100, 106), "{:05d}.png")
    trees.write_frames(data / "train/sub0003/sub0003_02", range(1, 12), "{}.png")
    trees.write_frames(data / "train/sub0004_01", range(1, 7), "{}.png")
    clips, skipped, report = trees.run_builder("dfme", "train", data, tmp_path / "out")
    assert [(c, r.onset, r.apex, r.offset, r.fps, r.emotion) for c, r in clips.items()] == [
        ("dfme/sub0003/sub0003_01", 0, 2, 5, 500.0, "disgust"),
        ("dfme/sub0003/sub0003_02", 1, 2, 3, 200.0, "happiness"),
        ("dfme/sub0004/sub0004_01", 1, 2, 5, 300.0, "fear"),
    ]
    assert trees.numbers_of(clips["dfme/sub0003/sub0003_02"]) == list(range(1, 12))
    assert trees.units_of(clips["dfme/sub0003/sub0003_01"]) == [4, 38, 57]
    assert len(skipped) == 1
    assert [(c["field"], c["found"], c["used"]) for c in report.corrected] == [("offset", "9", "5")]
    with pytest.raises(UserError, match=r"(?s)no annotation sheet 'testA_full\*'.*arXiv 2301\.00985"):
        trees.run_builder("dfme", "test_a", data, tmp_path / "out")
    rows[0][7] = "fast"
    trees.write_xlsx(data / "training_full_with_AU.xlsx", {"Sheet1": [trees.DFME, *rows]})
    with pytest.raises(UserError, match="column 'fps': found 'fast'"):
        trees.run_builder("dfme", "train", data, tmp_path / "out")
