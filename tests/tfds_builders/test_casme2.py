"""CASME II from a tiny tree in the distributed layout, up to a whole TFDS build."""

import json
import subprocess
import sys

import numpy as np
import pytest

from mer_jax.data.clips import AU_COLUMNS, AU_SLOTS, NUMBER_COLUMNS, TEXT_COLUMNS, ClipTable
from mer_jax.data.source import open_dataset
from mer_jax.errors import UserError
from tests.tfds_builders import trees

ROWS = [
    [1, "EP02_01f", None, 46, 59, 86, None, 12, "happiness"],
    ["04", "EP12_01f", None, 8, "/", 11, None, "4+7+L10", "disgust"],
    [5, "EP09_05f", None, 9, 9, 12, None, "R2+15 ", "disgust"],
    [17, "EP02_01f", None, 4, 99, 12, None, "?", "others"],
    [24, "EP07_01", None, 2, 3, 4, None, 1, "sadness"],
]


def folders(root, name):
    trees.write_frames(root / "sub01/EP02_01f", range(40, 92, 2), name)
    trees.write_frames(root / "sub04/EP12_01f", range(8, 12), name)
    trees.write_frames(root / "sub05/EP09_05f", range(9, 13), name)
    trees.write_frames(root / "sub17/EP02_01f", range(4, 13), name)


@pytest.fixture
def tree(tmp_path):
    data = tmp_path / "data"
    trees.write_xlsx(data / "CASME2-coding-20140508.xlsx", {"Sheet1": [trees.CASME2_2014, *ROWS], "Sheet2": []})
    folders(data / "CASME2_RAW_selected", "img{}.jpg")
    folders(data / "Cropped", "reg_img{}.jpg")
    return data


@pytest.mark.parametrize(
    ("config", "folder", "prefix"), [("raw", "CASME2_RAW_selected", ""), ("cropped", "Cropped", "reg_")]
)
def test_every_field(tree, tmp_path, config, folder, prefix):
    clips, skipped, report = trees.run_builder("casme2", config, tree, tmp_path / "out")
    assert [(c, r.onset, r.apex, r.offset, r.apex_source, r.emotion) for c, r in clips.items()] == [
        ("casme2/01/EP02_01f", 3, 9, 23, "corrected", "happiness"),  # frame 59 is in a gap of this tree
        ("casme2/04/EP12_01f", 0, -1, 3, "missing", "disgust"),
        ("casme2/05/EP09_05f", 0, 0, 3, "annotated", "disgust"),
        ("casme2/17/EP02_01f", 0, 8, 8, "corrected", "others"),
    ]
    assert {(r.dataset, r.cohort, r.fps, r.modality, r.expression_type) for r in clips.values()} == {
        ("casme2", "casme2", 200.0, "rgb", "micro")
    }
    assert [r.subject for r in clips.values()] == ["01", "04", "05", "17"]
    assert [trees.units_of(r) for r in clips.values()] == [[12], [4, 7, 10], [2, 15], []]
    assert (clips["casme2/17/EP02_01f"].action_units == -1).all()
    frames = clips["casme2/04/EP12_01f"].frames
    assert list(frames) == [(tree / folder / f"sub04/EP12_01f/{prefix}img{n}.jpg").read_bytes() for n in (8, 9, 10, 11)]
    assert [s.row.rsplit("(")[1] for s in skipped] == ["24/EP07_01)"]
    assert report.notes["sheets"][0]["version"].startswith("2014")
    assert report.rows == 5


def test_the_sheet_of_2019_and_the_file_of_objective_classes(tree, tmp_path):
    (tree / "CASME2-coding-20140508.xlsx").unlink()
    rows = [[*row, "VII"] for row in ROWS]
    trees.write_xlsx(tree / "CASME2-coding-20190701.xlsx", {"Sheet1": [trees.CASME2_2019, *rows]})
    _, _, report = trees.run_builder("casme2", "raw", tree, tmp_path / "out")
    assert report.notes["sheets"][0]["version"].startswith("2019")
    assert set(report.notes["objective_classes"].values()) == {"VII"}
    objective = [["Subject", "Filename", "Objective Class"], [1, "EP02_01f", 1], [4, "EP12_01f", 4]]
    trees.write_xlsx(tree / "CASME2-ObjectiveClasses.xlsx", {"Sheet1": objective})
    _, _, report = trees.run_builder("casme2", "raw", tree, tmp_path / "out")
    assert report.notes["objective_classes"] == {
        "casme2/01/EP02_01f": "I", "casme2/04/EP12_01f": "IV", "casme2/05/EP09_05f": "VII", "casme2/17/EP02_01f": "VII",
    }  # fmt: skip
    trees.write_xlsx(tree / "CASME2-coding-20140508.xlsx", {"Sheet1": [trees.CASME2_2014, *ROWS]})
    with pytest.raises(UserError, match="several annotation sheets"):
        trees.run_builder("casme2", "raw", tree, tmp_path / "out")


def test_landmarks_beside_the_data(tree, tmp_path):
    points = np.arange(4 * 68 * 2, dtype=np.float32).reshape(4, 68, 2)
    folder = tree / "CASME2_RAW_selected_landmarks/sub04"
    folder.mkdir(parents=True)
    np.save(folder / "EP12_01f.npy", points)
    clips, _, _ = trees.run_builder("casme2", "raw", tree, tmp_path / "out")
    np.testing.assert_array_equal(clips["casme2/04/EP12_01f"].landmarks, points)
    assert np.isnan(clips["casme2/05/EP09_05f"].landmarks).all()
    np.save(folder / "EP12_01f.npy", points[:3])
    with pytest.raises(UserError, match=r"EP12_01f\.npy: found landmarks of 3 frames, expected the 4 frames"):
        trees.run_builder("casme2", "raw", tree, tmp_path / "out")


