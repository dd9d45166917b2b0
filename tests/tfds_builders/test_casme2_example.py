"""From a licensed-style folder to labelled folds: synthetic faces laid out as CASME II, read back field by field."""

import numpy as np

from mer_jax.data.clips import ClipTable
from mer_jax.evaluation import labels, protocols
from tests.tfds_builders import casme2_example, trees
from tfds_builders.synthetic_faces import generate


def test_from_folder_to_folds(tmp_path):
    data = tmp_path / "data"
    written = casme2_example.write(data, generate.generate("tiny_micro"))
    clips, skipped, report = trees.run_builder("casme2", "raw", data, tmp_path / "out")
    assert not skipped
    assert list(clips) == [name for name, _ in written]
    for i, (name, truth) in enumerate(written):
        clip = clips[name]
        assert list(clip.frames) == list(truth.frames)
        assert (clip.onset, clip.offset, clip.emotion) == (truth.onset, truth.offset, truth.emotion)
        assert (clip.apex, clip.apex_source) == ((-1, "missing") if i == 3 else (truth.apex, "annotated"))
        np.testing.assert_array_equal(clip.action_units == 1, truth.action_units == 1)
        np.testing.assert_array_equal(clip.action_unit_sides, truth.action_unit_sides)
    table = ClipTable.from_records(clips.values())
    labelled = labels.apply("casme2_5", table)
    assert labelled.used.all()
    assert "casme2" in labelled.differences[0]  # these are not CASME II's counts, and the run will say so
    folds = protocols.make("loso", table, labelled.labels)
    assert len(folds) == len({r.subject for _, r in written})
    assert sum(int(f.test.sum()) for f in folds) == len(written)
    assert report.notes["sheets"][0]["version"].startswith("2014")
