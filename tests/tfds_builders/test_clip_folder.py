"""A user's own clips: one CSV, videos and frame folders; strict about everything that is unclear."""

import csv

import numpy as np
import pytest

from mer_jax.data import frames as frames_lib
from mer_jax.errors import UserError
from tests.tfds_builders import trees
from tfds_builders.clip_folder.clip_folder_dataset_builder import Builder, ClipFolderConfig
from tfds_builders.common import jobs
from tfds_builders.common.report import BuildReport


def write_csv(folder, rows, header=None):
    """Writes dictionaries; columns are the keys of the first one."""
    header = header or list(rows[0])
    with open(folder / "clips.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([[row.get(name, "") for name in header] for row in rows])


def build(folder, tmp_path, **options):
    builder = Builder(config=ClipFolderConfig(name="mine", **options), data_dir=str(tmp_path / "out"))
    report = BuildReport()
    return {clip.clip: clip for clip in jobs.run(builder.clips(folder, report), 1)}


@pytest.fixture
def folder(tmp_path):
    data = tmp_path / "data"
    trees.write_frames(data / "smile", [*range(3, 9), 10, 21], "img{}.png")
    trees.write_video(data / "v.avi", range(9), 30.0)
    return data


def test_a_row_with_everything(folder, tmp_path):
    points = np.random.default_rng(0).uniform(0, 9, (8, 68, 2)).astype(np.float32)
    np.save(folder / "marks.npy", points)
    row = {
        "path": "smile", "subject": "007", "label": "joy", "clip": "a", "start": 1, "end": 6, "onset": 2, "apex": 3,
        "offset": 5, "fps": 120.5, "x": 2, "y": 1, "w": 8, "h": 8, "landmarks": "marks.npy",
        "action_units": "6C+L12", "expression_type": "macro", "cohort": "lab", "modality": "nir",
    }  # fmt: skip
    write_csv(folder, [row])
    (clip,) = build(folder, tmp_path, size=4).values()
    assert (clip.clip, clip.dataset, clip.subject, clip.cohort) == ("mine/007/a", "mine", "007", "lab")
    assert (clip.onset, clip.apex, clip.offset, clip.apex_source) == (1, 2, 4, "annotated")
    assert (clip.emotion, clip.expression_type, clip.modality, clip.fps) == ("joy", "macro", "nir", 120.5)
    assert trees.units_of(clip) == [6, 12]
    assert len(clip.frames) == 6
    assert frames_lib.decode(clip.frames[0]).shape == (4, 4, 3)
    np.testing.assert_allclose(clip.landmarks, (points[1:7] - [2, 1] + 0.5) / 2 - 0.5, atol=1e-5)


def test_a_row_with_the_least(folder, tmp_path):
    write_csv(
        folder, [{"path": "smile", "subject": "x", "label": "joy"}, {"path": "v.avi", "subject": "x", "label": "no"}]
    )
    still, video = build(folder, tmp_path).values()
    assert (still.clip, still.cohort, still.modality, still.expression_type) == ("mine/x/smile", "mine", "rgb", "micro")
    assert trees.numbers_of(still) == [*range(3, 9), 10, 21]  # by number, not by name
    assert still.frames[0] == (folder / "smile/img3.png").read_bytes()
    assert (still.onset, still.apex, still.offset, still.apex_source) == (0, -1, 7, "missing")
    assert np.isnan(still.fps)
    assert np.isnan(still.landmarks).all()
    assert (still.action_units == -1).all()
    assert (video.clip, len(video.frames), video.fps) == ("mine/x/v", 9, 30.0)


def test_positions_can_be_file_numbers(folder, tmp_path):
    row = {"path": "smile", "subject": "x", "label": "joy", "start": 4, "onset": 5, "apex": 8, "offset": 10}
    write_csv(folder, [row])
    (clip,) = build(folder, tmp_path, positions="file_number").values()
    assert (clip.onset, clip.apex, clip.offset, len(clip.frames)) == (1, 4, 5, 7)
    write_csv(folder, [row | {"apex": 9}])
    with pytest.raises(UserError, match=r"row 2, column 'apex': found 9; expected the number of a frame in smile"):
        build(folder, tmp_path, positions="file_number")


def test_several_clips_of_one_video(folder, tmp_path):
    rows = [{"path": "v.avi", "subject": "x", "label": "a", "start": s, "end": e} for s, e in ((0, 3), (2, 8))]
    write_csv(folder, rows)
    clips = build(folder, tmp_path)
    assert [(name, len(clip.frames)) for name, clip in clips.items()] == [("mine/x/v_0-3", 4), ("mine/x/v_2-8", 7)]


@pytest.mark.parametrize("tracked", [True, False])
def test_landmarks_of_openface(folder, tmp_path, tracked):
    names = [f"x_{k}" for k in range(68)] + [f"y_{k}" for k in range(68)]
    with open(folder / "of.csv", "w") as file:
        file.write("frame, success, " + ", ".join(names) + "\n")
        for t in range(8):
            values = [t + k for k in range(68)] + [t + 100 + k for k in range(68)]
            file.write(f"{t}, {int(tracked or t != 2)}, " + ", ".join(map(str, values)) + "\n")
    write_csv(folder, [{"path": "smile", "subject": "x", "label": "a", "landmarks": "of.csv"}])
    (clip,) = build(folder, tmp_path).values()
    np.testing.assert_allclose(clip.landmarks[3, 5], [8, 108])
    assert np.isnan(clip.landmarks[2]).all() != tracked


GOOD = {"path": "smile", "subject": "x", "label": "joy"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"lable": "joy"}, r"row 1: unknown column 'lable'; did you mean 'label'\?"),
        ({"subject": ""}, r"row 2, column 'subject': found an empty cell"),
        ({"path": "nowhere"}, r"row 2, column 'path': found 'nowhere'; expected a file or folder that is there"),
        ({"onset": 5, "offset": 2}, r"column 'onset': found onset 5 > offset 2; expected start <= onset"),
        ({"onset": 5}, r"column 'offset': found an empty cell; expected onset and offset together"),
        ({"onset": "five", "offset": 6}, r"column 'onset': found 'five'; expected a whole number from 0"),
        ({"start": 2.5}, r"column 'start': found '2\.5'; expected a whole number"),
        ({"end": 8}, r"column 'end': found 8; expected a position below 8"),
        ({"fps": "fast"}, r"column 'fps': found 'fast'; expected a number"),
        ({"fps": -1}, r"column 'fps': found '-1'"),
        ({"x": 1}, r"column 'y': found an empty cell; expected x, y, w and h together"),
        ({"x": 5, "y": 0, "w": 8, "h": 8}, r"column 'w': found a box that ends at 13; expected a box inside"),
        ({"x": 5, "y": 0, "w": 0, "h": 8}, r"column 'w': found 0"),
        ({"action_units": "4+123"}, r"row 2, column 'action_units'"),
        ({"expression_type": "big"}, r"column 'expression_type': found 'big'; expected one of micro, macro"),
        ({"modality": "grey"}, r"column 'modality': found 'grey' for frames of 3 channels"),
        ({"subject": "a/b"}, r"column 'subject': found 'a/b'; expected a text without '/'"),
        ({"landmarks": "marks.npy"}, r"column 'landmarks': .*marks\.npy: found shape \(3, 5\)"),
        ({"landmarks": "short.npy"}, r"column 'landmarks': found 3 frames in short\.npy; expected 8 frames"),
        ({"landmarks": "of.csv"}, r"column 'landmarks': .*of\.csv: no column 'x_0'"),
        ({"path": "empty"}, r"column 'path': .*no frames"),
        (
            {"path": "cut"},
            r"column 'path': found .*img1\.jpg, which is a truncated JPEG .*; expected whole 8-bit images",
        ),
        ({"path": "sizes"}, r"column 'path': found .*img2\.jpg of shape .*; expected frames of one shape"),
        ({"path": "text.avi"}, r"column 'path': found 'text\.avi'; expected a video that OpenCV can open"),
    ],
)
def test_mistakes_name_row_and_column(folder, tmp_path, row, message):
    np.save(folder / "marks.npy", np.zeros((3, 5)))
    np.save(folder / "short.npy", np.zeros((3, 68, 2)))
    (folder / "of.csv").write_text("frame,success\n1,1\n")
    (folder / "empty").mkdir()
    trees.write_frames(folder / "cut", [1])
    trees.truncate(folder / "cut/img1.jpg")
    trees.write_frames(folder / "sizes", [1])
    trees.write_image(folder / "sizes/img2.jpg", trees.frame(2, height=20))
    (folder / "text.avi").write_text("no video")
    write_csv(folder, [GOOD | row])
    with pytest.raises(UserError, match=message):
        build(folder, tmp_path)


