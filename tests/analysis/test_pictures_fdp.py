"""FDP's pictures from made-up panels: what is drawn, and what the text says of the order of frames."""

import numpy as np
import pytest

from mer_jax.analysis.pictures import fdp


@pytest.fixture
def panels() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    images = {f"fdp_image_{name}": rng.uniform(size=(2, 8, 8)) for name in ("frame", "true", "constructed", "mean")}
    clips = np.arange(4)[:, None]
    return images | {
        "fdp_image_correlation": np.array([0.5, np.nan]),
        "fdp_image_title": np.array(["joy (AU12)", "disgust (AUs unknown)"]),
        "fdp_score_position": np.tile(np.linspace(0, 40, fdp.MOMENTS), (3, 1)),
        "fdp_score_value": rng.normal(size=(3, fdp.MOMENTS)),
        "fdp_score_keys": np.array([[3, 9, 30], [3, np.nan, 30], [3, 9, 30]]),
        "fdp_score_title": np.array(["a", "b", "c"]),
        "fdp_tau_order": np.array([0.8, 0.1, 0.4]) + 0 * clips,
        "fdp_tau_departure": np.array([0.9, 0.2, 0.6]) + 0 * clips,
        "fdp_tau_rising": np.full(4, -0.25),
        "fdp_tau_person": np.array(["p", "p", "q", "q"]),
        "fdp_drift_order": np.array([[0.7, 0.3, 0.5]]),
        "fdp_drift_person": np.array(["p"]),
    }


def test_every_array_is_known(panels: dict[str, np.ndarray]) -> None:
    assert {name: array.ndim for name, array in panels.items()} == fdp.DIMENSIONS


def test_the_text_says_what_needs_no_scorer(panels: dict[str, np.ndarray]) -> None:
    images, order = fdp.pictures(panels)
    assert (images.name, order.name) == ("dynamic_images", "rank_scores")
    text = order.text
    assert "held-out people (4 clips): onset to apex +0.80 [+0.80, +0.80], apex to offset +0.10" in text
    assert "first one of its sequence, onset to apex +0.90" in text
    assert "over the whole event -0.25 [-0.25, -0.25]" in text
    assert "1 clips without an expression" in text
    assert "whole event +0.50" in text
    alone = {name: array for name, array in panels.items() if "drift" not in name}
    assert "without an expression" not in fdp.pictures(alone)[1].text


def test_pictures_of_what_is_there(panels: dict[str, np.ndarray]) -> None:
    assert fdp.pictures({}) == []
    images = {name: array for name, array in panels.items() if "image" in name}
    assert [picture.name for picture in fdp.pictures(images)] == ["dynamic_images"]
    figure = fdp.pictures(panels)[1].figure
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), panels["fdp_score_value"][0])
    assert [len(axes.lines) for axes in figure.axes[:3]] == [4, 3, 4]  # an unknown apex has no line
