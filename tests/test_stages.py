"""Where the weights that a run starts from are looked for, and what is said of them."""

import json
from types import SimpleNamespace

import pytest

from mer_jax import stages
from mer_jax.predict import ensemble
from mer_jax.settings import Settings
from mer_jax.training import checkpoint


def made(root, seeds, share, **more):
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.json").write_text(json.dumps({"seeds": seeds, "pre": {"share": share}, "init_from": "", **more}))
    return root


@pytest.mark.parametrize(
    ("seeds", "share", "seed", "expected"),
    [
        ([0, 1], False, 1, "seed_1/pretrain"),
        ([0, 1], False, 2, "seed_2/pretrain"),  # which is not there: never another seed's
        ([9, 10], True, 10, "seed_9/pretrain"),  # the first seed's, not the first name's
        ([0], False, 2, "pretrain"),
        (None, False, 2, "pretrain"),  # no config
    ],
)
def test_the_pretraining_behind_a_seed(tmp_path, seeds, share, seed, expected):
    if seeds:
        made(tmp_path, seeds, share)
    settings = Settings({"init_from": str(tmp_path)})
    found = checkpoint.pretraining_directory(settings, tmp_path / "other", seed)
    assert found == tmp_path / "checkpoints" / expected


@pytest.mark.parametrize(
    ("source", "share", "seeds", "expected"),
    [
        (([0, 1], False), False, (0, 1), False),
        (([0, 1], True), False, (0, 1), True),
        (([0], False), False, (0, 1), True),
        (([0], False), False, (0,), False),
        (None, True, (0, 1), True),
        (None, False, (0, 1), False),
    ],
)
def test_seeds_are_said_to_share_a_pretraining_only_where_they_do(tmp_path, source, share, seeds, expected):
    init_from = str(made(tmp_path / "source", *source)) if source else ""
    root = made(tmp_path / "run", list(seeds), share)
    settings = Settings({"seeds": seeds, "init_from": init_from, "pre": {"share": share}})
    assert stages.shares_pretraining(settings, SimpleNamespace(root=root)) is expected


@pytest.mark.parametrize("by", ["share", "init_from"])
def test_who_was_pretrained_on_is_known_for_every_seed(tmp_path, monkeypatch, by):
    """Of a run whose seeds share a pre-training, and of a row that starts from that run."""
    source = made(tmp_path / "source", [0, 1], True)
    place = source / "checkpoints" / "seed_0" / "pretrain"
    monkeypatch.setattr(ensemble, "finished_state", lambda directory: directory if directory == place else None)
    monkeypatch.setattr(ensemble, "read_meta", lambda directory: {"persons": ["d/s1"]})
    run = source if by == "share" else made(tmp_path / "row", [0, 1], True, init_from=str(source))
    networks = object.__new__(ensemble.Ensemble)
    networks.run, networks._seed = run, 1
    networks.settings = Settings(json.loads((run / "config.json").read_text()))
    assert "was pre-trained on" in networks._pretraining("d", "s1")[0]
    assert networks._pretraining("d", "s2") == []
