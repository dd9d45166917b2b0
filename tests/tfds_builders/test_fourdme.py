"""4DME from a tiny tree in the distributed layout."""

from tests.tfds_builders import trees


def row(clip, emotion, onset, apex, offset, units):
    return ["S01", clip, emotion, onset, apex, offset, units, 1, 0, 0, 0, 0, 0, 0, 1, 1, "happy"]


def test_every_field(tmp_path):
    data = tmp_path / "data"
    rows = [
        row("S01_1st_001_01_1", "Surprise+Positive", 12, 14, 17, "AU4(k)+AU12"),
        row("S01_1st_002_01_1", "Repression ", 12, 14, 17, "AU14"),
        row("S13_1st_001_01_1", "Others", 1, 2, 3, "AU14"),
    ]
    trees.write_xlsx(data / "4DME_Labelling_Micro_release v1.xlsx", {"Sheet1": [trees.FOURDME, *rows]})
    for folder in ("gray_micro", "gray_micro_crop"):
        trees.write_frames(data / folder / "S01/S01_1st_001_01_1", range(10, 20), "{}.jpg", channels=1)
    for config in ("grey", "grey_cropped"):
        clips, skipped, report = trees.run_builder("fourdme", config, data, tmp_path / "out")
        (clip,) = clips.values()
        assert (clip.clip, clip.subject, clip.cohort, clip.modality, clip.fps) == (
            "fourdme/S01/S01_1st_001_01_1", "S01", "fourdme", "grey", 60.0,
        )  # fmt: skip
        assert (clip.onset, clip.apex, clip.offset, clip.emotion) == (2, 4, 7, "surprise+positive")
        assert (clip.action_units[12], clip.action_units[4]) == (1, -1)
        assert [s.row.rsplit("(")[1] for s in skipped] == ["S01/S01_1st_002_01_1)"]
        assert "MEB" in report.skipped[0]["reason"]  # the excluded clip, by name