def test_the_file_itself(folder, tmp_path):
    with pytest.raises(UserError, match=r"clips\.csv: file not found; write it with the columns path, subject"):
        build(folder, tmp_path)
    for text, message in (
        ("", "an empty file"),
        ("path,subject,label\n", "no rows below the header"),
        ("path;subject;label\n", "expected columns separated by commas"),
        ("path,subject\n", "column 'label' is missing"),
        ("path,path,subject,label\n", "column 'path' appears 2 times"),
        ("path,subject,label\nsmile,x,joy,more\n", "row 2: 4 cells found, 3 expected"),
        ("path,subject,label\nsmile,x,joy\n\nsmile,x,joy\n", r"row 4, column 'clip': found smile of subject x again"),
    ):
        (folder / "clips.csv").write_text(text)
        with pytest.raises(UserError, match=message):
            build(folder, tmp_path)
    (folder / "clips.csv").write_bytes(b"path,subject,label\nsmile,J\xf6rg,joy\n")
    with pytest.raises(UserError, match="not a CSV file in UTF-8"):
        build(folder, tmp_path)


@pytest.mark.parametrize("options", [{"size": 0}, {"positions": "frames"}])
def test_options_are_checked(options):
    with pytest.raises(UserError, match=r"--size 0|--positions 'frames'"):
        ClipFolderConfig(name="mine", **options)


