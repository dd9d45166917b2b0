"""Builds: atomic, redone only when something changed, one at a time, one message for a mistake."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mer_jax.data import frames, index
from mer_jax.data.clips import AU_SLOTS, ClipRecord
from mer_jax.data.source import built_datasets, open_dataset
from mer_jax.errors import UserError
from tfds_builders import build
from tfds_builders.common.builder import ClipBuilder, ClipConfig
from tfds_builders.common.jobs import Job
from tfds_builders.common.report import Skipped


def toy_record(number, dataset="toy_faces", length=3, **changes):
    rng = np.random.default_rng(number)
    none = np.full(AU_SLOTS, -1, np.int8)
    zero = np.zeros(AU_SLOTS, np.int8)
    fields = {
        "clip": f"{dataset}/s{number % 3}/c{number:03d}",
        "dataset": dataset,
        "subject": f"s{number % 3}",
        "cohort": dataset,
        "frames": [frames.encode_png(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)) for _ in range(length)],
        "modality": "rgb",
        "fps": 100.0,
        "onset": 0,
        "apex": 1,
        "offset": length - 1,
        "apex_source": "annotated",
        "emotion": "happiness",
        "expression_type": "micro",
        "action_units": none,
        "action_unit_sides": zero,
        "action_unit_intensity": zero,
        "landmarks": np.full((length, 68, 2), np.nan, np.float32),
    }
    return ClipRecord(**(fields | changes))


def make_or_skip(number):
    """A job's function; the earlier a clip, the longer it takes, so that order is not an accident."""
    time.sleep(0.05 / (1 + number))
    if number == 4:
        return Skipped("row 4", "no frames")
    return toy_record(number, length=1 + number % 5, apex=-1, apex_source="missing")


class ToyConfig(ClipConfig):
    pass


class ToyFaces(ClipBuilder):
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = None
    made = 0
    fail_at = -1

    def _info(self):
        from tfds_builders.common.features import clip_features

        return tfds.core.DatasetInfo(builder=self, features=clip_features(), disable_shuffling=True)

    def clips(self, manual_dir, report):
        type(self).made += 1
        report.rows = 12
        report.correct("row 2", "apex", 99, 2, "beyond the clip")
        for number in range(12):
            if number == type(self).fail_at:
                raise UserError(f"row {number}: onset 5 > offset 2")
            yield Job(make_or_skip, (number,))


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(ToyFaces, "made", 0)
    monkeypatch.setattr(ToyFaces, "fail_at", -1)
    monkeypatch.setattr(build, "builder_class", lambda name: ToyFaces)
    return ToyFaces


def leftovers(data_dir):
    """Everything below a data directory but finished datasets and locks."""
    return [p for p in (data_dir / ".building").glob("*") if p.suffix != ".lock"]


def test_build_gives_every_field_back_in_order(toy, tmp_path):
    directory = build.build("toy_faces", tmp_path, processes=2)
    source = open_dataset("toy_faces", tmp_path)
    expected = [make_or_skip(n) for n in range(12) if n != 4]
    assert source.table["clip"].tolist() == [r.clip for r in expected]
    for i, record in enumerate(expected):
        assert source.encoded(i) == record.frames
        assert source.table["length"][i] == len(record.frames)
        np.testing.assert_array_equal(source.landmarks(i), record.landmarks)
        np.testing.assert_array_equal(source.table["action_units"][i], record.action_units)
        assert source.clip_fingerprints[i] == index.clip_fingerprint(record)
        for column in ("emotion", "modality", "apex_source", "expression_type", "fps", "onset", "offset", "true_apex"):
            assert source.table[column][i] == getattr(record, column)
    report = json.loads((directory / index.REPORT).read_text())
    assert (report["rows"], report["clips"]) == (12, 11)
    assert report["skipped"] == [{"row": "row 4", "reason": "no frames"}]
    assert report["corrected"][0]["reason"] == "beyond the clip"
    assert leftovers(tmp_path) == []
    assert built_datasets(tmp_path) == ["toy_faces"]


def test_finished_build_is_not_redone_and_a_changed_version_is(toy, tmp_path, monkeypatch):
    first = build.build("toy_faces", tmp_path, processes=1)
    before = {p.name: p.stat().st_mtime_ns for p in first.iterdir()}
    assert build.build("toy_faces", tmp_path, processes=1) == first
    assert {p.name: p.stat().st_mtime_ns for p in first.iterdir()} == before
    assert toy.made == 1
    monkeypatch.setattr(toy, "VERSION", tfds.core.Version("1.0.1"))
    second = build.build("toy_faces", tmp_path, processes=1)
    assert second.name == "1.0.1"
    assert toy.made == 2
    assert open_dataset("toy_faces", tmp_path).table is not None


