"""MOL's pictures: what is looked at, and what the colours and points say."""

import types
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.analysis.pictures import mol
from mer_jax.data.clips import AU_SLOTS

SIZE = 16


class Shifted(nn.Module):
    """Says the target plus what its only parameter says."""

    @nn.compact
    def __call__(self, batch: Any, train: bool) -> Any:
        by = self.param("by", nn.initializers.zeros, ())
        mean = jnp.zeros((1, 68, 2))
        return {"flow": batch["flow"] + by, "landmarks": batch["landmarks"] + by, "mean_shape": mean}


@pytest.fixture
def tested() -> Any:
    """Six clips of three frames; two folds whose networks are off by 1 and by 2. Clip 5 has no landmarks."""
    rng = np.random.default_rng(0)
    store = {
        "frames": jnp.asarray(rng.uniform(size=(6, 3, SIZE, SIZE, 1)), jnp.float32),
        "flow": jnp.asarray(rng.normal(size=(6, 2, SIZE, SIZE, 2)) * np.array([1.0, 3.0])[:, None, None, None], "f4"),
        "landmarks": jnp.asarray(rng.uniform(0, SIZE, (6, 2, 68, 2)), jnp.float32).at[5].set(jnp.nan),
    }

    def view(store: Any, index: Any, key: Any, train: bool) -> Any:
        assert not train
        return {name: value[index] for name, value in store.items()}

    def measures(outputs: Any, batch: Any) -> Any:
        return {
            "epe": jnp.array([0.25]),
            "epe_zero": jnp.array([0.5]),
            "nme": jnp.array([0.03]),
            "nme_mean": jnp.ones(1),
        }

    units = np.full((6, AU_SLOTS), -1, np.int8)
    units[2, [6, 12]] = 1
    network = types.SimpleNamespace(module=Shifted())
    return types.SimpleNamespace(
        system=types.SimpleNamespace(finetune=network, view=view, measures=measures),
        store=store,
        table={"action_units": units, "emotion": np.array(["joy"] * 6)},
        settings=types.SimpleNamespace(model=types.SimpleNamespace(flow=True, landmarks=True)),
        folds=[({"params": {"by": by}}, rows) for by, rows in ((1.0, np.array([0, 2, 4])), (2.0, np.array([1, 3, 5])))],
        shown=[2, 3, 5],
    )


def test_each_clip_is_seen_by_the_network_that_tested_it(tested: Any) -> None:
    found = mol.arrays(tested)
    assert {name: array.ndim for name, array in found.items()} == mol.DIMENSIONS
    np.testing.assert_array_equal(found["mol_flow_frame"], tested.store["frames"][np.array([2, 3, 5]), 1, ..., 0])
    np.testing.assert_allclose(found["mol_flow_target"], tested.store["flow"][np.array([2, 3, 5]), 1])
    off = found["mol_flow_found"] - found["mol_flow_target"]
    np.testing.assert_allclose(off.mean(axis=(1, 2, 3)), [1, 2, 2], rtol=1e-4)
    assert found["mol_flow_title"][0] == "joy (AU6, AU12): 0.250 px, no flow 0.500"
    assert found["mol_face_title"].tolist() == [
        "joy (AU6, AU12): 3.0%, mean shape 100.0%", "joy (AUs unknown): 3.0%, mean shape 100.0%",
    ]  # fmt: skip
    np.testing.assert_allclose(found["mol_face_found"][1] - found["mol_face_target"][1], 2, rtol=1e-4)


def test_pictures_of_what_is_there(tested: Any) -> None:
    panels = mol.arrays(tested)
    assert [p.name for p in mol.pictures(panels)] == ["flow", "landmarks"]
    assert [p.name for p in mol.pictures({k: v for k, v in panels.items() if "face" in k})] == ["landmarks"]
    tested.settings.model.flow = tested.settings.model.landmarks = False
    assert mol.arrays(tested) == {}
    assert mol.pictures({}) == []
    figure = mol.pictures(panels)[1].figure
    target, network = (figure.axes[i].lines[1].get_xydata() for i in (0, 1))
    np.testing.assert_allclose(network - target, 1, rtol=1e-4)  # fold of clip 2


def test_colour_wheel() -> None:
    """No motion is white, opposite ways are opposite hues, longer is stronger."""
    ways = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1], [0.5, 0], [2, 0]], float)[None]
    colours = mol.flow_image(ways, 1.0)[0]
    np.testing.assert_allclose(colours[0], 1)
    spread = colours.max(-1) - colours.min(-1)
    assert spread[5] == pytest.approx(0.5 * spread[1] * 0.925 / 0.85)
    np.testing.assert_allclose(colours[6], colours[1])
    for a, b in ((1, 2), (3, 4)):
        assert colours[a].argmax() != colours[b].argmax()
        np.testing.assert_allclose(colours[a] + colours[b], 0.85, atol=1e-6)
