"""Frame numbers from file names and from cells of a sheet."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mer_jax.errors import UserError
from tests.tfds_builders import trees
from tfds_builders.common.frame_numbers import frame_number, list_frames
from tfds_builders.common.sheets import parse_frame_cell


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("img46.jpg", 46),
        ("reg_img46.jpg", 46),
        ("EP01_5-1.jpg", 1),
        ("EP01_5-012.jpg", 12),
        ("reg_EP01_5-12.jpg", 12),
        ("006_05562.jpg", 5562),
        ("image090823.bmp", 90823),
        ("image12345678.bmp", 12345678),
        ("355.jpg", 355),
        ("img001.jpg", 1),
        ("S005_001_00000011.png", 11),
        ("06_happy 12 .png", 12),
        ("casme2/sub01/EP02_01f/img59.jpg", 59),
        ("0000000000000000000000007.jpg", 7),
        ("000", 0),
    ],
)
def test_the_last_run_of_digits(name, number):
    assert frame_number(name) == number


@given(st.text(max_size=40))
@example("9" * 5000)
@example("٣.jpg")
@example("²")
def test_any_name_gives_a_number_or_our_error(name):
    try:
        assert frame_number(name) >= 0
    except UserError as error:
        if "frame number" not in str(error):
            raise


@given(
    st.one_of(st.text(max_size=20), st.integers(), st.floats(), st.none(), st.text("0123456789.+-eE/ ", max_size=12))
)
@example("9" * 5000)
@example(float("inf"))
@example("1e5")
def test_any_cell_gives_a_number_none_or_our_error(cell):
    try:
        value = parse_frame_cell(cell, "sheet, row 3")
    except UserError as error:
        if "sheet, row 3" not in str(error):
            raise
        return
    assert value is None or isinstance(value, int)


@pytest.mark.parametrize(
    ("cell", "value"),
    [(46, 46), (46.0, 46), ("46", 46), (" 46 ", 46), ("46.0", 46), ("/", None), ("\\", None), ("", None), (None, None)],
)
def test_cells(cell, value):
    assert parse_frame_cell(cell, "here") == value


@pytest.mark.parametrize("cell", ["46a", "4.5", 4.5, "about 40", "#REF!", "2014-05-08T00:00:00"])
def test_cells_that_are_no_numbers(cell):
    with pytest.raises(UserError, match=r"coding\.xlsx, row 9"):
        parse_frame_cell(cell, "coding.xlsx, row 9")


def test_frames_are_ordered_by_number_not_by_name(tmp_path):
    folder = trees.write_frames(tmp_path / "clip", [9, 10, 100, 8])
    for name in (".DS_Store", "._img8.jpg", "Thumbs.db", "notes12.txt"):
        (folder / name).write_bytes(b"x")
    frames = list_frames(folder)
    assert frames.numbers == (8, 9, 10, 100)
    assert [p.name for p in frames.paths] == ["img8.jpg", "img9.jpg", "img10.jpg", "img100.jpg"]
    assert frames.position(10) == (2, "")
    assert frames.position(50)[0] == 2  # a gap takes the previous frame
    assert "missing" in frames.position(50)[1]
    assert frames.position(1)[0] == 0
    assert frames.position(300)[0] == 3
    assert frames.between(9, 50).numbers == (9, 10)


def test_folders_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot list"):
        list_frames(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no frames"):
        list_frames(tmp_path / "empty")
    twice = trees.write_frames(tmp_path / "twice", [1])
    trees.write_frames(twice, [1], "img{:03d}.jpg")
    with pytest.raises(UserError, match="both frame 1"):
        list_frames(twice)
    unnumbered = trees.write_frames(tmp_path / "unnumbered", [1], "face.jpg")
    with pytest.raises(UserError, match=r"unnumbered: 'face\.jpg'"):
        list_frames(unnumbered)
