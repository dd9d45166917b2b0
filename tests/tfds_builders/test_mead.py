"""MEAD from a tiny tree, as distributed and as repacked."""

import pytest

from mer_jax.errors import UserError
from tests.tfds_builders import trees


def test_views(tmp_path):
    data = tmp_path / "data"
    trees.write_video(data / "M003/video/front/angry/level_1/001.mp4", range(3), 30.0)
    trees.write_video(data / "M003/video/front/neutral/level_1/001.mp4", range(3), 30.0)
    (data / "M003/audio/front/angry/level_1").mkdir(parents=True)
    trees.write_video(data / "W009/front/disgust/level_3/012.mp4", range(3), 30.0)
    (data / "W010/left_30").mkdir(parents=True)
    clips, _, report = trees.run_builder("mead", "front", data, tmp_path / "out")
    assert [(c, r.subject, r.emotion, r.expression_type, r.fps) for c, r in clips.items()] == [
        ("mead_front/M003/angry_level_1_001", "M003", "angry", "macro", 30.0),
        ("mead_front/M003/neutral_level_1_001", "M003", "neutral", "neutral", 30.0),
        ("mead_front/W009/disgust_level_3_012", "W009", "disgust", "macro", 30.0),
    ]
    assert {r.cohort for r in clips.values()} == {"mead"}
    assert report.notes["actors_without_this_view"] == ["W010"]
    (data / "M003/video/front/angry").rename(data / "M003/video/front/rage")
    with pytest.raises(UserError, match="unknown label 'rage'"):
        trees.run_builder("mead", "front", data, tmp_path / "out")
    with pytest.raises(UserError, match=r"(?s)no folder of an actor.*M003/video/front"):
        trees.run_builder("mead", "front", tmp_path / "none", tmp_path / "out")
