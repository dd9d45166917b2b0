import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax import systems
from mer_jax.analysis import layers
from mer_jax.analysis.layers import Place


class Inner(nn.Module):
    def setup(self) -> None:
        self.linear = nn.Dense(3)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.double(self.linear(x))

    def double(self, x: jax.Array) -> jax.Array:
        return 2 * x


class Outer(nn.Module):
    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        assert not train
        hidden = Inner(name="inner")(batch["x"])
        return {"logits": nn.Dense(2, name="classifier")(nn.relu(hidden))}


def test_a_place_is_read_and_replaced():
    batch = {"x": jnp.arange(8.0).reshape(2, 4)}
    module = Outer()
    variables = module.init(jax.random.key(0), batch, False)
    linear, double = Place(("inner", "linear")), Place(("inner",), "double")
    classifier = Place(("classifier",), side="input")
    outputs, (first, second, feature) = layers.apply(module, variables, batch, (linear, double, classifier))
    kernels = variables["params"]
    np.testing.assert_allclose(first, batch["x"] @ kernels["inner"]["linear"]["kernel"], rtol=1e-6)
    np.testing.assert_array_equal(second, 2 * first)
    np.testing.assert_array_equal(feature, np.maximum(second, 0))
    np.testing.assert_array_equal(outputs["logits"], module.apply(variables, batch, False)["logits"])

    other, (seen,) = layers.apply(module, variables, batch, (classifier,), {linear: jnp.ones((2, 3))})
    np.testing.assert_array_equal(seen, np.full((2, 3), 2))
    np.testing.assert_allclose(other["logits"][0], 2 * kernels["classifier"]["kernel"].sum(0), rtol=1e-6)

    put = jnp.array([[1.0, 0, 0]])
    other, _ = layers.apply(module, variables, batch, (), {classifier: put})
    np.testing.assert_allclose(other["logits"], kernels["classifier"]["kernel"][:1], rtol=1e-6)

    # the gradient of what follows a place with respect to what it gave
    def logit(x: jax.Array) -> jax.Array:
        return layers.apply(module, variables, batch, (), {double: x})[0]["logits"][:, 1].sum()

    expected = np.where(second > 0, kernels["classifier"]["kernel"][:, 1], 0)
    np.testing.assert_allclose(jax.grad(logit)(second), expected, rtol=1e-6)


def test_a_place_that_there_is_not_is_named():
    batch = {"x": jnp.ones((2, 4))}
    variables = Outer().init(jax.random.key(0), batch, False)
    with pytest.raises(ValueError, match="Outer never calls __call__ at inner/conv"):
        layers.apply(Outer(), variables, batch, (Place(("inner", "conv")),))


def test_every_system_has_a_classifier():
    assert layers.CLASSIFIER.keys() == systems.MODULES.keys()
