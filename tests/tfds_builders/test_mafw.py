"""MAFW from a tiny tree in the distributed layout."""

import pytest

from mer_jax.errors import UserError
from tests.tfds_builders import trees


def test_single_labels(tmp_path):
    data = tmp_path / "data"
    trees.write_video(data / "data/clips/00028.mp4", range(7), 25.0)
    trees.write_video(data / "data/clips/00029.mp4", range(4), 30.0)
    (data / "data/clips/00030.mp4").write_bytes(b"broken")
    splits = data / "split/single/no_caption"
    (splits / "set_1").mkdir(parents=True)
    (splits / "set_1/train.txt").write_text("00028.mp4 anger\n00029.mp4 Neutral\n\n00030.mp4 anxiety\n")
    (splits / "set_1/test.txt").write_text("00031.mp4 helplessness\n")
    clips, skipped, report = trees.run_builder("mafw", "single", data, tmp_path / "out")
    assert [(c, r.emotion, r.expression_type, r.fps, len(r.frames)) for c, r in clips.items()] == [
        ("mafw/00028/00028", "anger", "macro", 25.0, 7),
        ("mafw/00029/00029", "neutral", "neutral", 30.0, 4),
    ]
    assert ["00030" in s.row or "00031" in s.row for s in skipped] == [True, True]
    assert report.rows == 4
    assert report.notes["official_folds"] == {"mafw/00031/00031": 1}
    for text, message in (
        ("00028.mp4 bored\n", "line 1: unknown label 'bored'"),
        ("00028.mp4\n", "line 1: found '00028.mp4', expected"),
        ("00031.mp4 anger\n", "is helplessness here and anger in another split"),
    ):
        (splits / "set_1/train.txt").write_text(text)
        with pytest.raises(UserError, match=message):
            trees.run_builder("mafw", "single", data, tmp_path / "out")
    with pytest.raises(UserError, match=r"(?s)no folder 'clips'.*00028\.mp4"):
        trees.run_builder("mafw", "single", tmp_path / "none", tmp_path / "out")
