"""Every word and row of `configs/akmnet.py` is a network; the released schedule is the authors'."""

import copy

import numpy as np
import pytest

from configs import akmnet
from mer_jax import systems
from mer_jax.settings import Settings
from mer_jax.training.optimizer import learning_rate


def built(config):
    fields = {k: v for k, v in config.to_dict().items() if k not in ("ablation", "rows", "row_names")}
    return systems.build(Settings(fields), 4, 7)


@pytest.mark.parametrize("word", ["", *(w for w in akmnet.VARIANTS if w not in akmnet.ROWS)])
def test_words(word):
    assert built(akmnet.get_config(word)).finetune.optimizer.name == "sgd"


@pytest.mark.parametrize("table", akmnet.ROWS)
def test_rows(table):
    config = akmnet.get_config(table)
    assert config.row_names[0] == "mined"
    found = {}
    for name in config.row_names:
        row = copy.deepcopy(config)
        row.update(config.rows[name])
        found[name] = built(row)
        assert row.data.protocol == "loso"
        assert (row.seeds == (0, 1, 2)) == (table == "study")
    own = {(s.settings.ft, s.settings.pre.objective) for s in found.values()}
    assert len(own) == len(found)
    # the stills that are learned first do not depend on the row: one pre-training serves the table
    assert len({(s.settings.model, s.settings.data) for s in found.values()}) == 1


def test_the_paper_and_its_code():
    paper, released = (built(akmnet.get_config(word)) for word in ("paper", "released"))
    assert (paper.needs.size, paper.needs.channels) == (128, 1)
    assert paper.oracle_inputs == "boundaries"
    assert built(akmnet.get_config("extent=whole")).oracle_inputs == "none"
    assert built(akmnet.get_config("extent=whole,data.extent=onset_offset")).oracle_inputs == "boundaries"
    # 40 epochs of 10 steps: down to 1e-8 once, or down and up again every 16 epochs
    rates = learning_rate(paper.finetune.optimizer, 400, 10)
    np.testing.assert_allclose([rates(0), rates(200), rates(400)], [1e-3, 0.5e-3, 1e-8], rtol=1e-3)
    waves = learning_rate(released.finetune.optimizer, 400, 10)
    epochs = {1: 1e-3, 5: 0.5e-3, 9: 1e-8, 17: 1e-3, 25: 1e-8, 33: 1e-3, 40: 3.8e-5}
    for epoch, rate in epochs.items():
        np.testing.assert_allclose([waves(10 * epoch - 10), waves(10 * epoch - 1)], rate, rtol=5e-3)
