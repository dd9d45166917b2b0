"""Every system can be looked into; what its lens reads is what its network does."""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax import systems
from mer_jax.analysis import layers, lenses
from mer_jax.analysis.map_scores import GRADCAM, GRADIENTS
from mer_jax.data import shapes
from mer_jax.settings import Settings

FRAMES, CLASSES = 24, 3
OWN = {
    "akmnet": {"key frames"},
    "atnet": {"flow", f"{GRADIENTS}, flow"},
    "fdp": {"dynamic image", "rank scores", "rank-weighted map"},
    "ma2mi": {"attention"},
    "mol": {"flow", "landmarks"},
    "ststnet": {"strain"},
}


def build(name: str, word: str = "tiny") -> Any:
    fields = importlib.import_module(f"configs.{name}").get_config(word).to_dict()
    settings = Settings({k: v for k, v in fields.items() if k not in ("ablation", "rows", "row_names")})
    return systems.build(settings, CLASSES, 2)


@pytest.mark.parametrize("name", sorted(systems.MODULES))
def test_every_system_has_maps(name: str):
    """Shapes alone: nothing is compiled."""
    system = build(name)
    lens = lenses.of(system)
    store = shapes.store(system.needs, 3, FRAMES, CLASSES)
    buckets = system.buckets(store)
    length = buckets.lengths[0] if buckets else 0

    def look(store: Any) -> Any:
        batch = lens.batch(store, jnp.int32(1), length)
        variables = lens.fresh(jax.random.key(0), batch, {})
        _, (value,) = layers.apply(lens.module, variables, batch, (lens.place,))
        features = lens.features(value)
        return lens.heats(variables, store, jnp.int32(1), length), features, value, lens.put(value, features)

    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), store)
    found, features, value, again = jax.eval_shape(look, abstract)
    assert set(found["heats"]) == {GRADCAM, GRADIENTS} | OWN[name]
    assert found["logits"].shape == (CLASSES,)
    for heat, at in found["heats"].values():
        assert heat.ndim == 3
        assert at.shape == heat.shape[:1]
    assert features.ndim == 5
    assert features.shape[0] == 1
    assert jax.tree.map(lambda x: x.shape, again) == jax.tree.map(lambda x: x.shape, value)
    low, high = lens.window
    assert 0 <= low < high <= 1
    assert found["heats"][GRADIENTS][0].shape[1] <= round((high - low) * system.settings.data.size) + 1


@pytest.mark.parametrize(("name", "word"), [("ma2mi", "tiny,variant=position_only"), ("atnet", "tiny,temporal")])
def test_variants_without_an_action_branch_or_a_spatial_stream(name: str, word: str):
    lens = lenses.of(build(name, word))
    if name == "ma2mi":
        features = {"action": jnp.zeros((1, 2, 2, 3)), "position": jnp.ones((1, 2, 2, 3))}
        assert lens.features(features).min() == 1
        assert lens.put(features, jnp.full((1, 1, 2, 2, 3), 2.0))["position"].max() == 2
    else:
        assert lens.place is None
        assert lens.inputs == ("flow",)


def test_the_plain_network_of_flow_and_strain_is_the_network():
    system = build("ststnet")
    lens, module = lenses.of(system), system.finetune.module
    side = system.settings.model.side
    maps = np.random.default_rng(0).uniform(0, 255, (2, side, side, 3)).astype(np.float32)

    @jax.jit
    def both(maps: jax.Array) -> Any:
        variables = module.init(jax.random.key(0), {"maps": maps}, False)
        variables = jax.tree.map(lambda x: x + 0.1 * jnp.abs(jnp.sin(jnp.arange(x.size))).reshape(x.shape), variables)
        slope = jax.grad(lambda x: lens.logits(variables, {"maps": x}, {})[:, 0].sum())(maps)
        still = lens.still({"maps": maps.at[..., 1].set(7.0)}, None, jnp.int32(0))["maps"]
        batch = {"maps": maps}
        return module.apply(variables, batch, False)["logits"], lens.logits(variables, batch, {}), slope, still

    expected, plain, slope, still = jax.device_get(both(maps))
    np.testing.assert_allclose(plain, expected, rtol=1e-4, atol=1e-3)
    assert np.abs(slope).max() > 0
    # the baseline is the median of each map, so that a constant map has no part in the change
    np.testing.assert_array_equal(still[..., 1], 7)
    np.testing.assert_allclose(still[0, 0, 0], np.median(maps[0, ..., 0]), rtol=1e-6)


def test_the_map_that_is_nearest_to_a_moment():
    at = np.array([2.0, 9.0, np.nan])
    assert lenses.nearest(at, np.array([0.0, 6.0, 20.0])).tolist() == [0, 1, 1]
    assert lenses.nearest(np.full(2, np.nan), np.array([3.0])).tolist() == [0]
