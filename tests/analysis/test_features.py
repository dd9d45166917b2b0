import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import ortho_group
from sklearn.decomposition import PCA

from mer_jax.analysis import features
from mer_jax.errors import UserError


def spaces(folds: int = 5, dim: int = 12, noise: float = 0.0):
    """Clips in one hidden space, seen by every fold turned, mirrored, shifted and scaled in its own way."""
    rng = np.random.default_rng(0)
    anchors, tested = rng.normal(size=(40, 6)), rng.normal(size=(30, 6))
    seen, held = {}, {}
    for k in range(folds):
        turn = ortho_group.rvs(dim, random_state=k)[:6] * rng.uniform(0.5, 3)
        shift = rng.normal(size=dim)
        seen[str(k)] = anchors @ turn + shift + noise * rng.normal(size=(40, dim))
        held[str(k)] = tested[k::folds] @ turn + shift
        seen[str(k)][k::folds][:3] = np.nan  # its own person's clips
    order = np.concatenate([np.arange(30)[k::folds] for k in range(folds)])
    return held, seen, tested[order]


def distances(x: np.ndarray) -> np.ndarray:
    found = cdist(x, x)
    return found / found.mean()


def test_spaces_that_are_the_same_but_for_a_turn_become_one():
    tested, anchors, hidden = spaces()
    aligned = features.align(tested, anchors)
    together = np.concatenate(list(aligned.tested.values()))
    assert aligned.agreement > 0.99
    assert aligned.chance < 0.8
    raw = np.concatenate(list(tested.values()))
    error = np.abs(distances(together) - distances(hidden)).mean()
    assert error < 0.1 * np.abs(distances(raw) - distances(hidden)).mean()


def test_spaces_without_anything_in_common_are_said_not_to_agree():
    rng = np.random.default_rng(1)
    tested = {str(k): rng.normal(size=(6, 30)) for k in range(5)}
    anchors = {str(k): rng.normal(size=(40, 30)) for k in range(5)}
    aligned = features.align(tested, anchors)
    assert aligned.agreement == pytest.approx(aligned.chance, abs=0.05)
    with pytest.raises(UserError, match="share only 5 training clips; expected at least 12"):
        features.align(tested, {k: x[:5] for k, x in anchors.items()})


def test_neighbours_are_those_of_other_persons():
    points = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]])
    labels, person = np.array([0, 0, 1, 1, 1, 1]), np.array(["a", "a", "b", "b", "c", "c"])
    near = features.neighbours(points, labels, person, count=2)
    # clip 0 and 1: nearest of others 2 and 3, both of class 1; clip 2: 0 and 1; clip 3: 4, 5; clip 4: 3 and 2
    np.testing.assert_array_equal(near[:, 0], [0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(near[:, 1], [0, 0, 0.5, 0.5, 0.5, 0.5])


def test_features_of_persons():
    points = np.array([[0.0], [0.1], [3.0], [3.1], [9.0], [9.3]])
    apart, mixed = np.repeat(["a", "b", "c"], 2), np.tile(["a", "b", "c"], 2)
    assert features.same_person(points, apart, 1) == (1, pytest.approx(0.2))
    assert features.same_person(points, mixed, 1) == (0, pytest.approx(0.2))


def test_principal_components_against_scikit_learn():
    x = np.random.default_rng(0).normal(size=(20, 5)) * [3, 1, 2, 1, 1]
    points, share = features.principal(x)
    expected = PCA(2).fit(x)
    np.testing.assert_allclose(np.abs(points), np.abs(expected.transform(x)), atol=1e-9)
    np.testing.assert_allclose(share, expected.explained_variance_ratio_)
