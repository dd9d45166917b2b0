"""From a licensed-style folder to folds with one call: what is not built yet is built by itself."""

import pytest

from configs import ma2mi
from mer_jax import prepare
from mer_jax.data import index
from mer_jax.errors import UserError
from mer_jax.settings import Settings
from tests.tfds_builders import casme2_example
from tfds_builders.synthetic_faces import generate

CONFIG = "scratch,casme2_5,data.name=casme2/raw"


def settings(data_dir, manual_dir, config=CONFIG):
    made = ma2mi.get_config(config)
    made.data.dir, made.data.manual_dir = str(data_dir), str(manual_dir)
    return Settings({k: v for k, v in made.to_dict().items() if k not in ("ablation", "rows")})


def test_a_missing_dataset_is_built_once_from_its_folder(tmp_path, capfd):
    folder, data = tmp_path / "CASME2", tmp_path / "data"
    jobs = [job for job in generate.clip_jobs("tiny_micro") if job.subject in ("p001", "p002")][:6]
    written = casme2_example.write(folder, map(generate.render_clip, jobs))
    made = prepare.micro(settings(data, folder))
    assert "building casme2/raw" in capfd.readouterr().err
    assert made.table["clip"].tolist() == [name for name, _ in written]
    assert len(made.folds) == 2
    assert made.labelled.classes == ("happiness", "disgust", "repression", "surprise", "others")
    (difference,) = made.labelled.differences  # told at the top of the run
    assert difference.startswith(f"casme2: {len(written)} clips at hand, 246 published")
    (marker,) = data.rglob(index.MARKER)
    before = marker.stat().st_mtime_ns
    again = prepare.micro(settings(data, folder))
    assert marker.stat().st_mtime_ns == before
    assert again.source.fingerprint == made.source.fingerprint

    with pytest.raises(UserError, match=r"data\.labels 'cd6me' is for task = au; task is 'emotion'"):
        prepare.micro(settings(data, folder, f"{CONFIG},labels=cd6me"))


def test_a_dataset_that_cannot_be_built_is_one_message(tmp_path, capfd):
    with pytest.raises(UserError, match="needs --manual_dir") as error:
        prepare.micro(settings(tmp_path / "data", ""))
    assert "CASME2-coding-20140508.xlsx" in str(error.value)
    assert "Traceback" not in capfd.readouterr().err
    assert not list((tmp_path / "data").rglob(index.MARKER))
