"""What crossing databases costs, from finished rows."""

import csv
import io
import json

import numpy as np
import pytest

from mer_jax.analysis import cross_database
from mer_jax.errors import UserError
from mer_jax.evaluation import metrics
from mer_jax.evaluation.results import Predictions, write_predictions

CLASSES = ("negative", "positive", "surprise")


def predictions(right, datasets=("a", "b"), seeds=2, persons=4, clips=6, seed=0):
    """Predictions that are right with the given chance, else random."""
    rng, rows = np.random.default_rng(seed), []
    for s in range(seeds):
        for d in datasets:
            for p in range(persons):
                for c in range(clips):
                    truth = (p + c + (c == 5)) % 3
                    rows.append(
                        (s, d, f"p{p}", f"{d}/p{p}/{c}", truth, truth if rng.random() < right else rng.integers(3))
                    )
    s, d, p, c, truth, predicted = (np.array(x) for x in zip(*rows, strict=True))
    person = np.array([f"{x}/{y}" for x, y in zip(d, p, strict=True)])
    probability = np.eye(3)[predicted]
    return Predictions("emotion", CLASSES, s, d, d, p, c, person, truth, predicted, probability)


def config(protocol, epochs, streams="fusion"):
    return {
        "data": {"protocol": protocol, "name": "x"},
        "ft": {"epochs": epochs, "batch": 4},
        "model": {"streams": streams},
    }


@pytest.fixture
def runs():
    return {
        "fusion_hde": (config("cross_dataset", 2), predictions(0.3, seed=1)),
        "fusion_within": (config("loso_within", 9), predictions(0.8, seed=2)),
        "spatial_from": (config("hde_from_base", 9, "spatial"), predictions(0.5, ("b",), seeds=1, seed=3)),
        "spatial_within": (config("loso_within", 9, "spatial"), predictions(0.5, seed=4)),
    }


def test_rows_of_one_system_are_compared_on_the_same_clips(runs):
    found = {(c.system, c.dataset, c.protocol): c for c in cross_database.cells(runs)}
    assert set(found) == {
        *(("fusion_within", d, p) for d in "ab" for p in ("loso_within", "cross_dataset")),
        *(("spatial_within", d, "loso_within") for d in "ab"),
        ("spatial_within", "b", "hde_from_base"),
    }
    for cell in found.values():
        row = {"loso_within": cell.system, "cross_dataset": "fusion_hde", "hde_from_base": "spatial_from"}[
            cell.protocol
        ]
        p = runs[row][1]
        scores = []
        for seed in p.seeds:
            mine = p.select((p.seed == seed) & (p.dataset == cell.dataset))
            scores.append(float(metrics.uf1(metrics.confusion(mine.truth, mine.predicted, 3))))
        np.testing.assert_allclose(cell.uf1, np.mean(scores))
        np.testing.assert_allclose(cell.std, np.std(scores, ddof=1) if len(scores) > 1 else 0)
        assert (cell.n, cell.persons) == (24, 4)
        if cell.protocol == "loso_within":
            assert cell.difference is None
        else:
            inside = found[cell.system, cell.dataset, "loso_within"]
            np.testing.assert_allclose(cell.difference, inside.uf1 - cell.uf1)
            assert cell.interval[0] <= cell.difference <= cell.interval[1]
    lost = found["fusion_within", "a", "cross_dataset"]
    assert lost.interval[0] > 0  # .8 against .3 is no chance


def test_the_majority_predictor():
    counts = np.zeros((1, 2, 3, 3), np.int64)
    counts[0, 0, 0, 1], counts[0, 1, 0, 0], counts[0, 1, 2, 2] = 3, 2, 5  # truth: 5 of class 0, none of 1, 5 of 2
    truth = [0] * 5 + [2] * 5
    expected = float(metrics.uf1(metrics.confusion(np.array(truth), np.zeros(10, int), 3)))
    np.testing.assert_allclose(cross_database.majority_uf1(counts), expected)


def test_equal_predictions_differ_by_nothing():
    counts, _ = cross_database.person_confusion(predictions(0.5))
    difference, interval = cross_database.paired_difference(counts, counts[:1])
    gap, _ = cross_database.paired_difference(counts, counts)
    assert (gap, difference != 0) == (0, True)  # another number of seeds is another mean
    assert interval[0] < interval[1]
    with pytest.raises(ValueError, match="the same persons and classes"):
        cross_database.paired_difference(counts, counts[:, :2])


def test_what_cannot_be_compared_is_named(runs):
    with pytest.raises(UserError, match="expected at least one with loso_within"):
        cross_database.cells({"fusion_hde": runs["fusion_hde"]})
    other = runs | {"fusion_hde": (config("cross_dataset", 2), predictions(0.3, clips=5))}
    with pytest.raises(UserError, match="a has 24 and 20 tested clips"):
        cross_database.cells(other)


def test_the_command_reads_the_rows_of_a_study(runs, tmp_path, capsys):
    for name, (fields, predicted) in runs.items():
        row = tmp_path / "rows" / name
        row.mkdir(parents=True)
        (row / "config.json").write_text(json.dumps(fields))
        (row / "metrics.json").write_text(json.dumps({"classes": CLASSES}))
        write_predictions(row / "predictions.csv", predicted)
    assert cross_database.main([str(tmp_path)]) == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "cross_database.csv").read_text())))
    assert len(rows) == 7
    assert {r["protocol"] for r in rows if r["within_minus"]} == {"cross_dataset", "hde_from_base"}
    assert "cross_database.csv" in capsys.readouterr().out
    assert cross_database.main([str(tmp_path / "nothing")]) == 2
    assert "found no finished row" in capsys.readouterr().err
