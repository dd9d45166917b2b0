"""Landmarks from MediaPipe, which stands in here as a module of the same calls (its model file is not ours to ship)."""

import subprocess
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

from mer_jax.data import frames, landmarks
from mer_jax.errors import UserError
from tfds_builders.common import landmark_files

MIRRORED = {  # iBUG points that are each other's mirror image
    **{k: 16 - k for k in range(8)}, **{17 + k: 26 - k for k in range(5)}, 31: 35, 32: 34,
    36: 45, 37: 44, 38: 43, 39: 42, 40: 47, 41: 46, 48: 54, 49: 53, 50: 52, 55: 59, 56: 58, 60: 64, 61: 63, 65: 67,
}  # fmt: skip
# Pairs of mirrored points of MediaPipe's face mesh (its symmetric topology).
MESH_MIRRORED = {
    127: 356, 234: 454, 93: 323, 132: 361, 58: 288, 136: 365, 150: 379, 176: 400, 70: 300, 63: 293, 105: 334, 66: 296,
    107: 336, 98: 327, 97: 326, 33: 263, 160: 387, 158: 385, 133: 362, 153: 380, 144: 373, 61: 291, 39: 269, 37: 267,
    405: 181, 314: 84, 78: 308, 81: 311, 402: 178,
}  # fmt: skip


class FakeDetector:
    """Finds the brightest pixel: point k of the mesh is there, plus k thousandths of the width to the right."""

    def __init__(self, closed):
        self.closed = closed

    def detect(self, image):
        picture = image.data
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3
        y, x = np.unravel_index(picture[..., 0].argmax(), picture.shape[:2])
        faces = []
        if picture.max() > 0:
            h, w = picture.shape[:2]
            faces = [
                [
                    types.SimpleNamespace(x=(x + 0.5) / w + k / 1000, y=(y + 0.5) / h)
                    for k in range(landmarks.MESH_POINTS)
                ]
            ]
        return types.SimpleNamespace(face_landmarks=faces)

    def close(self):
        self.closed.append(True)


@pytest.fixture
def mediapipe(monkeypatch, tmp_path):
    closed: list[bool] = []

    class FaceLandmarker:
        @staticmethod
        def create_from_options(options):
            if Path(options.base_options.model_asset_path).read_bytes() != b"model":
                raise RuntimeError("Unable to open zip archive.")
            assert (options.num_faces, options.running_mode) == (1, "image")
            return FakeDetector(closed)

    vision = types.ModuleType("mediapipe.tasks.python.vision")
    vision.FaceLandmarker = FaceLandmarker
    vision.FaceLandmarkerOptions = types.SimpleNamespace
    vision.RunningMode = types.SimpleNamespace(IMAGE="image")
    python = types.ModuleType("mediapipe.tasks.python")
    python.BaseOptions, python.vision = types.SimpleNamespace, vision
    tasks, top = types.ModuleType("mediapipe.tasks"), types.ModuleType("mediapipe")
    top.Image, top.ImageFormat = types.SimpleNamespace, types.SimpleNamespace(SRGB="srgb")
    for module in (top, tasks, python, vision):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    model = tmp_path / "face_landmarker.task"
    model.write_bytes(b"model")
    return model, closed


def spot(x, y, height=20, width=30, grey=False):
    image = np.zeros((height, width, 1 if grey else 3), np.uint8)
    if x is not None:
        image[y, x] = 250
    return image


def write_frames(folder, spots):
    folder.mkdir(parents=True)
    for number, (x, y) in spots.items():
        (folder / f"img{number}.png").write_bytes(frames.encode_png(spot(x, y)))


def test_the_mapping_takes_each_point_once_and_is_symmetric():
    table = landmarks.IBUG_FROM_MESH
    assert len(table) == len(set(table)) == 68
    assert max(table) < 468  # skin, not irises
    for left, right in MIRRORED.items():
        a, b = table[left], table[right]
        assert MESH_MIRRORED.get(a) == b or MESH_MIRRORED.get(b) == a, (left, right)


