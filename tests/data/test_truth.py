from pathlib import Path

import numpy as np
import pytest

from mer_jax.data import truth
from mer_jax.errors import UserError
from tfds_builders.synthetic_faces import generate
from tfds_builders.synthetic_faces import truth as writer


def test_true_motion_is_that_of_the_action_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    jobs = [job for job in generate.clip_jobs("tiny_micro") if job.emotion != "neutral"][:3]
    monkeypatch.setattr(generate, "clip_jobs", lambda config: jobs)
    assert writer.main(["tiny_micro", "--data_dir", str(tmp_path)]) == 0
    found = truth.read(tmp_path, "synthetic_faces_tiny_micro")
    assert found is not None
    assert found.clip.tolist() == [job.name for job in jobs]
    for job, motion, disturbance in zip(jobs, found.motion, found.disturbance, strict=True):
        assert float((motion**2).mean()) == pytest.approx(generate.action_unit_energy(job), rel=0.01)
        t = generate.facts(job).timeline
        blinks = t.blink[t.true_onset : t.true_apex + 1].max() > 0.1
        assert disturbance == pytest.approx(np.inf if blinks else generate.distractor_energy(job))


def test_what_nobody_wrote_and_what_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert truth.read(tmp_path, "casme2") is None
    path = truth.write(tmp_path, "a", truth.Truth(np.array(["a/1"]), np.ones((1, 2, 2), np.float32), np.zeros(1)))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=r"a\.npz: cannot be read .*write it again"):
        truth.read(tmp_path, "a")
    assert writer.main(["mikro", "--data_dir", str(tmp_path)]) == 2
    assert "has no config 'mikro'" in capsys.readouterr().err