def test_changed_content_of_a_config_is_rebuilt_in_place(toy, tmp_path, monkeypatch):
    directory = build.build("toy_faces", tmp_path, processes=1)
    key = toy.build_key
    monkeypatch.setattr(toy, "build_key", lambda self: {**key(self), "content": {"seed": 1}})
    assert build.build("toy_faces", tmp_path, processes=1) == directory
    assert toy.made == 2
    assert index.read_marker(directory)["build"]["content"] == {"seed": 1}
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_damaged_build_is_redone(toy, tmp_path, damage):
    directory = build.build("toy_faces", tmp_path, processes=1)
    shard = next(directory.glob("*array_record*"))
    if damage == "truncate":
        shard.write_bytes(shard.read_bytes()[:-100])
    else:
        shard.unlink()
    with pytest.raises(UserError, match=r"array_record.*build it again"):
        open_dataset("toy_faces", tmp_path)
    build.build("toy_faces", tmp_path, processes=1)
    assert toy.made == 2
    assert len(open_dataset("toy_faces", tmp_path).encoded(0)) == 1


def test_failed_build_leaves_nothing(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "fail_at", 7)
    with pytest.raises(UserError, match="row 7: onset 5 > offset 2"):
        build.build("toy_faces", tmp_path, processes=1)
    assert built_datasets(tmp_path) == []
    assert leftovers(tmp_path) == []


def test_builder_that_loses_a_row_is_caught(toy, tmp_path, monkeypatch):
    clips = toy.clips
    monkeypatch.setattr(toy, "clips", lambda self, m, r: [x for x in clips(self, m, r) if x.arguments != (5,)])
    with pytest.raises(RuntimeError, match="lost rows"):
        build.build("toy_faces", tmp_path, processes=1)


def test_duplicate_clip_is_refused(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "clips", lambda self, m, r: [toy_record(1), toy_record(1)])
    with pytest.raises(UserError, match="'toy_faces/s1/c001' appears twice"):
        build.build("toy_faces", tmp_path, processes=1)


def test_two_builds_at_once_make_one(toy, tmp_path):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(build.build("toy_faces", tmp_path, processes=1)))
        for _ in range(2)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results[0] == results[1]
    assert toy.made == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [("clip_foldr/x", "did you mean 'clip_folder'"), ("zzz", "unknown dataset 'zzz'; there are: .*clip_folder")],
)
def test_unknown_dataset(name, message, capsys):
    assert build.main([name]) == 2
    assert capsys.readouterr().err.count("error: ") == 1
    with pytest.raises(UserError, match=message):
        build.build(name)


def test_missing_manual_dir_says_how_to_obtain_the_data(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(toy, "MANUAL_DOWNLOAD_INSTRUCTIONS", "Ask the authors; expected: <dir>/s1/...")
    assert build.main(["toy_faces", "--data_dir", str(tmp_path)]) == 2
    assert "needs --manual_dir. Ask the authors" in capsys.readouterr().err
    assert build.main(["toy_faces", "--data_dir", str(tmp_path), "--manual_dir", str(tmp_path / "no")]) == 2
    assert "folder not found. Ask the authors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--manual_dirs", "x"], "did you mean --manual_dir"),
        (["--processes", "two"], "invalid int value: 'two'"),
        (["--processes", "0"], "at least 1"),
    ],
)
def test_mistaken_arguments(toy, tmp_path, arguments, message, capsys):
    assert build.main(["toy_faces", "--data_dir", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_full_or_read_only_disk_is_one_message(toy, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path / "x"))

    monkeypatch.setattr(build, "_move_into_place", refuse)
    assert build.main(["toy_faces", "--data_dir", str(tmp_path)]) == 2
    assert f"error: {tmp_path / 'x'}: Read-only file system; what was saved before is whole" in capsys.readouterr().err


def test_help_lists_the_datasets(capsys):
    assert build.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in build.dataset_names():
        assert name in text
    assert "--manual_dir" in text


def test_killed_build_leaves_nothing_that_is_trusted(tmp_path):
    """A build in a process of its own is killed while clips are being made; the next one starts afresh."""
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[2])\n"
        "import test_build as t\n"
        "from tfds_builders import build\n"
        "build.builder_class = lambda name: t.ToyFaces\n"
        "def slow(self, m, r):\n"
        "    for n in range(50):\n"
        "        print('made', n, flush=True, file=sys.__stdout__); time.sleep(0.2); yield t.toy_record(n)\n"
        "t.ToyFaces.clips = slow\n"
        "build.build('toy_faces', sys.argv[1], processes=1)\n"
    )
    here = os.path.dirname(__file__)
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), here], stdout=subprocess.PIPE, text=True)
    while "made 3" not in child.stdout.readline():
        assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert leftovers(tmp_path) != []  # the half-built directory is there, and is not a dataset
    assert built_datasets(tmp_path) == []
    with pytest.raises(UserError, match=r"run: python -m tfds_builders\.build toy_faces"):
        open_dataset("toy_faces", tmp_path)
