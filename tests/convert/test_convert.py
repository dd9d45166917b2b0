"""The table of names: what goes where, and what is wrong with weights that do not fit."""

import numpy as np
import pytest

from mer_jax import convert
from mer_jax.convert import Entry
from mer_jax.errors import UserError

TEMPLATE = {
    "params": {"conv": {"kernel": np.zeros((3, 2, 4, 5), np.float32)}, "dense": {"kernel": np.zeros((6, 7), "f4")}},
    "batch_stats": {"norm": {"mean": np.zeros(5, np.float32)}},
    "constants": {"statistics": {"mean": np.full(2, 9.0, np.float32)}},
}
ENTRIES = {
    "c.weight": Entry("params/conv/kernel", convert.CONV2D),
    "d.weight": Entry("params/dense/kernel", shape=(6, 7, 1)),
    "n.running_mean": Entry("batch_stats/norm/mean"),
}


def weights():
    rng = np.random.default_rng(0)
    shapes = {"c.weight": (5, 4, 3, 2), "d.weight": (6, 7, 1), "n.running_mean": (5,), "n.num_batches_tracked": ()}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def test_every_tensor_goes_to_its_place():
    given = weights()
    found = convert.assemble(given, ENTRIES, TEMPLATE)
    kernel = found["params"]["conv"]["kernel"]
    assert kernel.dtype == np.float32
    assert kernel[2, 1, 3, 4] == np.float32(given["c.weight"][4, 3, 2, 1])
    np.testing.assert_allclose(found["params"]["dense"]["kernel"], given["d.weight"][..., 0], rtol=1e-6)
    np.testing.assert_allclose(found["batch_stats"]["norm"]["mean"], given["n.running_mean"], rtol=1e-6)
    assert found["constants"]["statistics"]["mean"].tolist() == [9, 9]


def test_all_that_is_wrong_is_named_at_once():
    given = weights() | {"d.wight": np.zeros(3), "old.thing": np.zeros(1), "n.running_mean": np.zeros(4)}
    del given["d.weight"]
    with pytest.raises(UserError) as error:
        convert.assemble(given, ENTRIES, TEMPLATE, ignored=(r"old\..*",))
    text = str(error.value)
    assert "1 unknown: d.wight" in text
    assert "1 missing: d.weight" in text
    assert "d.wight like d.weight" in text
    assert "n.running_mean (4,) instead of (5,)" in text
    assert "old.thing" not in text
    assert "num_batches" not in text


def test_a_map_that_does_not_cover_the_network_is_a_bug():
    with pytest.raises(ValueError, match=r"params/dense/kernel"):
        convert.assemble(weights(), {k: v for k, v in ENTRIES.items() if k != "d.weight"}, TEMPLATE)
    twice = ENTRIES | {"e.weight": ENTRIES["d.weight"]}
    with pytest.raises(ValueError, match="twice"):
        convert.assemble(weights(), twice, TEMPLATE)
