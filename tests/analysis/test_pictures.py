import types
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.analysis.open_run import open_run
from mer_jax.analysis.pictures import base
from mer_jax.analysis.pictures import ma2mi as panels
from mer_jax.data.clips import AU_SLOTS


class MouthRecogniser(nn.Module):
    """Its action lives in the lower half of the face only, and class 1 likes it."""

    @nn.compact
    def __call__(self, batch: Any, train: bool) -> Any:
        gain = self.param("gain", nn.initializers.ones, ())
        action = gain * nn.avg_pool(jnp.abs(batch["second"] - batch["first"]), (4, 4), (4, 4))
        return {
            "logits": self.classify(action, action), "action": action, "position": action, "map_1": action[..., :1],
        }  # fmt: skip

    def classify(self, action: jax.Array, position: jax.Array) -> jax.Array:
        total = action.sum(axis=(1, 2, 3))
        return jnp.stack([-total, total], axis=-1)


def system() -> Any:
    def view(store: Any, index: jax.Array, key: jax.Array, train: bool) -> Any:
        assert not train
        return {"first": store["onset"][index], "second": store["apex"][index]}

    return types.SimpleNamespace(finetune=types.SimpleNamespace(module=MouthRecogniser()), view=view)


def test_heat_maps_of_the_folds_that_tested_a_clip():
    onset = np.full((6, 32, 32, 3), 0.5, np.float32)
    apex = onset.copy()
    apex[:, 20:28, 8:24] += 0.3
    units = np.full((6, AU_SLOTS), -1, np.int8)
    units[:5, 12] = 1
    units[4, [4, 12]] = [1, 0]
    table: Any = {"action_units": units, "emotion": np.array(["joy"] * 6)}
    points = np.full((68, 2), 16.0, np.float32)
    points[48:68] = np.stack([np.linspace(8, 23, 20), np.linspace(20, 27, 20)], -1)
    points[5:12] = [16, 28]
    points[17:27] = np.stack([np.linspace(8, 24, 10), np.full(10, 6)], -1)
    points[[36, 45]] = [[11, 12], [21, 12]]

    def landmarks(clip: int) -> np.ndarray:
        return points * (np.nan if clip == 1 else 1)

    # the second fold's network has no action at all: its maps are empty and its clips do not count
    tested = [({"params": {"gain": 1.0}}, np.array([0, 1, 4])), ({"params": {"gain": 0.0}}, np.array([2, 3, 5]))]
    store = {"onset": jnp.asarray(onset), "apex": jnp.asarray(apex)}
    found = panels.heat_maps(system(), store, table, ["sad", "joy"], tested, [0, 2, 5], landmarks)
    assert {name: array.ndim for name, array in found.items()} == {
        name: panels.DIMENSIONS[name] for name in found
    }  # what is written can be read
    np.testing.assert_array_equal(found["heat_onset"], onset[[0, 2, 5]])
    np.testing.assert_array_equal(found["heat_apex"], apex[[0, 2, 5]])
    assert found["heat_title"].tolist() == [
        "joy (AU12), predicted joy", "joy (AU12), predicted sad", "joy (AUs unknown), predicted sad",
    ]  # fmt: skip
    np.testing.assert_allclose(found["heat_gradcam"][0, 24, 16], 1, rtol=1e-6)
    assert found["heat_gradcam"][0, 4, 16] == 0
    assert found["heat_gradcam"][1].max() == 0
    # clips 0 (mouth, where the action is) and 4 (brows, where it is not) have units, landmarks and a map
    assert found["region_share"].shape == (2,)
    assert found["region_share"][0] > 0.9
    assert found["region_share"][1] == 0
    assert 0.1 < found["region_area"][0] < 0.5


def test_clips_of_every_class_are_shown():
    labels = np.repeat([0, 1, 2], [50, 3, 1])
    chosen = base.choose_clips(labels, 8)
    assert len(set(chosen)) == len(chosen)
    assert {int(labels[i]) for i in chosen} == {0, 1, 2}
    assert len(base.choose_clips(np.arange(30), 8)) == 8


def test_written_panels_are_read_by_the_report(tmp_path: Path):
    arrays = {"heat_title": np.array(["a", "b"]), "region_share": np.array([0.5])}
    (tmp_path / "config.json").write_text('{"system": "ma2mi"}')
    base.write(tmp_path, arrays)
    found = open_run(tmp_path).panels
    assert found.keys() == arrays.keys()
    assert found["heat_title"].tolist() == ["a", "b"]
