"""SAMM long videos from a tiny tree in the distributed layout."""

from tests.tfds_builders import trees


def test_macro_and_micro(tmp_path):
    data = tmp_path / "data"
    rows = [
        ["006", "006_1_1", 1, 120, 130, 140, 21, "Macro", "4+7", None],
        ["006", "006_1_2", 1, 300, 302, 304, 5, "Micro - 1/2", "12A", None],
        ["006", "006_1_3", 1, 0, 10, 20, 21, "Macro", "12", None],
        ["007", "007_5_1", 1, 300, 0, 340, 41, "Macro", "?", None],
    ]
    notes = [["note"]] * 10
    trees.write_xlsx(data / "SAMM_LongVideos_V1_Release.xlsx", {"Sheet1": [*notes, trees.SAMM_LONG, *rows]})
    trees.samm_sheet(
        data / "SAMM_Micro_FACS_Codes_v2.xlsx",
        [["006", "006_1_2", 2, 300, 302, 304, None, "Micro - 1/2", "12A", "Happiness", 1, None]],
    )
    trees.write_frames(data / "SAMM_longvideos/006_1", range(1, 320), "006_1_{:04d}.jpg", channels=1)
    clips, skipped, _ = trees.run_builder("samm_long_videos", "macro", data, tmp_path / "out")
    assert [(c, len(r.frames), r.onset, r.apex, r.offset) for c, r in clips.items()] == [
        ("samm_long_videos/006/006_1_1/120", 221, 100, 110, 120),
        ("samm_long_videos/006/006_1_3/0", 120, 0, 9, 19),
    ]
    assert {(r.cohort, r.modality, r.fps, r.emotion, r.expression_type) for r in clips.values()} == {
        ("samm", "grey", 200.0, "", "macro")
    }
    assert "no folder 007_5" in skipped[0].reason
    clips, _, report = trees.run_builder("samm_long_videos", "micro", data, tmp_path / "out")
    (clip,) = clips.values()
    assert (clip.clip, clip.emotion, clip.cohort) == ("samm_long_videos/006/006_1_2/300", "happiness", "samm")
    assert report.rows == 1
