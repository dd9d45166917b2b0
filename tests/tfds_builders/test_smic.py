"""SMIC and SMIC-E from tiny trees in the distributed layouts."""

import numpy as np
import pytest

from mer_jax.errors import UserError
from tests.tfds_builders import trees


@pytest.fixture
def tree(tmp_path):
    data = tmp_path / "data"
    for camera in ("HS", "VIS", "NIR"):
        raw = data / "SMIC_all_raw" / camera
        trees.write_frames(raw / "s1/micro/negative/s1_ne_01", [90823, 90824, 90826], "image{:06d}.bmp")
        trees.write_frames(raw / "s1/micro/surprise/s1_sur_01", [9, 10], "image{:06d}.bmp")
        trees.write_frames(raw / "s20/micro/positive/s20_po_02", [9999999, 10000000], "image{}.bmp")
        trees.write_frames(raw / "s20/non_micro/s20_non_01", [1, 2], "image{:06d}.bmp")
        (raw / "s2").mkdir()
        trees.write_frames(
            data / "SMIC_all_cropped" / camera / "s1/micro/negative/s1_ne_01", [90823], "reg_image{:06d}.bmp"
        )
    return data


@pytest.mark.parametrize(
    ("config", "dataset", "fps", "modality"),
    [("hs", "smic_hs", 100.0, "rgb"), ("vis", "smic_vis", 25.0, "rgb"), ("nir", "smic_nir", 25.0, "nir")],
)
def test_cut_clips(tree, tmp_path, config, dataset, fps, modality):
    clips, _, report = trees.run_builder("smic", config, tree, tmp_path / "out")
    assert [(c, r.subject, r.emotion, r.onset, r.apex, r.offset, r.apex_source) for c, r in clips.items()] == [
        (f"{dataset}/s01/s1_ne_01", "s01", "negative", 0, -1, 2, "missing"),
        (f"{dataset}/s01/s1_sur_01", "s01", "surprise", 0, -1, 1, "missing"),
        (f"{dataset}/s20/s20_po_02", "s20", "positive", 0, -1, 1, "missing"),
    ]
    assert {(r.dataset, r.cohort, r.fps, r.modality) for r in clips.values()} == {(dataset, "smic", fps, modality)}
    assert trees.numbers_of(clips[f"{dataset}/s01/s1_ne_01"]) == [n % 65536 for n in (90823, 90824, 90826)]
    assert clips[f"{dataset}/s01/s1_ne_01"].frames[0].startswith(b"\x89PNG")  # bmp is kept without loss
    assert (clips[f"{dataset}/s20/s20_po_02"].action_units == -1).all()
    assert report.notes["subjects_without_micro"] == ["s2"]


def test_cropped(tree, tmp_path):
    clips, _, _ = trees.run_builder("smic", "hs_cropped", tree, tmp_path / "out")
    assert list(clips) == ["smic_hs/s01/s1_ne_01"]


@pytest.mark.parametrize("place", ["s1/s1_sur_01", "s1/micro/surprise/s1_sur_01"])
def test_landmarks_beside_the_frames(tree, tmp_path, place):
    """Beside the subject's name, or in the tree of the frames as the landmark command writes it."""
    points = np.random.default_rng(0).uniform(0, 9, (2, 68, 2)).astype(np.float32)
    path = tree / f"SMIC_all_raw_landmarks/HS/{place}.npy"
    path.parent.mkdir(parents=True)
    np.save(path, points)
    clips, _, _ = trees.run_builder("smic", "hs", tree, tmp_path / "out")
    np.testing.assert_array_equal(clips["smic_hs/s01/s1_sur_01"].landmarks, points)
    assert np.isnan(clips["smic_hs/s01/s1_ne_01"].landmarks).all()


def test_labels_come_from_folders_that_must_be_known(tree, tmp_path):
    micro = tree / "SMIC_all_raw/HS/s1/micro"
    (micro / "negative/s1_ne_01").rename(micro / "surprise/s1_ne_01")
    with pytest.raises(UserError, match="found 's1_ne_01' among the surprise clips of subject s1"):
        trees.run_builder("smic", "hs", tree, tmp_path / "out")
    (micro / "surprise").rename(micro / "disgust")
    with pytest.raises(UserError, match="unknown label 'disgust'; expected a folder negative, positive, surprise"):
        trees.run_builder("smic", "hs", tree, tmp_path / "out")
    with pytest.raises(UserError, match=r"(?s)no folder 'SMIC_all_raw'.*University of Oulu.*s1_ne_01"):
        trees.run_builder("smic", "hs", tree / "SMIC_all_raw/VIS", tmp_path / "out")


def test_smic_e(tmp_path):
    def row(subject, clip, onset, offset, emotion, onset2=None):
        return [subject, clip, None, onset, offset, onset2, None, None, None, None, 1, 99, 1, 1, -5, 99, emotion]

    hs = [
        trees.SMIC_E,
        row("s01", "s1_ne_01", 90825, 90827, "negative", 90829),
        row("s03", "s3_ne_20", 12, None, "negative"),
        row("s04", "s4_po_01", 12, 14, "positive"),
        ["Note: OnsetF is the onset of the first event"],
    ]
    vis = [trees.SMIC_E, row("s11", "s11_sur_01", 2, 3, "surprise")]
    trees.add_formulas(trees.write_xlsx(tmp_path / "SMIC-HS-E_annotation.xlsx", {"HS": hs, "VIS": vis}), 1)
    base = tmp_path / "SMIC-E_raw image"
    trees.write_frames(base / "HS_long/SMIC-HS-E/s01/s1_ne_01", range(90820, 90832), "image{:06d}.jpg")
    trees.write_frames(base / "VIS_long/SMIC-VIS-E/s11/s11_sur_01", range(1, 6), "image{:06d}.jpg")
    clips, skipped, report = trees.run_builder("smic", "e", tmp_path, tmp_path / "out")
    (clip,) = clips.values()
    assert (clip.clip, clip.subject, clip.cohort) == ("smic_e/s01/s1_ne_01", "s01", "smic")
    assert (clip.onset, clip.apex, clip.offset, len(clip.frames)) == (5, -1, 7, 12)
    assert [s.row.rsplit("(")[1] for s in skipped] == ["s04/s4_po_01)"]
    assert [s["reason"].split(" (")[0] for s in report.skipped[:2]] == [
        "the sheet gives no offset for it", "no clip name: a note beside the table",
    ]  # fmt: skip
    assert report.notes["further_events"] == {"s1_ne_01": "90829"}
    clips, _, _ = trees.run_builder("smic", "e_vis", tmp_path, tmp_path / "out")
    assert [(c, r.onset, r.offset, r.fps) for c, r in clips.items()] == [("smic_e_vis/s11/s11_sur_01", 1, 2, 25.0)]
