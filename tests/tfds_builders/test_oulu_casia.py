"""Oulu-CASIA from a tiny tree in the distributed layout."""

import pytest

from mer_jax.errors import UserError
from tests.tfds_builders import trees


def test_every_field(tmp_path):
    data = tmp_path / "data"
    trees.write_frames(data / "OriginalImg/NI/Dark/P001/Anger", range(9), "{:03d}.jpeg", channels=1)
    trees.write_frames(data / "PreProcess/VL_Acropped/Strong/P080/Surprise", range(12), "{:03d}.jpeg")
    clips, _, _ = trees.run_builder("oulu_casia", "ni_dark", data, tmp_path / "out")
    (clip,) = clips.values()
    assert (clip.clip, clip.subject, clip.cohort) == ("oulu_casia_ni_dark/P001/Anger", "P001", "oulu_casia")
    assert (clip.emotion, clip.modality, clip.fps, clip.expression_type) == ("anger", "nir", 25.0, "macro")
    assert (clip.onset, clip.apex, clip.offset) == (0, 8, 8)
    clips, _, _ = trees.run_builder("oulu_casia", "vl_strong_cropped", data, tmp_path / "out")
    (clip,) = clips.values()
    assert (clip.subject, clip.emotion, clip.modality, len(clip.frames)) == ("P080", "surprise", "rgb", 12)
    with pytest.raises(UserError, match="no folder 'VL/Strong'"):
        trees.run_builder("oulu_casia", "vl_strong", data, tmp_path / "out")
    (data / "OriginalImg/NI/Dark/P001/Anger").rename(data / "OriginalImg/NI/Dark/P001/Angst")
    with pytest.raises(UserError, match="unknown label 'Angst'"):
        trees.run_builder("oulu_casia", "ni_dark", data, tmp_path / "out")
