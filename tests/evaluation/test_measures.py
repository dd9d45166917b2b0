"""Measures against plain numpy."""

import csv

import numpy as np
import pytest

from mer_jax.evaluation.measures import Measures, format_measures, summarise, write_measures
from mer_jax.evaluation.results import Predictions

N = 12


def measures(seed, values):
    text = np.array([f"c{i:02d}" for i in range(N)])
    person = np.array([f"d/{i % 4}" for i in range(N)])
    zeros = np.zeros(N, np.int64)
    clips = Predictions(
        "emotion", ("x", "y"), zeros + seed, text, text, person, text, person, zeros, zeros, np.full((N, 2), 0.5)
    )
    return Measures.of(clips, {"epe": dict(zip(text.tolist(), values, strict=True)), "none": {}})


def test_summary_is_the_mean_of_known_clips_with_spread_over_seeds():
    rng = np.random.default_rng(0)
    tables = [rng.normal(3, 1, N) for _ in range(3)]
    parts = [measures(s, [None if i == 5 else v for i, v in enumerate(t)]) for s, t in enumerate(tables)]
    found = summarise(parts)
    means = [np.delete(t, 5).mean() for t in tables]
    assert found["epe"]["n"] == N - 1
    assert found["epe"]["mean"] == pytest.approx(np.mean(means))
    assert found["epe"]["std"] == pytest.approx(np.std(means, ddof=1))
    assert found["epe"]["low"] < found["epe"]["mean"] < found["epe"]["high"]
    assert found["none"] == {"n": 0, "mean": None, "std": None, "low": None, "high": None}
    assert any("epe" in line and "11" in line for line in format_measures(found))


def test_the_interval_resamples_persons_not_clips():
    """All clips of a person alike: the interval is that of 4 numbers, much wider than that of 12."""
    values = np.repeat([[0.0, 1.0, 2.0, 3.0]], 3, axis=0).ravel()
    found = summarise([measures(0, values.tolist())])["epe"]
    rng = np.random.default_rng(0)
    expected = np.quantile(rng.choice(np.arange(4.0), (20000, 4)).mean(1), [0.025, 0.975])
    np.testing.assert_allclose([found["low"], found["high"]], expected, atol=0.06)


def test_the_file_has_a_row_a_clip_and_seed(tmp_path):
    parts = [measures(s, [None, *range(1, N)]) for s in (0, 1)]
    write_measures(tmp_path / "measures.csv", parts)
    with (tmp_path / "measures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * N
    assert [row["epe"] for row in rows[:2]] == ["", "1"]
    assert rows[0]["none"] == ""
    assert [r["seed"] for r in rows] == ["0"] * N + ["1"] * N
