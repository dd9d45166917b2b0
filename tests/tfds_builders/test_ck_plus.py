"""CK+ from a tiny copy of its four parallel trees."""

import numpy as np
import pytest

from mer_jax.errors import UserError
from tests.tfds_builders import trees


@pytest.fixture
def tree(tmp_path):
    data = tmp_path / "data"
    images = data / "cohn-kanade-images"
    trees.write_frames(images / "S005/001", range(1, 12), "S005_001_{:08d}.png", channels=1)
    trees.write_frames(images / "S010/002", range(1, 4), "S010_002_{:08d}.png", channels=1)
    (images / "S005/001/.DS_Store").write_bytes(b"x")
    (images / ".DS_Store").write_bytes(b"x")
    texts = {
        "Emotion/S005/001/S005_001_00000011_emotion.txt": "   3.0000000e+00\n",
        "FACS/S005/001/S005_001_00000011_facs.txt": "   9.0000000e+00   5.0e+00\n   1.7000000e+01   0.0e+00\n",
    }
    for name, text in texts.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(text)
    (data / "Emotion/S010/002").mkdir(parents=True)
    for n in range(1, 12):
        path = data / f"Landmarks/S005/001/S005_001_{n:08d}_landmarks.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"   {k + n:.7e}   {2.5 * k:.7e}\n" for k in range(68)))
    return data


def test_every_field(tree, tmp_path):
    clips, _, report = trees.run_builder("ck_plus", None, tree, tmp_path / "out")
    one, other = clips["ck_plus/S005/001"], clips["ck_plus/S010/002"]
    assert (one.subject, one.emotion, one.expression_type, one.modality) == ("S005", "disgust", "macro", "grey")
    assert (one.onset, one.apex, one.offset, one.apex_source) == (0, 10, 10, "annotated")
    assert trees.numbers_of(one) == list(range(1, 12))
    assert trees.units_of(one) == [9, 17]
    assert (int(one.action_unit_intensity[9]), int(one.action_unit_intensity[17])) == (5, 0)
    assert one.action_units[12] == 0
    np.testing.assert_allclose(one.landmarks[3, 5], [5 + 4, 12.5])
    assert (other.emotion, np.isnan(other.landmarks).all(), (other.action_units == -1).all()) == ("", True, True)
    assert report.notes["labelled"] == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "Emotion/S005/001/S005_001_00000011_emotion.txt",
            "8.0",
            r"emotion\.txt: found '8\.0', expected one number",
        ),
        ("Emotion/S005/001/S005_001_00000011_emotion.txt", "x", "expected one number"),
        ("FACS/S005/001/S005_001_00000011_facs.txt", "9 9 9", r"facs\.txt, line 1: found '9 9 9'"),
        ("FACS/S005/001/S005_001_00000011_facs.txt", "4 9", "action unit 4 of intensity 9"),
        ("Landmarks/S005/001/S005_001_00000002_landmarks.txt", "1 2\n", r"found shape \(1, 2\), expected 68 lines"),
    ],
)
def test_bad_files_are_named(tree, tmp_path, name, text, message):
    (tree / name).write_text(text)
    with pytest.raises(UserError, match=message):
        trees.run_builder("ck_plus", None, tree, tmp_path / "out")


def test_missing(tmp_path):
    with pytest.raises(UserError, match=r"(?s)no folder 'cohn-kanade-images'.*University of Pittsburgh"):
        trees.run_builder("ck_plus", None, tmp_path, tmp_path / "out")
