import json

import pytest

from mer_jax import files
from mer_jax.errors import UserError
from mer_jax.settings import Settings
from mer_jax.training import mesh
from mer_jax.workdir import Workdir


def test_settings_are_frozen_hashable_and_name_missing_fields():
    settings = Settings({"a": {"b": [1, (2, 3)]}, "c": 4})
    assert settings.a.b == (1, (2, 3))
    with pytest.raises(AttributeError, match="frozen"):
        settings.c = 5
    with pytest.raises(AttributeError, match=r"no field 'd'.*'a', 'c'"):
        _ = settings.d
    assert hash(settings) == hash(Settings(settings.to_dict()))
    assert settings.replace(c=5) != settings
    with pytest.raises(AttributeError, match="d"):
        settings.replace(d=1)


def test_an_atomic_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"x": 1})

    def fail_halfway():
        with files.atomic_open(path) as f:
            f.write("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert files.read_json(path) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_workdir_belongs_to_one_config(tmp_path):
    config = {"ft": {"epochs": 4}, "seeds": (0,), "stages": "all", "data": {"dir": "a"}}
    place = Workdir(tmp_path / "w", (0,))
    place.claim(config)
    place.claim(config | {"stages": "pretrain", "data": {"dir": "b"}})  # where and which part may differ
    with pytest.raises(UserError, match=r"ft\.epochs: 4 there, 5 now"):
        place.claim(config | {"ft": {"epochs": 5}})
    with pytest.raises(UserError, match=r"ft\.lr: None there, 1 now"):
        place.claim(config | {"ft": {"epochs": 4, "lr": 1}})


def test_processes_on_different_data_or_configs_are_refused_at_the_first_start(tmp_path, monkeypatch):
    """What process 0 has counts; another one, which sees no file yet, compares its own with that."""
    place, sent = Workdir(tmp_path / "0", (0,)), []
    monkeypatch.setattr(mesh, "agree_on_facts", lambda facts: sent.append(facts) or facts)
    place.claim({"a": 1})
    place.manifest(split_hash="x")
    monkeypatch.setattr(mesh.jax, "process_index", lambda: 1)
    monkeypatch.setattr(mesh, "agree_on_facts", lambda _: sent.pop(0))
    other = Workdir(tmp_path / "1", (0,))
    with pytest.raises(UserError, match=r"another config \(a: 1 there, 2 now"):
        other.claim({"a": 2})
    with pytest.raises(UserError, match="other data: split_hash was x, is y"):
        other.manifest(split_hash="y")
    assert list((tmp_path / "1").iterdir()) == []


def test_what_the_manifest_says_first_stays(tmp_path):
    place = Workdir(tmp_path, (0,))
    place.manifest(choices={"fold_mode": "vmap"})
    manifest = place.manifest(choices={"fold_mode": "loop"}, seeds=[0])
    assert manifest["choices"] == {"fold_mode": "vmap"}
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest
    assert {"versions", "devices", "processes", "seeds"} <= set(manifest)


def test_other_data_on_a_workdir_are_refused(tmp_path):
    Workdir(tmp_path, (0,)).manifest(fingerprints={"scored": "a"}, split_hash="x")
    with pytest.raises(UserError, match="other data: split_hash was x, is y"):
        Workdir(tmp_path, (0,)).manifest(fingerprints={"scored": "a"}, split_hash="y")
    with pytest.raises(UserError, match="other data: fingerprints"):
        Workdir(tmp_path, (0,)).manifest(fingerprints={"scored": "b"})


def test_seeds_have_checkpoints_of_their_own(tmp_path):
    assert Workdir(tmp_path, (3,)).checkpoints(3, "pretrain") == tmp_path / "checkpoints" / "pretrain"
    assert Workdir(tmp_path, (0, 1)).checkpoints(1, "pretrain") == tmp_path / "checkpoints" / "seed_1" / "pretrain"


def test_a_workdir_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Workdir(tmp_path / "file" / "w", (0,))
