"""SAMM from a tiny tree in the distributed layout."""

import pytest

from mer_jax.errors import UserError
from tests.tfds_builders import trees


def row(subject, clip, onset, apex, offset, units="12", emotion="Anger", objective=7):
    return [subject, clip, 2, onset, apex, offset, None, "Micro - 1/2", units, emotion, objective, None]


ROWS = [
    row("006", "006_1_2", 5562, 5565, 5567, "4C+7 ", "Anger", 3),
    row("007", "007_4_2", 998, 1001, 1003, "L12 or L14", "Other"),
    row("028", "028_4_1", 1122, 1143, 1134, "R14+17+soft focus", "Contempt"),
    row("037", "037_4_1", 5, 6, 7, "A/L12", "Sadness"),
]


@pytest.fixture
def tree(tmp_path):
    data = tmp_path / "data"
    trees.samm_sheet(data / "SAMM_Micro_FACS_Codes_v2.xlsx", ROWS)
    for folder in ("SAMM", "SAMM_CROP"):
        trees.write_frames(data / folder / "006/006_1_2", range(5560, 5570), "006_{:05d}.jpg", channels=1)
        trees.write_frames(data / folder / "007/007_4_2", range(997, 1004), "007_{:04d}.jpg", channels=1)
        trees.write_frames(data / folder / "028/028_4_1", range(1120, 1136), "028_{:04d}.jpg", channels=1)
    return data


@pytest.mark.parametrize("config", ["raw", "cropped"])
def test_every_field(tree, tmp_path, config):
    clips, skipped, report = trees.run_builder("samm", config, tree, tmp_path / "out")
    assert [(c, r.onset, r.apex, r.offset, r.apex_source, r.emotion) for c, r in clips.items()] == [
        ("samm/006/006_1_2", 2, 5, 7, "annotated", "anger"),
        ("samm/007/007_4_2", 1, 4, 6, "annotated", "other"),
        ("samm/028/028_4_1", 2, 4, 14, "corrected", "contempt"),
    ]
    assert {(r.dataset, r.cohort, r.fps, r.modality, r.expression_type) for r in clips.values()} == {
        ("samm", "samm", 200.0, "grey", "micro")
    }
    first, second, _ = clips.values()
    assert (trees.units_of(first), int(first.action_unit_intensity[4])) == ([4, 7], 3)
    assert (second.action_units[12], second.action_units[14]) == (1, -1)
    assert [s.row.rsplit("(")[1] for s in skipped] == ["037/037_4_1)"]
    assert [(c["field"], c["found"], c["used"]) for c in report.corrected] == [("apex", "1143", "1124")]
    assert report.notes["objective_classes"]["samm/006/006_1_2"] == "III"


def test_a_folder_named_like_the_set_is_the_root(tree, tmp_path):
    named = tmp_path / "SAMM"
    (tree / "SAMM").rename(named)
    (tree / "SAMM_Micro_FACS_Codes_v2.xlsx").rename(named / "SAMM_Micro_FACS_Codes_v2.xlsx")
    clips, _, _ = trees.run_builder("samm", "raw", named, tmp_path / "out")
    assert len(clips) == 3


def test_missing(tree, tmp_path):
    with pytest.raises(UserError, match=r"(?s)no annotation sheet.*Moi Hoon Yap.*SAMM_CROP/006"):
        trees.run_builder("samm", "raw", tree / "SAMM", tmp_path / "out")
    trees.write_xlsx(tree / "SAMM_LongVideos_V1_Release.xlsx", {"s": [trees.SAMM_LONG]})
    trees.run_builder("samm", "raw", tree, tmp_path / "out")  # the other set's sheet is no rival
