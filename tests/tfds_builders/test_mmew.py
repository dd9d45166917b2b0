"""MMEW from tiny trees in the three layouts in circulation."""

import pytest

from mer_jax.errors import UserError
from tests.tfds_builders import trees

ROWS = [
    [3, "S03-01-002", 1, 4, 7, "6+12L", "happiness", None],
    [3, "S03-04-001", 2, 4, 5, "14", "others", None],
    [13, "S13-07-001", 1, 2, 3, "17+23", "anger", "glasses"],
]


def sheet(folder):
    trees.write_xlsx(folder / "MMEW_Micro_Exp.xlsx", {"Sheet1": [trees.MMEW, *ROWS]})


EXPECTED = [
    ("mmew/S03/S03-01-002", "S03", "happiness", 0, 3, 6, [6, 12]),
    ("mmew/S03/S03-04-001", "S03", "others", 1, 3, 4, [14]),
    ("mmew/S13/S13-07-001", "S13", "anger", 0, 1, 2, [17, 23]),
]


@pytest.mark.parametrize(
    "form", ["MMEW_Final/Micro_Expression/{e}/{c}", "MMEW_final/Micro-Expression/{e}/{c}", "{s}/{e}/{c}"]
)
def test_micro_in_every_layout(tmp_path, form):
    data = tmp_path / "data"
    sheet(data)
    for subject, clip, emotion in (
        ("S03", "S03-01-002", "happiness"), ("S03", "S03-04-001", "repression"), ("S13", "S13-07-001", "anger"),
    ):  # fmt: skip
        trees.write_frames(data / form.format(s=subject, e=emotion, c=clip), range(1, 12), "{}.jpg")
    clips, skipped, _ = trees.run_builder("mmew", "micro", data, tmp_path / "out")
    found = [(c, r.subject, r.emotion, r.onset, r.apex, r.offset, trees.units_of(r)) for c, r in clips.items()]
    assert found == EXPECTED
    assert {(r.cohort, r.fps, r.expression_type) for r in clips.values()} == {("mmew", 90.0, "micro")}
    last = clips["mmew/S13/S13-07-001"]
    folder = data / form.format(s="S13", e="anger", c="S13-07-001")
    assert list(last.frames) == [(folder / f"{n}.jpg").read_bytes() for n in range(1, 12)]  # 2 before 10
    assert not skipped


def test_macro_stills(tmp_path):
    root = tmp_path / "data/MMEW_Final/Macro_Expression"
    for subject, emotion, name in (("S03", "happiness", "S03-01-001"), ("S03", "repression", "S03-04-001")):
        trees.write_image(root / subject / emotion / f"{name}.jpg", trees.frame(1))
    clips, _, _ = trees.run_builder("mmew", "macro", tmp_path / "data", tmp_path / "out")
    assert [(c, r.emotion, len(r.frames), r.apex, r.cohort, r.expression_type) for c, r in clips.items()] == [
        ("mmew_macro/S03/S03-01-001", "happiness", 1, 0, "mmew", "macro"),
        ("mmew_macro/S03/S03-04-001", "others", 1, 0, "mmew", "macro"),
    ]
    trees.write_image(root / "S03/happiness/S04-01-001.jpg", trees.frame(1))
    with pytest.raises(UserError, match="found 'S04-01-001' in the folder of S03"):
        trees.run_builder("mmew", "macro", tmp_path / "data", tmp_path / "out")
    (root / "S03/happiness").rename(root / "S03/joy")
    with pytest.raises(UserError, match="unknown label 'joy'"):
        trees.run_builder("mmew", "macro", tmp_path / "data", tmp_path / "out")


def test_missing_folders(tmp_path):
    sheet(tmp_path)
    with pytest.raises(UserError, match=r"(?s)no folder 'Micro_Expression'.*dpailab.*S03-01-002/1\.jpg"):
        trees.run_builder("mmew", "micro", tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="no subject folders"):
        trees.run_builder("mmew", "macro", tmp_path, tmp_path / "out")
