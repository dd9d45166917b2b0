"""FERV39k from a tiny tree in the distributed layout."""

import pytest

from mer_jax.data import frames as frames_lib
from mer_jax.errors import UserError
from tests.tfds_builders import trees


def test_split(tmp_path):
    data = tmp_path / "data"
    split = data / "4_setups/All_scenes/train_All.csv"
    split.parent.mkdir(parents=True)
    split.write_text("Action/Happy/0267 0\nDaily Life/Neutral/0267 2\nAction/Fear/0001 6\n")
    trees.write_frames(data / "2_ClipsforFaceCrop/Action/Happy/0267", range(1, 12), "0267_{}.jpg")
    trees.write_frames(data / "2_ClipsforFaceCrop/Daily Life/Neutral/0267", range(1, 3), "0267_{}.jpg")
    odd = trees.write_image(
        data / "2_ClipsforFaceCrop/Daily Life/Neutral/0267/0267_2.jpg", trees.frame(2, 1, height=20, width=18)
    )
    clips, skipped, report = trees.run_builder("ferv39k", "train", data, tmp_path / "out")
    assert [(c, r.emotion, r.expression_type, r.cohort) for c, r in clips.items()] == [
        ("ferv39k_train/Action_Happy_0267/Action_Happy_0267", "happy", "macro", "ferv39k"),
        ("ferv39k_train/Daily Life_Neutral_0267/Daily Life_Neutral_0267", "neutral", "neutral", "ferv39k"),
    ]
    frames = clips["ferv39k_train/Daily Life_Neutral_0267/Daily Life_Neutral_0267"].frames
    assert frames[0] == odd.with_name("0267_1.jpg").read_bytes()
    assert frames_lib.decode(frames[1]).shape == (10, 12, 3)  # scaled to the size of the first frame
    assert "no folder Action/Fear/0001" in skipped[0].reason
    assert report.rows == 3
    with pytest.raises(UserError, match=r"no file 'All_scenes/test_All\.csv'"):
        trees.run_builder("ferv39k", "test", data, tmp_path / "out")
    for text, message in (
        ("Action/Happy/0267 0\nAction/Sad/0001 0\n", "line 2: label 0 is Sad here and happy before"),
        ("Action/Joy/0267 0\n", "line 1: unknown label 'Joy'"),
        ("Happy 0\n", "line 1: found 'Happy 0', expected"),
        ("\n", "no line"),
    ):
        split.write_text(text)
        with pytest.raises(UserError, match=message):
            trees.run_builder("ferv39k", "train", data, tmp_path / "out")