def test_changed_files_are_noticed(folder, tmp_path):
    write_csv(folder, [GOOD])
    builder = Builder(config=ClipFolderConfig(name="mine"), data_dir=str(tmp_path / "out"))
    before = builder.source_key(folder)
    assert builder.source_key(folder) == before
    trees.write_image(folder / "smile/img3.png", trees.frame(99, height=12))
    assert builder.source_key(folder) != before


def test_a_list_of_pictures_of_flow_over_several_datasets(folder, tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), np.uint8)
    names = ["clip_01.png", "clip_02.png", "clip_03 .png"]  # numbers do not make a sequence of them
    for name, picture in zip(names, pictures, strict=True):
        (folder / name).write_bytes(frames_lib.encode_png(picture))
    row = {"subject": "1", "label": "negative", "modality": "flow_strain"}
    rows = [row | {"path": name, "dataset": name_of} for name, name_of in zip(names, ("a", "a", "b"), strict=True)]
    rows[2]["clip"] = "clip_01"  # as in the other dataset
    write_csv(folder, rows, [*rows[0], "clip"])
    found = build(folder, tmp_path)
    assert list(found) == ["a/1/clip_01", "a/1/clip_02", "b/1/clip_01"]
    for clip, picture in zip(found.values(), pictures, strict=True):
        assert (clip.cohort, clip.modality, len(clip.frames)) == (clip.dataset, "flow_strain", 1)
        np.testing.assert_array_equal(frames_lib.decode(clip.frames[0]), picture)
