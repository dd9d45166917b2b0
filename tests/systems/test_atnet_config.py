"""Every word and row of `configs/atnet.py` is a network; the paper's is the paper's."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import atnet
from mer_jax import systems
from mer_jax.evaluation import protocols
from mer_jax.settings import Settings
from mer_jax.training.optimizer import learning_rate
from mer_jax.training.state import carry_over
from mer_jax.training.step import initial_variables


def built(config):
    fields = {k: v for k, v in config.to_dict().items() if k not in ("ablation", "rows", "row_names")}
    return systems.build(Settings(fields), 3, 7)


@pytest.mark.parametrize("word", ["", *(w for w in atnet.VARIANTS if w not in atnet.ROWS)])
def test_words(word):
    optimizer = built(atnet.get_config(word)).finetune.optimizer
    assert (optimizer.schedule, optimizer.parts) == ("step", 5)


@pytest.mark.parametrize("table", atnet.ROWS)
def test_rows(table):
    config = atnet.get_config(table)
    assert tuple(config.row_names) == tuple(atnet.ROWS[table])
    seen = set()
    for name in config.row_names:
        row = copy.deepcopy(config)
        row.update(config.rows[name])
        assert row.data.protocol in protocols.PROTOCOLS
        assert row.data.name.count("+") == 4
        assert tuple(row.seeds) == (0, 1, 2)
        built(row)
        seen.add(str({k: v for k, v in row.to_dict().items() if k not in ("rows", "row_names")}))
    assert len(seen) == len(config.row_names)  # no two rows are the same run


def test_the_study_crosses_streams_and_protocols():
    rows = atnet.get_config("study").rows
    found = {(r.get("model", {}).get("streams", "fusion"), r["data"]["protocol"]) for r in map(dict, rows.values())}
    streams, ways = ("spatial", "temporal", "fusion"), ("loso_within", "cde", "cross_dataset", "hde_from_base")
    assert found == {(s, p) for s in streams for p in ways}
    # about the same number of steps in each: persons tested, clips left of 5 x 72
    largest = {"loso_within": 71, "cde": 359, "cross_dataset": 288, "hde_from_base": 72}
    steps = {
        p: r["ft"]["epochs"] * -(-largest[p] // 32) for r in map(dict, rows.values()) for p in [r["data"]["protocol"]]
    }
    assert max(steps.values()) / min(steps.values()) < 1.1


def test_the_network_of_the_paper():
    system = built(atnet.get_config("megc2019,paper"))
    ft = system.finetune
    assert (system.needs.size, system.needs.channels) == (224, 1)
    assert (system.grid.steps, system.grid.features) == (64, 128)
    assert (ft.optimizer.name, ft.optimizer.b1, ft.optimizer.weight_decay) == ("sgd", 0.9, 5e-6)
    rate = learning_rate(ft.optimizer, 2500, 50)
    np.testing.assert_allclose([rate(s) for s in (0, 499, 500, 2499)], [1e-2, 1e-2, 1e-3, 1e-6], rtol=1e-4)
    image = {"apex": jnp.zeros((1, 224, 224, 1)), "label": jnp.zeros(1, jnp.int32)}
    batch = image | {"flow": jnp.zeros((1, 64, 128)), "valid": jnp.ones((1, 64), bool)}
    macro = jax.eval_shape(lambda: initial_variables(system.pretrain, image, jax.random.key(0)))
    fresh = jax.eval_shape(lambda: initial_variables(ft, batch, jax.random.key(0)))
    _, report = carry_over(fresh, macro, ft.carry)
    assert set(report["loaded"]) == {
        "params/spatial", "batch_stats/spatial"
    }  # fmt: skip
    assert sum(x.size for x in jax.tree.leaves(fresh["params"])) == 8_312_837
    released = atnet.get_config("released")
    assert (released.model.padding, released.ft.augment_p, released.ft.sampler) == ("right_aligned", 0.0, "balanced")
    assert released.ft.epochs * -(-441 // released.ft.batch) == pytest.approx(2500, rel=0.01)
