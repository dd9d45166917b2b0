import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.analysis import maps
from mer_jax.data import align
from mer_jax.data.clips import AU_SLOTS


def features(seed: int = 0, shape: tuple[int, ...] = (3, 4, 5, 6)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_grad_cam_of_a_mean_and_a_linear_layer_in_closed_form():
    # logits = mean over places of A, times W: d logit_c / d A_d = W_dc / (h w) at every place
    a, weights, classes = features(), features(1, (6, 7)), jnp.array([2, 0, 6])
    found = maps.grad_cam(lambda x: x.mean(axis=(1, 2)) @ weights, jnp.asarray(a), classes)
    expected = np.maximum(np.einsum("bhwd,db->bhw", a, weights[:, classes]) / 20, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert (np.asarray(found) > 0).any()
    assert (np.asarray(found) == 0).any()


def test_grad_cam_of_a_flattening_head_averages_its_weights_over_places():
    a, weights = features(), features(1, (4 * 5 * 6, 7))
    found = maps.grad_cam(lambda x: x.reshape(3, -1) @ weights, jnp.asarray(a), jnp.array([1, 1, 4]))
    alpha = weights.reshape(20, 6, 7).mean(axis=0)[:, [1, 1, 4]]
    np.testing.assert_allclose(found, np.maximum(np.einsum("bhwd,db->bhw", a, alpha), 0), rtol=1e-4, atol=1e-5)


def test_moments_are_places_too():
    a, weights = features(0, (2, 3, 4, 5, 6)), features(1, (3 * 4 * 5 * 6, 7))
    found = maps.grad_cam(lambda x: x.reshape(2, -1) @ weights, jnp.asarray(a), jnp.array([1, 4]))
    alpha = weights.reshape(60, 6, 7).mean(axis=0)[:, [1, 4]]
    np.testing.assert_allclose(found, np.maximum(np.einsum("bthwd,db->bthw", a, alpha), 0), rtol=1e-4, atol=1e-5)


def test_integrated_gradients_in_closed_form():
    # f = x' A x / 2 with A symmetric: the slope at the middle of the line is its mean, (x - b) * A (x + b) / 2
    rng = np.random.default_rng(0)
    a = rng.normal(size=(6, 6)).astype(np.float32)
    a, x, b = a + a.T, rng.normal(size=6).astype(np.float32), rng.normal(size=6).astype(np.float32)
    found, difference, gap = maps.integrated_gradients(
        lambda z: jnp.einsum("ki,ij,kj->k", z["x"], a, z["x"]) / 2, {"x": jnp.asarray(x)}, {"x": jnp.asarray(b)}, 2
    )
    np.testing.assert_allclose(found["x"], (x - b) * (a @ (x + b)) / 2, rtol=1e-4, atol=1e-4)
    assert float(difference) == pytest.approx((x @ a @ x - b @ a @ b) / 2, rel=1e-4)
    assert abs(float(gap)) < 1e-4


@pytest.mark.parametrize(("activation", "tolerance"), [(jnp.tanh, 1e-4), (nn.relu, 0.02)])
def test_integrated_gradients_are_complete(activation, tolerance: float):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(30, 40)).astype(np.float32), rng.normal(size=40).astype(np.float32)
    x, b = (jnp.asarray(rng.normal(size=(2, 5, 3)).astype(np.float32)) for _ in range(2))

    def score(z):
        return activation(z.reshape(len(z), -1) @ first) @ second

    found, difference, gap = maps.integrated_gradients(score, x, b, 64)
    assert float(difference) == pytest.approx(float(score(x[None])[0] - score(b[None])[0]), rel=1e-4)
    assert float(found.sum() - difference) == pytest.approx(float(gap), abs=1e-4)
    assert abs(float(gap)) < tolerance * float(jnp.abs(found).sum())
    coarse = maps.integrated_gradients(score, x, b, 1)[2]
    assert abs(float(gap)) < 0.2 * abs(float(coarse))


def test_the_standard_face_has_its_parts_in_place():
    points = maps.standard_landmarks(64, 2.5)
    assert points.shape == (68, 2)
    stable = align._STABLE_FACE
    low, high = align.standard_box(2.5)
    np.testing.assert_allclose(points[list(align.STABLE_POINTS)], (stable - low) / (high - low) * 64 - 0.5, atol=1e-6)
    brows, eyes, mouth = (maps.region((64, 64), points, units(k)) for k in (1, 7, 12))
    rows = [np.flatnonzero(mask.any(1)).mean() for mask in (brows, eyes, mouth)]
    assert rows == sorted(rows)
    assert all(0.02 < mask.mean() < 0.5 for mask in (brows, eyes, mouth))


class Recogniser(nn.Module):
    """The least that `recogniser_maps` asks for."""

    def setup(self) -> None:
        self.linear = nn.Dense(4)

    def __call__(self, batch: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        action = nn.avg_pool(batch["second"] - batch["first"], (4, 4), (4, 4))
        position = nn.avg_pool(batch["first"], (4, 4), (4, 4))
        attention = nn.sigmoid(action.mean(axis=-1, keepdims=True))
        logits = self.classify(action, position)
        return {
            "logits": logits, "action": action, "position": position, "map_1": attention[:, ::2], "map_2": attention,
        }  # fmt: skip

    def classify(self, action: jax.Array, position: jax.Array) -> jax.Array:
        return self.linear(jnp.tanh(action * position).mean(axis=(1, 2)))


def test_maps_of_a_recogniser():
    batch = {"first": features(0, (2, 16, 16, 3)), "second": features(1, (2, 16, 16, 3))}
    module = Recogniser()
    variables = module.init(jax.random.key(0), batch, False)
    found = maps.recogniser_maps(module, variables, batch)
    outputs = module.apply(variables, batch, False)
    assert np.array_equal(found["logits"], outputs["logits"])
    assert np.array_equal(found["attention"], outputs["map_2"][..., 0])
    assert found["gradcam"].shape == (2, 16, 16)

    # finite differences of the predicted class's logit over the action map, one entry at a time
    classes, step = np.asarray(outputs["logits"]).argmax(-1), 1e-2
    action = np.asarray(outputs["action"])
    slope = np.zeros(action.shape)
    go_on = jax.jit(lambda a: module.apply(variables, a, outputs["position"], method="classify"))
    for place in np.ndindex(action.shape[1:]):  # examples do not influence each other: both at once
        moved = np.zeros(action.shape[1:], np.float32)
        moved[place] = step
        change = np.asarray(go_on(action + moved) - go_on(action - moved))
        slope[:, *place] = change[[0, 1], classes] / (2 * step)
    raw = np.maximum((slope.mean(axis=(1, 2), keepdims=True) * action).sum(-1), 0)
    expected = maps.stretch(maps.enlarge(jnp.asarray(raw, jnp.float32), 16, 16))
    np.testing.assert_allclose(found["gradcam"], expected, atol=0.01)
    other = maps.recogniser_maps(module, variables, batch, jnp.asarray((classes + 1) % 4))
    assert not np.allclose(other["gradcam"], found["gradcam"], atol=0.05)


def test_stretch_and_enlarge():
    raw = jnp.array([[[0.0, 2.0], [4.0, 1.0]], [[3.0, 3.0], [3.0, 3.0]]])
    assert maps.stretch(raw).tolist() == [[[0, 0.5], [1, 0.25]], [[0, 0], [0, 0]]]
    np.testing.assert_allclose(maps.enlarge(jnp.array([[[0.0, 1.0]]]), 1, 4)[0, 0], [0, 0.25, 0.75, 1])


def landmarks() -> np.ndarray:
    """A layout with every part of the face in its own place of a 64 x 64 image."""
    points = np.zeros((68, 2), np.float32)
    for part, (left, top, right, bottom) in {
        range(17): (6, 20, 58, 62), range(17, 27): (14, 14, 50, 18), range(27, 36): (28, 28, 36, 42),
        range(36, 48): (16, 26, 48, 30), range(48, 68): (22, 48, 42, 56),
    }.items():  # fmt: skip
        share = np.linspace(0, 1, len(part))[:, None]
        points[list(part)] = np.array([left, top]) + share * np.array([right - left, bottom - top])
    points[[36, 45]] = [[16, 28], [48, 28]]
    points[5:12] = np.stack([np.linspace(24, 40, 7), np.full(7, 61)], -1)
    return points


def units(*numbers: int) -> np.ndarray:
    vector = np.zeros(AU_SLOTS, np.int8)
    vector[list(numbers)] = 1
    return vector


def test_share_of_a_map_in_the_region_of_its_action_units():
    mouth = np.zeros((64, 64))
    mouth[48:57, 24:40] = 1
    assert maps.share_in_region(mouth, landmarks(), units(12)) == 1
    assert maps.share_in_region(mouth, landmarks(), units(4)) == 0
    half = mouth.copy()
    half[10:19, 24:40] = 1  # as much on the brows
    assert maps.share_in_region(half, landmarks(), units(12)) == 0.5
    assert maps.share_in_region(half, landmarks(), units(1, 25)) == 1
    even = np.ones((64, 64))
    assert maps.share_in_region(even, landmarks(), units(7)) == maps.region((64, 64), landmarks(), units(7)).mean()


@pytest.mark.parametrize("case", ["no landmarks", "no unit", "unknown units", "empty map"])
def test_share_is_unknown_without_a_region(case: str):
    points = landmarks() * (np.nan if case == "no landmarks" else 1)
    present = {"no unit": units(), "unknown units": np.full(AU_SLOTS, -1, np.int8)}.get(case, units(12))
    heat = np.zeros((64, 64)) if case == "empty map" else np.ones((64, 64))
    assert np.isnan(maps.share_in_region(heat, points, present))
