"""What can be recognised, and what is refused by name."""

import cv2
import numpy as np
import pytest

from mer_jax.errors import UserError
from mer_jax.predict.recordings import Buffer, read
from tests.made_up_runs import write_frames


def frames(count=6, side=8):
    return np.arange(count, dtype=np.uint8)[:, None, None, None] * 20 + np.zeros((count, side, side + 4, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    return write_frames(tmp_path / "anna", frames())


def test_a_folder_is_read_in_the_order_of_its_numbers(folder, tmp_path):
    write_frames(tmp_path / "many", frames(12))
    (recording,) = read(tmp_path / "many", fps=50.0, box=(1, 2, 4, 3))
    seen = list(recording.frames())
    assert [int(f[0, 0, 0]) for f in seen] == [20 * t for t in range(12)]
    assert seen[0].shape == (3, 4, 3)
    assert (recording.name, recording.fps, recording.length()) == ("many", 50.0, 12)


def test_a_video_says_its_frame_rate(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (16, 16))
    for _ in range(4):
        writer.write(np.zeros((16, 16, 3), np.uint8))
    writer.release()
    assert read(tmp_path / "v.avi")[0].fps == 20.0
    assert read(tmp_path / "v.avi", fps=200.0)[0].fps == 200.0


def test_rows_of_a_csv_are_recordings(folder, tmp_path):
    points = np.arange(6, dtype=np.float32)[:, None, None] + np.zeros((6, 68, 2), np.float32)
    np.save(tmp_path / "points.npy", points)
    (tmp_path / "clips.csv").write_text(
        "path,subject,dataset,start,end,onset,apex,offset,fps,landmarks\n"
        "anna,p1,casme2,1,4,2,3,4,100,points.npy\n"
        "anna,p2,,,,,,,100,\n"
    )
    event, whole = read(tmp_path / "clips.csv")
    assert (event.subject, event.dataset, event.key_frames, event.length()) == ("p1", "casme2", (1, 2, 3), 4)
    assert [int(f[0, 0, 0]) for f in event.frames()] == [20, 40, 60, 80]
    np.testing.assert_array_equal(event.points(0, 1), points[1:3])
    assert (whole.key_frames, whole.fps, whole.length()) == (None, 100.0, 6)


def test_a_buffer_decodes_every_frame_once(folder):
    (recording,) = read(folder, fps=50.0)
    decoded = []

    def work(frame):
        decoded.append(int(frame[0, 0, 0]))
        return frame[0, 0, 0]

    buffer = Buffer(recording, work)
    assert buffer.stretch(0, 2) == [0, 20, 40]
    assert buffer.stretch(1, 3) == [20, 40, 60]
    assert buffer.stretch(4, 6) is None
    assert (decoded, buffer.decoded) == ([0, 20, 40, 60, 80, 100], 6)


def test_mistakes_are_named(folder, tmp_path):
    (tmp_path / "notes.txt").write_text("no video")
    (tmp_path / "broken.mp4").write_bytes(b"no video either")
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "five.npy", np.zeros((5, 68, 2), np.float32))
    (tmp_path / "clips.csv").write_text("path,subject\nanna,p1\n")
    (tmp_path / "wrong.csv").write_text("path,person\nanna,p1\n")
    for arguments, message in (
        ({"path": tmp_path / "nothing.mp4"}, "found no file or folder of that name"),
        ({"path": tmp_path / "notes.txt"}, r"kind '\.txt'; expected a video .*, a folder of frames .* or a \.csv"),
        ({"path": tmp_path / "broken.mp4"}, "OpenCV cannot open this video"),
        ({"path": tmp_path / "empty"}, "found no frames"),
        ({"path": folder, "landmarks": tmp_path / "five.npy"}, "found 5 frames; expected the 6 of anna"),
        ({"path": tmp_path / "clips.csv", "subject": "p1"}, "--subject: clips.csv is a CSV"),
        ({"path": tmp_path / "wrong.csv"}, "unknown column 'person'"),
    ):
        with pytest.raises(UserError, match=message):
            read(**arguments)
    with pytest.raises(UserError, match=r"box 0,0,20,4 .* ends outside the frame of 12x8 pixels"):
        next(read(folder, box=(0, 0, 20, 4))[0].frames())
    cv2.imwrite(str(folder / "img7.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UserError, match="frame 6 has the shape"):
        list(read(folder)[0].frames())
