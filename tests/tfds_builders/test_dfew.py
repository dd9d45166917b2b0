"""DFEW from tiny trees of both releases."""

import pytest

from mer_jax.errors import UserError
from tests.tfds_builders import trees

SPLITS = {("train", 1): "1,1\n3,7\n", ("test", 1): "2,3\n", ("train", 2): "2,3\n3,7\n", ("test", 2): "1,1\n"}


def write_splits(folder, name):
    for (part, fold), lines in SPLITS.items():
        path = folder / name.format(part=part, fold=fold)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("video_name,label\n" + lines)


@pytest.mark.parametrize(
    ("frames", "splits", "name"),
    [
        ("Clip/jpg_256", "EmoLabel_DataSplit", "{part}(single-labeled)/set_{fold}.csv"),
        ("data_affine/single_label/data", "data_affine/single_label/label", "single_{part}set_{fold}.csv"),
    ],
)
def test_both_releases(tmp_path, frames, splits, name):
    data = tmp_path / "data"
    write_splits(data / splits, name)
    for clip in ("00001", "00002"):
        trees.write_frames(data / frames / clip, range(1, 13), clip + "_{:05d}.jpg")
    clips, skipped, report = trees.run_builder("dfew", "single", data, tmp_path / "out")
    assert [(c, r.subject, r.emotion, r.expression_type, r.apex) for c, r in clips.items()] == [
        ("dfew/00001/00001", "00001", "happy", "macro", -1),
        ("dfew/00002/00002", "00002", "neutral", "neutral", -1),
    ]
    assert [s.row for s in skipped] == ["00003"]
    assert report.notes["official_folds"] == {"dfew/00001/00001": 2, "dfew/00002/00002": 1}
    assert (report.rows, len(clips["dfew/00001/00001"].frames)) == (3, 12)


def test_bad_splits(tmp_path):
    data = tmp_path / "data"
    (data / "Clip/jpg_256").mkdir(parents=True)
    split = data / "EmoLabel_DataSplit/train(single-labeled)/set_1.csv"
    split.parent.mkdir(parents=True)
    split.write_text("video_name,label\n1,8\n")
    with pytest.raises(UserError, match=r"set_1\.csv, row 2: found clip '1' with label '8'; expected a number"):
        trees.run_builder("dfew", "single", data, tmp_path / "out")
    split.write_text("video_name,label\n1,1\n1,2\n")
    with pytest.raises(UserError, match="row 3: clip 00001 has label 2 here and 1 in another split"):
        trees.run_builder("dfew", "single", data, tmp_path / "out")
    with pytest.raises(UserError, match=r"(?s)Found neither release.*jpg_256/00001"):
        trees.run_builder("dfew", "single", tmp_path / "none", tmp_path / "out")
