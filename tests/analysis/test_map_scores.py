from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mer_jax.analysis import map_scores
from mer_jax.analysis.map_scores import DIFFERENCE, GRADCAM, MEAN, NONE, RANDOM, TRAINED
from mer_jax.errors import UserError


def test_the_largest_values_are_chosen_to_a_pixel():
    values = np.arange(100.0).reshape(10, 10)
    assert map_scores.top(values, 0.1).sum() == 10
    assert map_scores.top(values, 0.1)[9].all()
    assert map_scores.top(np.zeros((10, 10)), 0.1).sum() == 10


def test_own_and_other_regions():
    moving = np.zeros((4, 2, 2), bool)
    moving[[0, 1, 2, 3], [0, 0, 1, 1], [0, 1, 0, 0]] = True  # regions 0, 1, 2, 2
    heat = np.array([[[0.4, 0.3], [0.2, 0.1]]] * 4)
    own, other = map_scores.own_and_other(heat, moving, np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(own, [0.4, 0.3, 0.2, 0.2])
    np.testing.assert_allclose(other, [0.2, 0.2, 0.35, 0.35])
    uniform = np.full((4, 2, 2), 0.25)
    own, other = map_scores.own_and_other(uniform, moving, np.array([0, 0, 1, 1]))
    np.testing.assert_array_equal(own - other, 0)
    assert np.isnan(map_scores.own_and_other(heat, moving, np.zeros(4))[1]).all()


def test_paired_differences_against_scipy():
    rng = np.random.default_rng(0)
    person = np.repeat([f"p{k}" for k in range(9)], 4)
    values, other = rng.normal(0.4, 1, 36), rng.normal(0, 1, 36)
    found = map_scores.paired(values, other, person)
    assert found["n"] == 36
    assert found["mean"] == pytest.approx((values - other).mean())
    # persons have equally many clips here, so that the mean over clips is the mean of persons' means
    gap = (values - other).reshape(9, 4).mean(1)
    expected = stats.permutation_test((gap,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert found["p"] == pytest.approx(expected.pvalue)
    drawn = stats.bootstrap((gap,), np.mean, method="percentile", n_resamples=20000, random_state=0)
    np.testing.assert_allclose([found["low"], found["high"]], drawn.confidence_interval, atol=0.04)

    same = map_scores.paired(values, values, person)
    assert (same["mean"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)
    holes = np.where(np.arange(36) < 8, np.nan, other)
    assert map_scores.paired(values, holes, person)["n"] == 28
    assert map_scores.paired(values, np.full(36, np.nan), person)["n"] == 0


def rows(persons: int = 8, clips: int = 5) -> list[dict]:
    rng = np.random.default_rng(0)
    found = []
    for number in range(persons * clips):
        facts = (0, f"p{number // clips}", "faces", f"p{number // clips}", f"faces/p{number // clips}/c{number}")
        for which, weights, gain in (
            (GRADCAM, TRAINED, 0.3), (GRADCAM, RANDOM, 0.1), (GRADCAM, MEAN, 0.0), (DIFFERENCE, NONE, 0.2),
        ):  # fmt: skip
            row = dict(zip(map_scores.COLUMNS, (*facts, which, weights, number % 2), strict=True))
            own = 0.1 + gain + 0.02 * rng.normal()
            values = {"au_share": own, "au_area": 0.3, "own": own, "other": 0.1, "gap": np.nan}
            found.append(row | dict.fromkeys(map_scores.VALUES, np.nan) | values)
    return found


def test_a_planted_difference_is_found_and_files_keep_it(tmp_path: Path):
    path = tmp_path / "maps.csv"
    map_scores.write_scores(path, rows())
    scores = map_scores.read_scores(path)
    assert scores.maps == [GRADCAM]
    found = map_scores.summarise(scores)
    row = found[GRADCAM]["moving"]
    assert row["n"] == 40
    assert row["persons"] == 8
    for name, expected in (("uniform", 0.3), ("random weights", 0.2), ("mean of others", 0.3), (DIFFERENCE, 0.1)):
        assert row[name]["mean"] == pytest.approx(expected, abs=0.02)
        assert row[name]["low"] > 0
        assert row[name]["p"] == pytest.approx(2 / 2**8)  # the least that eight persons can give
    assert found[GRADCAM]["au"]["chance"] == pytest.approx(0.3)
    assert found[GRADCAM]["au"]["uniform"]["mean"] == pytest.approx(0.1, abs=0.02)
    assert "event" not in found[GRADCAM]
    assert set(found[DIFFERENCE]["moving"]) == {"n", "persons", "share", "chance", "uniform"}
    some = map_scores.summarise(scores, [clip for clip in dict.fromkeys(scores.text["clip"]) if "p0" in clip])
    assert some[GRADCAM]["moving"]["n"] == 5


def test_damaged_files_are_named(tmp_path: Path):
    path = tmp_path / "maps.csv"
    map_scores.write_scores(path, rows(2, 2))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1].replace("0.3,", "high,", 1)]))
    with pytest.raises(UserError, match=r"maps\.csv, row 2: found .*numbers last"):
        map_scores.read_scores(path)
    path.write_text("clip,map\n")
    with pytest.raises(UserError, match=r"row 1: found clip,map; expected seed,fold"):
        map_scores.read_scores(path)
