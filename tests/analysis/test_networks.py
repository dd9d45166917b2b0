"""Networks are opened from checkpoints alone."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from mer_jax import systems
from mer_jax.analysis.networks import check_folds, fold_names, open_network
from mer_jax.errors import UserError
from mer_jax.training.checkpoint import Finished, Rolling
from tests.made_up_runs import SYSTEMS, write_run
from tests.systems.conftest import make

CLASSES = ("happiness", "disgust", "surprise")


def batch(n=2):
    rng = np.random.default_rng(0)
    return {k: rng.random((n, 32, 32, 3), np.float32) for k in ("first", "second")}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    settings = make(seeds=(3, 4), pre={"objective": "none"}, data={"labels": "synthetic_5"})
    system = systems.build(settings, len(CLASSES))
    variables = system.finetune.module.init(jax.random.key(0), batch(), False)
    (root / "config.json").write_text(json.dumps(settings.to_dict()))
    (root / "manifest.json").write_text(json.dumps({"classes": CLASSES}))
    for seed in (3, 4):
        finished = Finished(root / "checkpoints" / f"seed_{seed}" / "finetune" / "folds")
        scaled = jax.tree.map(lambda x, s=seed: np.asarray(x) * s, dict(variables))
        finished.save("cohort/01", scaled, {"fold": "cohort/01", "clips": {"c": [0.2, 0.3, 0.5]}})
        finished.close()
    return root, system, variables


def test_a_fold_says_what_its_network_says(workdir):
    root, system, variables = workdir
    network = open_network(root, "cohort/01", seed=4)
    assert network.classes == CLASSES
    assert network.meta["clips"] == {"c": [0.2, 0.3, 0.5]}
    scaled = jax.tree.map(lambda x: x * 4, dict(variables))
    expected = jax.jit(system.finetune.module.apply, static_argnums=2)(scaled, batch(), False)["logits"]
    np.testing.assert_allclose(network.apply(batch())["logits"], expected, rtol=1e-5)
    first = open_network(root, "cohort/01")
    assert not np.allclose(first.apply(batch())["logits"], expected)


def test_what_is_not_there_is_named(workdir, tmp_path):
    root, *_ = workdir
    assert fold_names(root) == ["cohort/01"]
    for arguments, message in (
        ({"fold": "cohort/02"}, r"no finished fold 'cohort/02'; there are cohort/01"),
        ({"fold": "cohort/01", "seed": 5}, r"no seed 5; there are 3, 4"),
        ({}, r"holds no imported weights; name one of its folds: cohort/01"),
    ):
        with pytest.raises(UserError, match=message):
            open_network(root, **arguments)
    with pytest.raises(UserError, match=r"no config\.json"):
        open_network(tmp_path)
    check_folds(root, ["cohort/01"])
    with pytest.raises(UserError, match=r"no checkpoint of the fold cohort/02, cohort/03 that splits\.csv names"):
        check_folds(root, ["cohort/03", "cohort/01", "cohort/02"], seed=4)


def test_classes_that_nobody_knows_are_named(workdir, tmp_path):
    root, *_ = workdir
    settings = json.loads((root / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "manifest.json").write_text('{"classes": ["happiness", "joy"]}')
    with pytest.raises(
        UserError, match=r"manifest\.json: found the class 'joy'; the label set 'synthetic_5' has happin"
    ):
        open_network(tmp_path, "cohort/01")
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "config.json").write_text(json.dumps({**settings, "data": {**settings["data"], "labels": "own"}}))
    with pytest.raises(
        UserError, match=r"manifest\.json: found no classes, and the label set 'own' takes them from the"
    ):
        open_network(tmp_path, "cohort/01")
    (tmp_path / "manifest.json").write_text('{"classes": [')
    with pytest.raises(UserError, match=r"manifest\.json: not JSON"):
        open_network(tmp_path, "cohort/01")


def test_imported_weights_open_without_a_fold(workdir, tmp_path):
    root, _, variables = workdir
    (tmp_path / "config.json").write_text((root / "config.json").read_text())
    (tmp_path / "manifest.json").write_text("{}")
    rolling = Rolling(tmp_path / "checkpoints" / "pretrain")
    state = {"params": variables["params"], "collections": {"batch_stats": variables["batch_stats"]}}
    rolling.save(0, state, {"finished": True, "persons": None, "imported": "ma2mi", "n_classes": 3})
    rolling.close()
    network = open_network(tmp_path)
    assert network.classes == ("class 0", "class 1", "class 2")
    assert network.apply(batch())["logits"].shape == (2, 3)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_opens_without_what_training_and_building_need(name, tmp_path):
    """In a fresh interpreter with other devices than those that wrote the run."""
    write_run(tmp_path, name, CLASSES, persons=("p001",), data__labels="own")
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('tensorflow', 'tensorflow_datasets', 'grain', 'ml_collections')))\n"
        "from mer_jax.analysis.open_run import open_run\n"
        f"run = open_run({str(tmp_path)!r})\n"
        "import jax\n"
        "arrays = jax.tree.leaves(run.network('p001').variables)\n"
        "print(run.system.settings.system, *run.folds(), *run.classes, jax.device_count(), len(arrays))\n"
    )
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=3"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    arrays = len(jax.tree.leaves(open_network(tmp_path, "p001").variables))
    assert done.stdout.split() == [name, "p001", *CLASSES, "3", str(arrays)]