def break_by(tree, what):
    sheet, folder = tree / "CASME2-coding-20140508.xlsx", tree / "CASME2_RAW_selected/sub04/EP12_01f"
    rows = [list(row) for row in ROWS]
    if what == "truncated image":
        trees.truncate(folder / "img9.jpg")
    elif what == "no frames":
        for path in folder.iterdir():
            path.rename(path.with_suffix(".txt"))
    elif what == "other size":
        trees.write_image(folder / "img9.jpg", trees.frame(9, height=20))
    elif what == "damaged sheet":
        trees.truncate(sheet)
    else:
        header = list(trees.CASME2_2014)
        if what == "missing column":
            header[7] = "Codes"
        elif what == "unknown label":
            rows[1][8] = "bored"
        elif what == "onset > offset":
            rows[1][3] = 90
        elif what == "non-numeric":
            rows[1][3] = "eight"
        elif what == "duplicate":
            rows[2] = rows[1]
        trees.write_xlsx(sheet, {"Sheet1": [header, *rows]})


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("truncated image", r"img9\.jpg: found a truncated JPEG"),
        ("no frames", r"sub04/EP12_01f: no frames; found 4 other files"),
        ("other size", r"casme2/04/EP12_01f.*frame 1 of shape \(20, 12, 3\)"),
        ("damaged sheet", r"CASME2-coding-20140508\.xlsx: a damaged xlsx"),
        ("missing column", r"row 1: missing column 'Action Units'"),
        ("unknown label", r"row 3, column 'emotion': unknown label 'bored'"),
        ("onset > offset", r"row 3 \(04/EP12_01f\): onset 90 is after offset 11"),
        ("non-numeric", r"row 3, column 'onset': found 'eight', expected a frame number"),
        ("duplicate", r"row 4: clip 'EP12_01f' of subject '04' stands in the sheet twice"),
    ],
)
def test_bad_data_is_one_message(tree, tmp_path, what, message):
    break_by(tree, what)
    with pytest.raises(UserError, match=message):
        trees.run_builder("casme2", "raw", tree, tmp_path / "out")


def test_a_whole_build_with_tfds(tree, tmp_path):
    command = [sys.executable, "-m", "tfds_builders.build", "casme2/raw", "--processes", "1"]
    command += ["--manual_dir", str(tree), "--data_dir", str(tmp_path / "built")]
    objective = [["Subject", "Filename", "Objective Class"], [1, "EP02_01f", 1], [4, "EP12_01f", 4]]
    trees.write_xlsx(tree / "CASME2-ObjectiveClasses.xlsx", {"Sheet1": objective})
    broken = tree / "CASME2_RAW_selected/sub04/EP12_01f/img9.jpg"
    whole = broken.read_bytes()
    trees.truncate(broken)
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 2
    assert "img9.jpg: found a truncated JPEG" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not list((tmp_path / "built").glob("casme2*"))  # nothing half-built is left
    broken.write_bytes(whole)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "casme2/raw: 4 clips" in done.stdout
    source = open_dataset("casme2/raw", tmp_path / "built")
    assert list(source.table["clip"]) == [
        "casme2/01/EP02_01f", "casme2/04/EP12_01f", "casme2/05/EP09_05f", "casme2/17/EP02_01f",
    ]  # fmt: skip
    assert list(source.table["objective_class"]) == ["I", "IV", "", ""]
    report = json.loads(next((tmp_path / "built").rglob("build_report.json")).read_text())
    assert (report["rows"], report["clips"], len(report["skipped"])) == (5, 4, 1)


def test_a_folder_that_holds_several_sets(tree, tmp_path):
    """The crops of CASME lie in a folder of the same name: those beside the sheet are taken."""
    both = tmp_path / "all"
    both.mkdir()
    tree.rename(both / "z_casme2")
    trees.write_frames(both / "a_casme/Cropped/sub01/EP02_01f", [1], "reg_img{}.jpg")
    clips, _, _ = trees.run_builder("casme2", "cropped", both, tmp_path / "out")
    assert len(clips) == 4
    trees.write_frames(both / "b_smic/SMIC_all_raw/HS/s1/micro/negative/s1_ne_01", [1], "image{}.bmp")
    trees.write_frames(both / "c_smic/SMIC_all_raw/HS/s1/micro/negative/s1_ne_01", [1], "image{}.bmp")
    with pytest.raises(UserError, match="several folders 'SMIC_all_raw': b_smic/SMIC_all_raw, c_smic/SMIC_all_raw"):
        trees.run_builder("smic", "hs", both, tmp_path / "out")


def test_tables_with_and_without_objective_classes_join():
    def table(name, **extra):
        columns = {c: np.array([name]) for c in TEXT_COLUMNS} | {c: np.zeros(1, t) for c, t in NUMBER_COLUMNS.items()}
        return ClipTable(columns | {c: np.zeros((1, AU_SLOTS), np.int8) for c in AU_COLUMNS} | extra)

    given = table("a", objective_class=np.array(["III"]))
    for tables, expected in (([given, table("b")], ["III", ""]), ([table("b"), given], ["", "III"])):
        assert list(ClipTable.concatenate(tables)["objective_class"]) == expected
    assert "objective_class" not in ClipTable.concatenate([table("a"), table("b")]).columns