def test_points_are_in_pixels_with_whole_numbers_at_pixel_centres(mediapipe):
    with landmarks.FaceLandmarker(mediapipe[0]) as find:
        for grey in (False, True):
            points = find(spot(7, 4, grey=grey))
            assert points.dtype == np.float32
            np.testing.assert_allclose(points[:, 1], 4, atol=1e-4)
            np.testing.assert_allclose(points[:, 0], 7 + 30 * np.array(landmarks.IBUG_FROM_MESH) / 1000, atol=1e-4)
        assert np.isnan(find(spot(None, None))).all()
    assert mediapipe[1] == [True]


def test_a_tree_of_clips_becomes_files_that_the_builders_read(mediapipe, tmp_path, capsys):
    source, out = tmp_path / "SAMM", tmp_path / "SAMM_landmarks"
    write_frames(source / "006/006_1_2", {2: (3, 4), 10: (5, 6), 1: (1, 2)})
    write_frames(source / "007/007_3_1", {1: (1, 2), 2: (None, None)})
    assert landmarks.main(["--model", str(mediapipe[0]), str(source), "--out", str(out)]) == 0
    assert "2 clips" in (said := capsys.readouterr().out)
    assert "no face found in 1 frames" in said
    points = landmark_files.read_clip(out / "006/006_1_2.npy", 3)
    np.testing.assert_allclose(points[:, 0, 1], [2, 4, 6], atol=1e-4)  # in the order of the frame numbers
    assert np.isnan(landmark_files.read_clip(out / "007/007_3_1.npy", 2)[1]).all()
    (out / "006/006_1_2.npy").write_bytes(b"kept")
    assert landmarks.main(["--model", str(mediapipe[0]), str(source), "--out", str(out)]) == 0
    assert (out / "006/006_1_2.npy").read_bytes() == b"kept"


def test_one_clip_one_file(mediapipe, tmp_path):
    write_frames(tmp_path / "clip", {1: (3, 4)})
    assert landmarks.main(["--model", str(mediapipe[0]), str(tmp_path / "clip"), "--out", str(tmp_path / "a.npy")]) == 0
    assert landmark_files.read(tmp_path / "a.npy").shape == (1, 68, 2)
    video = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 25, (32, 32))
    for x in (4, 20):
        writer.write(cv2.rectangle(np.zeros((32, 32, 3), np.uint8), (x, 8), (x + 6, 14), (255, 255, 255), -1))
    writer.release()
    assert landmarks.main(["--model", str(mediapipe[0]), str(video), "--out", str(tmp_path / "marks")]) == 0
    points = landmark_files.read(tmp_path / "marks/v.npy")
    assert points[1, 0, 0] - points[0, 0, 0] == pytest.approx(16, abs=6)


def test_without_mediapipe_the_message_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    assert landmarks.main(["--model", "m.task", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "pip install 'mer_jax[landmarks]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_mistakes_end_in_one_message(mediapipe, tmp_path):
    with pytest.raises(UserError, match=r"--model .*none\.task: file not found; expected the model file"):
        landmarks.FaceLandmarker(tmp_path / "none.task")
    (tmp_path / "bad.task").write_bytes(b"html")
    with pytest.raises(UserError, match=r"bad\.task: MediaPipe cannot use it \(Unable to open zip archive"):
        landmarks.FaceLandmarker(tmp_path / "bad.task")
    find = landmarks.FaceLandmarker(mediapipe[0])
    with pytest.raises(UserError, match="found no folder or video file"):
        landmarks.write_landmarks(find, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="found no frames"):
        landmarks.write_landmarks(find, tmp_path / "empty", tmp_path / "out")
    write_frames(tmp_path / "set/a", {1: (1, 1)})
    write_frames(tmp_path / "set/b", {1: (1, 1)})
    with pytest.raises(UserError, match="holds 2 clips; expected a folder"):
        landmarks.write_landmarks(find, tmp_path / "set", tmp_path / "out.npy")
    (tmp_path / "set/b/img2.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"img2\.png: not an image"):
        landmarks.write_landmarks(find, tmp_path / "set", tmp_path / "out")
    assert not (tmp_path / "out/b.npy").exists()
    (tmp_path / "v.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"v\.mp4: no frame of this video"):
        landmarks.write_landmarks(find, tmp_path / "v.mp4", tmp_path / "out")


def test_importing_it_needs_neither_mediapipe_nor_tensorflow():
    code = "import sys, mer_jax.data.landmarks; assert not {'mediapipe', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
