"""AFEW from a tiny tree of both partitions."""

import math

import pytest

from mer_jax.data import frames as frames_lib
from mer_jax.errors import UserError
from tests.tfds_builders import trees


@pytest.fixture
def tree(tmp_path):
    data = tmp_path / "data"
    for emotion, clip in (("Angry", "000046280"), ("Neutral", "000149120"), ("Sad", "000200000")):
        trees.write_video(data / f"Train_AFEW/{emotion}/{clip}.avi", range(5), 25.0, 300, 400)
    faces = data / "Train_AFEW/AlignedFaces_LBPTOP_Points/Faces"
    trees.write_frames(faces / "000046280", range(1, 12), "000046280-{:03d}.jpg")
    trees.write_frames(faces / "000149120", range(3), "{}.jpg")
    (faces / "000200000").mkdir()
    return data


def test_faces(tree, tmp_path):
    clips, skipped, report = trees.run_builder("afew", "train", tree, tmp_path / "out")
    assert [(c, r.emotion, r.expression_type, len(r.frames)) for c, r in clips.items()] == [
        ("afew_train/000046280/000046280", "angry", "macro", 11),
        ("afew_train/000149120/000149120", "neutral", "neutral", 3),
    ]
    assert all(math.isnan(r.fps) and r.cohort == "afew" for r in clips.values())
    assert [(s.row, s.reason) for s in skipped] == [("000200000", "the distribution has no aligned faces for it")]
    assert report.rows == 3


def test_videos_are_scaled_and_broken_ones_named(tree, tmp_path):
    trees.truncate(trees.write_video(tree / "Train_AFEW/Sad/000200000.avi", range(20)))
    clips, skipped, _ = trees.run_builder("afew", "train_video", tree, tmp_path / "out")
    first = clips["afew_train/000046280/000046280"]
    assert (first.fps, len(first.frames), first.offset) == (25.0, 5, 4)
    assert frames_lib.decode(first.frames[0]).shape == (256, 341, 3)
    assert len(skipped) == 1
    assert "000200000.avi: it breaks off" in skipped[0].reason


def test_missing(tree, tmp_path):
    with pytest.raises(UserError, match=r"(?s)no folder 'Val_AFEW'.*EmotiW"):
        trees.run_builder("afew", "val", tree, tmp_path / "out")
    (tree / "Train_AFEW/AlignedFaces_LBPTOP_Points").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no folder 'AlignedFaces_LBPTOP_Points/Faces'"):
        trees.run_builder("afew", "train", tree, tmp_path / "out")
