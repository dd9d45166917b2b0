"""ATNet's pictures: the gradient finds what decides, key frames stand where they belong, drawing needs arrays alone."""

import types

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.analysis import figures
from mer_jax.analysis.pictures import atnet, base
from mer_jax.data.clips import AU_SLOTS
from mer_jax.data.flow_grid import FlowGrid

SIZE, SIDE, CELLS, CLIPS = 8, 2, 2, 3


class Network(nn.Module):
    """Class 0 likes the lower right block of the apex, and the first feature of step 1 (twice) and step 2."""

    @nn.compact
    def __call__(self, batch, train):
        gain = self.param("gain", nn.initializers.ones, ())
        total = jnp.full(1, 5.0)
        if "apex" in batch:
            total = total + batch["apex"][:, 4:, 4:, 0].sum((1, 2))
        if "flow" in batch:
            total = total + 2 * batch["flow"][:, 1, 0] + batch["flow"][:, 2, 0]
        return {"logits": gain * jnp.stack([total, -total], -1)}


def opened(streams):
    valid = np.zeros((CLIPS, 2 * SIDE), bool)
    valid[:, 1:] = True
    valid[2, 2] = False

    def view(store, index, key, train):
        assert not train
        apex = store.frames[store.start[index] + store.apex[index]].astype(jnp.float32) / 255
        seen = {"label": jnp.int32(0)}
        if streams != "temporal":
            seen["apex"] = apex
        if streams != "spatial":
            seen |= {"flow": jnp.ones((2 * SIDE, 2 * CELLS**2)), "valid": jnp.asarray(valid)[index]}
        return seen

    fill = lambda value: np.full(CLIPS, value, np.int32)  # noqa: E731
    store = types.SimpleNamespace(
        frames=np.repeat(np.arange(30, dtype=np.uint8), SIZE * SIZE).reshape(30, SIZE, SIZE, 1),
        start=10 * np.arange(3),
        onset=fill(1), apex=np.array([5, 5, -1], np.int32), offset=fill(9), true_onset=fill(1), true_apex=fill(6),
        true_offset=np.array([9, -1, 9], np.int32), fps=np.array([100, np.nan, 50], np.float32),
    )  # fmt: skip
    units = np.zeros((CLIPS, AU_SLOTS), np.int8)
    units[:, 12] = 1
    system = types.SimpleNamespace(
        finetune=types.SimpleNamespace(module=Network()), view=view, grid=FlowGrid(side=SIDE, cells=CELLS)
    )
    return base.Tested(
        settings=types.SimpleNamespace(model=types.SimpleNamespace(cells=CELLS)), system=system, store=store,
        table={"action_units": units, "emotion": np.array(["happiness"] * CLIPS)}, classes=("positive", "negative"),
        folds=[({"params": {"gain": 1.0}}, np.array([0, 2])), ({"params": {"gain": -1.0}}, np.array([1]))],
        shown=[0, 1], landmarks=lambda row: np.zeros((68, 2)),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The store is no pytree here: the look is not compiled."""
    monkeypatch.setattr(atnet.jax, "jit", lambda f: f)


@pytest.mark.parametrize("streams", ["spatial", "temporal", "fusion"])
def test_arrays_and_pictures(streams):
    found = atnet.arrays(opened(streams))
    assert {name: x.ndim for name, x in found.items()} == {name: atnet.DIMENSIONS[name] for name in found}
    np.testing.assert_allclose(found["atnet_clip_apex"][:, 0, 0] * 255, [5, 15], rtol=1e-6)
    assert list(found["atnet_clip_title"]) == [
        "happiness (AU12), predicted positive", "happiness (AU12), predicted negative"
    ]  # fmt: skip
    if streams != "temporal":
        np.testing.assert_allclose(found["atnet_clip_pixels"], [[[0, 0], [0, 1]]] * 2, atol=1e-6)
    if streams != "spatial":
        np.testing.assert_allclose(found["atnet_clip_steps"], [[0, 2 / 3, 1 / 3, 0]] * 2, rtol=1e-5)
        np.testing.assert_allclose(sorted(found["atnet_all_steps"][:, 1]), [2 / 3, 2 / 3, 1], rtol=1e-5)
        np.testing.assert_allclose(found["atnet_clip_time"], [[-20, -10, 0, 10, 20], [-2, -1, 0, 1, 2]])
        np.testing.assert_allclose(found["atnet_clip_true"], [[-40, 10, 40], [-4, 1, np.nan]])
    drawn = atnet.pictures(found)
    assert [p.name for p in drawn] == ["atnet_apex"] + ["atnet_time", "atnet_steps"] * (streams != "spatial")
    if streams != "spatial":
        assert "78% of the gradient falls on steps before the apex" in drawn[-1].text
    for picture in drawn:
        assert len(figures.png(picture.figure)) > 2000
    assert atnet.pictures({}) == []
