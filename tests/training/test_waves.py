import dataclasses

import jax
import numpy as np
import pytest

from mer_jax.errors import NonFiniteError, Preempted
from mer_jax.training import checkpoint, folds, waves
from mer_jax.training.monitor import Monitor
from mer_jax.training.optimizer import OptimizerSettings
from tests.training import toy

SETTINGS = folds.FoldSettings(
    steps=20, steps_per_epoch=2, batch=8, chunk_steps=5, save_every=5, evaluate_every=5, fold_mode="loop"
)


class Stop:
    """A preemption at the given call."""

    def __init__(self, at=None):
        self.at, self.calls = at, 0

    def reached(self):
        self.calls += 1
        return self.calls == self.at


def run(directory, settings=SETTINGS, protocol=None, system=None, stop=None, score=None, previous=None):
    """All folds; returns ({fold: variables}, {fold: meta})."""
    directory.mkdir(parents=True, exist_ok=True)
    protocol = protocol or toy.folds()
    engine = folds.FoldEngine(system or toy.ToySystem(), toy.store(), protocol, settings, previous)
    rolling, finished = checkpoint.Rolling(directory / "wave"), checkpoint.Finished(directory / "folds")
    monitor = Monitor(directory)
    try:
        waves.train_folds(engine, toy.clip_names(), rolling, finished, monitor, stop or Stop(), score)
    finally:
        monitor.close()
        rolling.close()
        finished.close()
    paths = {name: finished.path(name) for name in protocol.names}
    variables = {name: checkpoint.read_arrays(path) for name, path in paths.items()}
    return variables, {name: checkpoint.read_meta(path) for name, path in paths.items()}


def assert_close(a, b, tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.abs(x - y).max() <= tolerance * max(np.abs(y).max(), 1e-30)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return run(tmp_path_factory.mktemp("reference"))


@pytest.mark.parametrize(
    "change",
    [
        {"folds_per_device": 5, "fold_mode": "vmap"},
        {"folds_per_device": 3, "fold_mode": "loop"},
        {"chunk_mode": "scan", "chunk_steps": 8, "save_every": 8, "evaluate_every": 8},  # the last chunk is shorter
        {"chunk_steps": 8, "save_every": 8, "evaluate_every": 8},
        {"chunk_mode": "scan", "folds_per_device": 2, "fold_mode": "vmap"},
    ],
    ids=str,
)
def test_fold_and_chunk_modes_agree(tmp_path, reference, change):
    variables, meta = run(tmp_path, dataclasses.replace(SETTINGS, **change))
    assert_close(variables, reference[0], 1e-5)
    for name, expected in reference[1].items():
        for clip, probabilities in expected["clips"].items():
            np.testing.assert_allclose(meta[name]["clips"][clip], probabilities, atol=1e-5)


def test_a_fold_alone_equals_the_same_fold_among_all(tmp_path, reference):
    whole = toy.folds()
    alone = folds.Folds(whole.names[2:3], whole.train[2:3], whole.validation[2:3], whole.test[2:3])
    variables, meta = run(tmp_path, protocol=alone)
    assert_close(variables["p2"], reference[0]["p2"], 0)
    assert meta["p2"]["clips"] == reference[1]["p2"]["clips"]


def test_each_fold_scores_exactly_its_test_clips(reference):
    scored = [clip for meta in reference[1].values() for clip in meta["clips"]]
    assert sorted(scored) == sorted(toy.clip_names())
    assert all(f"/{name}/" in clip for name, meta in reference[1].items() for clip in meta["clips"])


def test_training_beats_chance_on_held_out_people(tmp_path):
    longer = dataclasses.replace(
        SETTINGS, steps=80, chunk_steps=40, save_every=80, evaluate_every=80, folds_per_device=5, fold_mode="vmap"
    )
    _, metas = run(tmp_path, longer)
    truth = dict(zip(toy.clip_names(), toy.store().label, strict=True))
    right = [np.argmax(p) == truth[c] for meta in metas.values() for c, p in meta["clips"].items()]
    assert np.mean(right) > 0.6


@pytest.mark.parametrize("stop_at", [1, 3, 6])
def test_a_preempted_run_continues_to_identical_results(tmp_path, reference, stop_at):
    settings = dataclasses.replace(SETTINGS, save_every=20)  # only the preemption saves
    with pytest.raises(Preempted):
        run(tmp_path, settings, stop=Stop(at=stop_at))
    variables, meta = run(tmp_path, settings)
    assert_close(variables, reference[0], 0)
    assert meta == reference[1]


def test_a_saved_wave_is_repacked_for_fewer_folds_a_wave(tmp_path, reference):
    wide = dataclasses.replace(SETTINGS, folds_per_device=5, fold_mode="vmap")
    with pytest.raises(Preempted):
        run(tmp_path, wide, stop=Stop(at=2))
    variables, _ = run(tmp_path)  # one fold a wave: the first goes on from step 10, the others start again
    assert_close(variables, reference[0], 1e-5)


def test_selection_takes_the_earliest_best_step_on_validation_clips(tmp_path):
    seen = []

    def score(clips, probabilities):
        assert probabilities.shape == (len(clips), toy.CLASSES)
        seen.append(clips)
        return [0.1, 0.7, 0.7, 0.3][(len(seen) - 1) % 4]

    protocol = toy.folds(validation=True)
    _, meta = run(tmp_path / "inner", protocol=protocol, score=score)
    assert [m["selected_step"] for m in meta.values()] == [10] * 5
    for fold, clips in enumerate(seen[::4]):
        np.testing.assert_array_equal(clips, np.flatnonzero(protocol.validation[fold]))
    short, _ = run(tmp_path / "short", dataclasses.replace(SETTINGS, steps=10), protocol=protocol)
    inner, _ = run(tmp_path / "inner", protocol=protocol, score=score)
    assert_close(inner, short, 1e-6)


def test_a_loss_that_is_not_finite_stops_and_names_the_term(tmp_path):
    system = toy.ToySystem(optimizer=OptimizerSettings(name="sgd", learning_rate=1e30))
    with pytest.raises(NonFiniteError, match=r"became .* in fold p0"):
        run(tmp_path, system=system)


def test_carried_modules_start_from_the_stage_before(tmp_path, reference):
    previous = reference[0]["p1"]
    protocol = toy.folds()
    engine = folds.FoldEngine(toy.ToySystem(), toy.store(), protocol, SETTINGS, previous)
    states = engine.init(*engine.inputs(("p0",)))
    assert_close(jax.tree.map(lambda x: x[0], states.params["encoder"]), previous["params"]["encoder"], 0)
    assert_close(
        jax.tree.map(lambda x: x[0], states.collections),
        previous["batch_stats"] and {"batch_stats": previous["batch_stats"]},
        0,
    )
    assert not np.allclose(states.params["head"]["kernel"][0], previous["params"]["head"]["kernel"])
