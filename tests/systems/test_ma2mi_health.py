"""Health of the pretext: scores in closed form, the linear baseline against scikit-learn."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from mer_jax import systems
from mer_jax.systems import ma2mi_health


def test_scores_in_closed_form() -> None:
    sums = {"own": 1.0, "shuffled": 6.0, "null": 4.0, "copy": 4.0}
    assert ma2mi_health.scores(sums) == {"R": 0.75, "R_shuf": -0.5, "R_null": 0.0}


def test_errors_of_the_three_actions(
    make_settings: Callable, make_batch: Callable, random_variables: Callable, quick: Callable
) -> None:
    system, batch = systems.build(make_settings(), 3), make_batch(32, 4)
    assert system.pretrain is not None
    module = system.pretrain.module
    variables = random_variables(module, batch)
    health = jax.jit(system.health_errors)
    errors = health(variables, batch)
    out = quick(lambda v, b: module.apply(v, b, False), variables, batch)
    np.testing.assert_allclose(errors["copy"], ((out["latent"] - out["target"]) ** 2).mean(axis=(1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(
        errors["own"], ((out["prediction"] - out["target"]) ** 2).mean(axis=(1, 2, 3)), rtol=1e-4
    )
    still = health(variables, {**batch, "second": batch["first"]})
    np.testing.assert_allclose(still["copy"], 0, atol=1e-9)
    np.testing.assert_allclose(still["null"], still["own"], rtol=1e-5)
    assert np.abs(errors["shuffled"] - errors["own"]).max() > 1e-6


@pytest.mark.parametrize(("n", "p"), [(60, 12), (20, 48)])  # more pairs than pixels, and fewer
def test_linear_baseline_is_pca_and_least_squares(n: int, p: int) -> None:
    rng = np.random.default_rng(n)
    x, new = rng.normal(size=(n, p)) * np.linspace(3, 0.1, p) + 1, rng.normal(size=(7, p))
    y = x @ rng.normal(size=(p, 5)) + rng.normal(size=(n, 5))
    baseline = ma2mi_health.LinearBaseline(x, y, rank=4)
    pca = PCA(4, svd_solver="full").fit(x)
    regression = LinearRegression().fit(pca.transform(x), y)
    np.testing.assert_allclose(baseline.predict(new), regression.predict(pca.transform(new)), atol=1e-8)
    target = rng.normal(size=(7, 5))
    residual = ((regression.predict(pca.transform(new)) - target) ** 2).sum()
    np.testing.assert_allclose(baseline.score(new, target), 1 - residual / (target**2).sum(), rtol=1e-8)


def test_linear_baseline_reaches_a_linear_latent_at_full_rank_only(make_settings: Callable) -> None:
    """The block DCT is linear in the frames: PCA of full rank predicts its change exactly, a small rank does not."""
    system = systems.build(make_settings(), 3)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(2, 120, 16, 16, 1)) @ np.ones((1, 3)), jnp.float32)
    low = jax.image.resize(jax.image.resize(images, (2, 120, 4, 4, 3), "linear"), images.shape, "linear")
    batch = {"first": low[0], "second": low[1]}
    variables = {"constants": system.fit_constants([batch], jax.random.key(0))}
    seen, change = (np.asarray(x) for x in system.difference_and_change(variables, batch))
    np.testing.assert_array_equal(seen, batch["second"] - batch["first"])

    def score(rank: int) -> float:
        return ma2mi_health.LinearBaseline(seen[:80], change[:80], rank).score(seen[80:], change[80:])

    assert score(100) > 0.999
    assert 0.05 < score(4) < 0.8
