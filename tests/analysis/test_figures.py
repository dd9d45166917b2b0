import io

import cv2
import numpy as np
import pytest

from mer_jax.analysis import figures
from mer_jax.analysis.open_run import Curve


def pixels(figure: object) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(figures.png(figure), np.uint8), cv2.IMREAD_COLOR)  # type: ignore[arg-type]


def texts(axes: object) -> list[str]:
    return [t.get_text() for t in axes.texts]  # type: ignore[attr-defined]


def test_confusion_shows_counts_and_shares_of_the_truth():
    figure = figures.confusion([[3, 1], [0, 0]], ["a", "b"])
    axes = figure.axes[0]
    assert texts(axes) == ["3\n75%", "1\n25%", "0\n0%", "0\n0%"]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25], [0, 0]])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_ylabel() == "truth"


def test_persons_are_sorted_and_split_into_readable_parts():
    rows = [{"person": f"toy/{i:02d}", "n": i + 1, "acc": (i % 10) / 10} for i in range(90)]
    parts = figures.persons(rows)
    assert len(parts) == 3
    labels = [t.get_text() for part in parts for t in part.axes[0].get_yticklabels()]
    assert len(labels) == 90
    assert labels[:2] == ["09 (10)", "19 (20)"]  # the cohort is the same for all and left out
    mean = sum(row["acc"] * row["n"] for row in rows) / sum(row["n"] for row in rows)
    for part in parts:
        (line,) = (line for line in part.axes[0].lines if line.get_linestyle() == "--")
        assert line.get_xdata()[0] == pytest.approx(mean)
    two = figures.persons([{"person": "a/1", "n": 1, "acc": 1.0}, {"person": "b/1", "n": 1, "acc": 0.0}])
    assert [t.get_text() for t in two[0].axes[0].get_yticklabels()] == ["a/1 (1)", "b/1 (1)"]


def curve(value: list[float], seed: int = 0, fold: str | None = None, first: int = 0) -> Curve:
    return Curve(seed, fold, np.arange(first, first + len(value)) * 10, np.array(value))


def test_of_several_folds_the_median_is_drawn_strongly():
    folds = [curve([1, 2, 3], fold="a"), curve([3, 4, 9], fold="b"), curve([8, 5], fold="c", first=1)]
    figure = figures.curves("loss", {"loss": folds})
    *faint, strong = figure.axes[0].lines
    assert [line.get_alpha() for line in faint] == [0.25] * 3
    assert strong.get_xdata().tolist() == [0, 10, 20]
    assert strong.get_ydata().tolist() == [2, 4, 5]
    assert strong.get_label() == "median of 3 folds"


def test_seeds_have_their_own_lines_and_a_steep_loss_a_logarithmic_axis():
    figure = figures.curves("loss", {"loss": [curve([30.0, 1.0], 0), curve([20.0, 1.2], 7)]})
    axes = figure.axes[0]
    assert [line.get_label() for line in axes.lines] == ["seed 0", "seed 7"]
    assert len({line.get_color() for line in axes.lines}) == 2
    assert axes.get_yscale() == "log"
    flat = figures.curves("loss", {"loss": [curve([2.0, 1.0])]})
    assert flat.axes[0].get_yscale() == "linear"
    figures.png(figures.curves("loss", {"loss": [curve([np.nan, np.nan])]}))


def test_single_looks_are_marked():
    figure = figures.curves("loss", {"loss": [curve([1.0], fold="a"), curve([3.0], fold="b")]})
    assert {line.get_marker() for line in figure.axes[0].lines} == {"o"}
    assert figures.curves("loss", {"loss": [curve([2.0] * 9)]}).axes[0].lines[0].get_marker() == ""


def test_health_scores_share_a_chart():
    figure = figures.curves("R", {"R": [curve([0.1, 0.9])], "R_shuf": [curve([-50.0, -0.5])]})
    low, high = figure.axes[0].get_ylim()
    assert low == -1.5
    assert high > 1
    named = [line.get_label() for line in figure.axes[0].lines if not line.get_label().startswith("_")]
    assert named == ["R", "R_shuf"]
    marks = {line.get_marker() for line in figure.axes[0].lines if line.get_label() in named}
    assert len(marks) == 2  # not told apart by colour alone


def test_reconstruction_shows_amplified_changes_and_their_share():
    rng = np.random.default_rng(0)
    first = rng.uniform(0.3, 0.6, (2, 8, 8, 3))
    second = first + 0.04
    predicted = first + 0.03
    figure = figures.reconstruction(first, second, predicted, np.ones((2, 4, 4)))
    assert len(figure.axes) == 12
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes[:6]]
    np.testing.assert_allclose(shown[0], first[0])
    np.testing.assert_allclose(shown[1], second[0])
    np.testing.assert_allclose(shown[2], predicted[0])
    np.testing.assert_allclose(shown[3], 0.2)
    np.testing.assert_allclose(shown[4], 0.15)
    assert figure.axes[3].images[0].get_clim() == (-0.5, 0.5)
    # 1 - .01^2 / .04^2
    assert texts(figure.axes[0]) == ["pixel R +0.94"]
    assert len(figures.reconstruction(first, first, first).axes) == 10


def test_heat_map_lies_over_the_apex():
    onset, apex = np.full((1, 16, 16, 3), 0.2), np.full((1, 16, 16, 3), 0.7)
    heat = np.zeros((1, 16, 16))
    heat[:, 12:, :] = 1
    figure = figures.heat_maps(onset, apex, heat, np.ones((1, 4, 4)), ["happiness, AU12"])
    under, over = figure.axes[2].images
    assert np.array_equal(under.get_array(), apex[0])
    assert np.array_equal(over.get_array(), heat[0])
    assert over.get_alpha() == 0.5
    assert texts(figure.axes[0]) == ["happiness, AU12"]
    assert np.array_equal(figure.axes[0].images[0].get_array(), onset[0])
    assert len(figures.heat_maps(onset, apex, heat).axes) == 3


def test_grey_frames_are_shown_grey():
    grey = np.random.default_rng(0).random((1, 8, 8, 1))
    figure = figures.heat_maps(grey, grey, grey[..., 0])
    assert figure.axes[0].images[0].get_cmap().name == "gray"
    assert figure.axes[0].images[0].get_clim() == (0, 1)


def test_equal_figures_give_equal_bytes_and_whole_pictures():
    made = [figures.png(figures.confusion([[3, 1], [0, 2]], ["a", "b"])) for _ in range(2)]
    assert made[0] == made[1]
    picture = pixels(figures.confusion([[3, 1], [0, 2]], ["a", "b"]))
    assert picture.shape[1] == figures.WIDTH * figures.DPI
    assert (picture[0] == 255).all()  # nothing runs over the edge
    assert (picture[-1] == 255).all()
    assert b"Software" not in io.BytesIO(made[0]).getvalue()
