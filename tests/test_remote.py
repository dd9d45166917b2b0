"""Workdirs and data in a bucket (gs://), over a bucket in memory."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mer_jax import files
from mer_jax.analysis.networks import fold_names
from mer_jax.analysis.report import write_report
from mer_jax.data.source import open_dataset
from mer_jax.errors import Preempted, UserError
from mer_jax.evaluation.results import read_metrics, read_predictions
from mer_jax.startup import workdir
from mer_jax.training import checkpoint
from mer_jax.workdir import Workdir
from tests import fake_bucket
from tests.analysis.conftest import write_workdir
from tests.training import test_pretrain, test_waves
from tfds_builders.build import ensure_built


@pytest.fixture
def bucket(monkeypatch):
    server = fake_bucket.serve(monkeypatch)
    yield files.path_of("gs://bucket/run")
    server.shutdown()


def test_what_is_written_is_whole_or_absent(bucket):
    files.write_json(bucket / "a" / "b.json", {"x": 1})
    assert files.read_json(bucket / "a" / "b.json") == {"x": 1}

    def half():
        with files.atomic_open(bucket / "a" / "half.csv") as file:
            file.write("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert [p.name for p in (bucket / "a").iterdir()] == ["b.json"]
    with files.atomic_open(bucket / "a" / "n.npz", "wb") as file:
        np.savez_compressed(file, n=np.arange(3))
    assert np.load(io.BytesIO((bucket / "a" / "n.npz").read_bytes()))["n"].tolist() == [0, 1, 2]
    files.remove_tree(bucket / "a")
    assert not (bucket / "a" / "b.json").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/run", r"--workdir s3://bucket/run: found s3://; expected a folder or gs://"),
        ("memory://run", r"found memory://; expected a folder or gs://"),
        ("gs://", "names no bucket"),
    ],
)
def test_urls_that_checkpoints_cannot_be_written_to_are_refused(url, message):
    with pytest.raises(UserError, match=message):
        workdir(url)


def test_a_bucket_that_cannot_be_reached_is_one_message(bucket, monkeypatch):
    def lost(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(fake_bucket.Bucket, "info", lost)
    monkeypatch.setattr(fake_bucket.Bucket, "exists", lost)
    with pytest.raises(UserError, match=r"gs://bucket/run cannot be reached \(no route to host\)"):
        workdir("gs://bucket/run")


def test_a_run_in_a_bucket_is_stopped_and_goes_on_to_the_same_end(bucket, tmp_path):
    expected = test_pretrain.run(tmp_path / "local")
    with pytest.raises(Preempted):
        test_pretrain.run(bucket / "pretrain", test_pretrain.Stop(at=3))
    half = bucket / "pretrain" / "pretrain" / "17"  # what a kill leaves while orbax uploads
    (half / "state").mkdir(parents=True)
    (half / "state" / "_METADATA").write_text("{}")
    assert checkpoint.finished_state(bucket / "pretrain" / "pretrain") is None
    variables = test_pretrain.run(bucket / "pretrain")
    test_pretrain.assert_close(variables, expected, 0)
    finished = checkpoint.finished_state(bucket / "pretrain" / "pretrain")
    assert finished.name == "20"
    assert [p.name for p in finished.parent.iterdir()] == ["20"]
    looks = [json.loads(line) for line in (bucket / "pretrain" / "log.jsonl").read_text().splitlines()]
    assert [look["step"] for look in looks] == [5, 10, 15, 20]
    assert len(list((bucket / "pretrain").glob("events.*"))) == 2

    here, _ = test_waves.run(tmp_path / "folds")
    half = (
        bucket / "checkpoints" / "finetune" / "folds" / "p1" / "state"
    )  # under its final name: a bucket cannot rename
    half.mkdir(parents=True)
    (half / "_METADATA").write_text("{}")
    there, _ = test_waves.run(bucket / "checkpoints" / "finetune")
    test_waves.assert_close(there, here, 0)
    files.write_json(bucket / "config.json", {"seeds": [0]})
    assert fold_names("gs://bucket/run") == list(there)


def test_config_and_manifest_are_claimed_once(bucket):
    place = Workdir(bucket, (0,))
    place.claim({"a": 1, "seeds": [0]})
    place.manifest(split_hash="x")
    again = Workdir(files.path_of("gs://bucket/run"), (0,))
    again.claim({"a": 1, "seeds": [0]})
    with pytest.raises(UserError, match=r"--workdir gs://bucket/run holds a run with another config \(a: 1 there"):
        again.claim({"a": 2, "seeds": [0]})
    with pytest.raises(UserError, match="holds a run on other data: split_hash was x"):
        again.manifest(split_hash="y")
    assert sorted(p.name for p in bucket.iterdir()) == ["config.json", "manifest.json"]


def test_the_report_of_a_run_in_a_bucket_is_that_of_the_same_run_in_a_folder(bucket, tmp_path):
    local = tmp_path / "run"
    write_workdir(local)
    for path in local.rglob("*"):
        if path.is_file():
            (bucket / path.relative_to(local).as_posix()).write_bytes(path.read_bytes())
    assert read_metrics(bucket / "metrics.json") == read_metrics(local / "metrics.json")
    ours, theirs = (read_predictions(place / "predictions.csv") for place in (bucket, local))
    assert np.array_equal(ours.probability, theirs.probability)
    page = write_report(bucket)
    assert page.read_text() == write_report(local).read_text()
    assert {p.name for p in (bucket / "figures").iterdir()} == {p.name for p in (local / "figures").iterdir()}


def test_data_in_a_bucket_are_copied_once_and_read_from_there(bucket, tmp_path, monkeypatch):
    name, data = "synthetic_faces/tiny_macro", Path(os.environ["MER_JAX_TEST_DATA"])
    ensure_built(name, data)
    monkeypatch.setenv("HOME", str(tmp_path))
    root = bucket.parent / "data"
    for path in (data / name).rglob("*"):
        if path.is_file():
            (root / path.relative_to(data).as_posix()).write_bytes(path.read_bytes())
    here, there = open_dataset(name, data), open_dataset(name, root)
    assert there.fingerprint == here.fingerprint
    assert np.array_equal(there.frame(0, 1), here.frame(0, 1))
    (copy,) = (tmp_path / ".cache/mer_jax/data/fetched").glob("*/*/finished.json")
    before = copy.stat().st_mtime_ns
    open_dataset(name, "gs://bucket/data")
    assert copy.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"is not in gs://bucket/data; build it in a folder .* gcloud storage cp"):
        open_dataset("synthetic_faces/tiny_micro", root)
    shutil.rmtree(copy.parent)
    (records,) = (root / name / "1.0.0").glob("*.array_record*")
    records.write_bytes(records.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"\d+ bytes found, \d+ expected; the dataset is damaged"):
        open_dataset(name, root)
