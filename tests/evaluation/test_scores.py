from __future__ import annotations

import json

import numpy as np
import pytest
import sklearn.metrics

from mer_jax.errors import UserError
from mer_jax.evaluation import metrics, results, scores
from mer_jax.evaluation.table import format_table

CLASSES = ("a", "b", "c")


def make(build_table, seeds=(0, 1, 2), datasets=("casme2", "samm"), n=40, fail=0.4, cohorts=("casme2", "samm")):
    rng = np.random.default_rng(0)
    rows = [
        {"dataset": datasets[k % 2], "cohort": cohorts[k % 2], "subject": f"{rng.integers(8):03d}"} for k in range(n)
    ]
    table = build_table(rows)
    labels = rng.integers(0, 3, n).astype(np.int32)
    labels[:3] = 0, 1, 2
    parts = []
    for seed in seeds:
        p = rng.dirichlet(np.ones(3) / 3, n) * fail + np.eye(3)[labels] * (1 - fail) * rng.integers(0, 2, (n, 1))
        p /= p.sum(1, keepdims=True)
        parts.append(results.predictions_of(table, labels, CLASSES, seed=seed, fold=table["subject"], probability=p))
    return table, results.concatenate(parts)


def make_au(build_table):
    rng = np.random.default_rng(1)
    table = build_table([{"dataset": d, "subject": f"{k}"} for k in range(5) for d in ("casme2", "samm")])
    labels = rng.integers(-1, 2, (10, 3)).astype(np.int8)
    labels[:, 2] = 0  # never occurs
    parts = [
        results.predictions_of(
            table, labels, ("AU4", "AU12", "AU9"), seed=s, fold=table["dataset"], probability=rng.random((10, 3))
        )
        for s in (0, 1)
    ]
    return labels, results.concatenate(parts)


def test_one_confusion_matrix_over_all_folds(build_table):
    _, predictions = make(build_table)
    result = scores.summarise(predictions, protocol="loso", replicates=50)
    for name, reference in (
        ("acc", sklearn.metrics.accuracy_score),
        ("uf1", lambda t, p: sklearn.metrics.f1_score(t, p, average="macro")),
        ("uar", sklearn.metrics.balanced_accuracy_score),
        ("wf1", lambda t, p: sklearn.metrics.f1_score(t, p, average="weighted")),
    ):
        each = []
        for seed in (0, 1, 2):
            part = predictions.select(predictions.seed == seed)
            each.append(reference(part.truth, part.predicted))
            assert result["per_seed"][str(seed)][name] == pytest.approx(each[-1])
        assert result["overall"][name]["mean"] == pytest.approx(np.mean(each))
        assert result["overall"][name]["std"] == pytest.approx(np.std(each, ddof=1))
        for dataset in ("casme2", "samm"):
            mine = [predictions.select((predictions.seed == s) & (predictions.dataset == dataset)) for s in (0, 1, 2)]
            expected = np.mean([reference(p.truth, p.predicted) for p in mine])
            assert result["per_dataset"][dataset][name]["mean"] == pytest.approx(expected)
    assert (result["n"], result["classes"], result["comparable"]) == (40, list(CLASSES), True)
    assert result["persons"] == len(set(predictions.person.tolist()))
    assert sum(part["n"] for part in result["per_dataset"].values()) == 40
    np.testing.assert_array_equal(
        result["confusion"], sklearn.metrics.confusion_matrix(predictions.truth, predictions.predicted)
    )
    np.testing.assert_array_equal(
        result["confusion"], sum(np.array(part["confusion"]) for part in result["per_dataset"].values())
    )
    assert "dataset_average" not in result  # a pooled protocol is not the mean of its parts
    assert json.loads(json.dumps(result)) == result


def test_per_class(build_table):
    _, predictions = make(build_table, seeds=(0,))
    result = scores.summarise(predictions, replicates=10)
    columns = sklearn.metrics.precision_recall_fscore_support(predictions.truth, predictions.predicted)
    for name, column in zip(("precision", "recall", "f1", "support"), columns, strict=True):
        np.testing.assert_allclose([result["per_class"][c][name] for c in CLASSES], column)
    np.testing.assert_array_equal(
        [result["per_class"][c]["predicted"] for c in CLASSES], np.bincount(predictions.predicted, minlength=3)
    )
    assert result["overall"]["acc"]["std"] == 0.0


def test_intervals_are_of_persons_not_of_datasets_or_seeds(build_table):
    _, predictions = make(build_table)
    result = scores.summarise(predictions, replicates=200, bootstrap_seed=4)
    persons = list(dict.fromkeys(predictions.select(predictions.seed == 0).person.tolist()))
    counts = np.zeros((3, len(persons), 3, 3), np.int64)
    np.add.at(
        counts,
        (predictions.seed, [persons.index(p) for p in predictions.person], predictions.truth, predictions.predicted),
        1,
    )
    expected = metrics.bootstrap(counts, replicates=200, seed=4)
    for name, (low, high) in expected.intervals.items():
        assert (result["overall"][name]["low"], result["overall"][name]["high"]) == (low, high)
        assert low <= result["overall"][name]["mean"] <= high
    assert result["bootstrap"] == {
        "unit": "person", "replicates": 200, "level": 0.95, "incomplete": expected.incomplete,
    }  # fmt: skip


def test_the_names_of_cohorts_do_not_change_the_interval(build_table, tmp_path):
    """A run knows cohorts, its predictions.csv does not: scoring the file again gives the same metrics."""
    _, predictions = make(build_table, cohorts=("z", "a"))
    results.write_predictions(tmp_path / "p.csv", predictions)
    again = results.read_predictions(tmp_path / "p.csv")
    assert again.person.tolist() != predictions.person.tolist()
    assert scores.summarise(again) == scores.summarise(predictions)


def test_holdout_protocols_are_averaged_over_databases(build_table):
    _, predictions = make(build_table)
    result = scores.summarise(predictions, protocol="hde_megc2018", replicates=10)
    for name in metrics.SCORES:
        parts = [result["per_dataset"][d][name]["mean"] for d in ("casme2", "samm")]
        assert result["dataset_average"][name]["mean"] == pytest.approx(np.mean(parts))
    assert "mean of datasets" in format_table(result)


def test_oracle_is_branded_wherever_it_shows(build_table):
    _, predictions = make(build_table)
    result = scores.summarise(predictions, select="oracle", replicates=10)
    assert result["comparable"] is False
    assert any("NOT COMPARABLE" in note for note in result["notes"])
    text = format_table(result)
    assert text.startswith("*** NOT COMPARABLE")
    for line in text.splitlines():
        if line.startswith(("all", "casme2", "samm")):
            assert "(NOT COMPARABLE)" in line
    for select in ("last", "inner"):
        fair = scores.summarise(predictions, select=select, replicates=10)
        assert fair["comparable"] is True
        assert "NOT COMPARABLE" not in format_table(fair)
    unknown = scores.summarise(predictions, select="unknown", replicates=10)
    assert unknown["comparable"] is None
    assert any("unknown" in note for note in unknown["notes"])


def test_count_differences_come_first(build_table):
    _, predictions = make(build_table)
    result = scores.summarise(
        predictions,
        count_differences=["casme2: 245 clips at hand, 246 published"],
        apex_source={"annotated": 39, "imputed": 1},
        oracle_inputs="boundaries+apex",
        label_set="casme2_5",
        split_hash="abc",
        replicates=10,
    )
    lines = format_table(result).splitlines()
    assert lines[0] == "COUNTS DIFFER: casme2: 245 clips at hand, 246 published"
    assert "oracle_inputs=boundaries+apex" in lines[1]
    assert lines[2] == "apex: 39 annotated, 1 imputed"
    assert (result["split_hash"], result["label_set"]) == ("abc", "casme2_5")


def test_a_class_without_clips_is_told(build_table):
    _, predictions = make(build_table, seeds=(0,))
    rows = np.flatnonzero(predictions.truth != 2)
    result = scores.summarise(predictions.select(rows), replicates=10)
    assert any(note.startswith("c has no clip") for note in result["notes"])


def test_action_units(build_table):
    labels, predictions = make_au(build_table)
    result = scores.summarise(predictions, protocol="cd6me", replicates=30)
    truth = predictions.select(predictions.seed == 0).truth
    binary = {0: [], 1: []}
    for seed in (0, 1):
        part = predictions.select(predictions.seed == seed)
        for k in range(2):
            known = part.truth[:, k] >= 0
            binary[k].append(sklearn.metrics.f1_score(part.truth[known, k], part.predicted[known, k]))
    assert result["per_au"]["AU4"]["f1_binary"] == pytest.approx(np.mean(binary[0]))
    assert result["overall"]["f1_binary"]["mean"] == pytest.approx(np.mean([binary[0], binary[1]]))
    assert result["per_au"]["AU12"]["support"] == (truth[:, 1] == 1).sum()
    assert result["per_au"]["AU12"]["known"] == (truth[:, 1] >= 0).sum()
    assert any(note.startswith("AU9 has no positive clip") for note in result["notes"])
    assert result["baselines"]["all_zeros"]["f1_binary"] == 0.0
    positives = (labels == 1).sum(0)[:2] / (labels >= 0).sum(0)[:2]
    assert result["baselines"]["all_ones"]["f1_binary"] == pytest.approx(np.mean(2 * positives / (1 + positives)))
    parts = [result["per_dataset"][d]["f1_binary"]["mean"] for d in ("casme2", "samm")]
    assert result["dataset_average"]["f1_binary"]["mean"] == pytest.approx(np.mean(parts))
    assert np.array(result["confusion"]).shape == (3, 2, 2)
    text = format_table(result)
    for word in ("f1_binary", "f1_macro", "all_ones", "all_zeros", "AU12", "support"):
        assert word in text


def test_seeds_over_different_clips_are_refused(build_table):
    _, predictions = make(build_table)
    with pytest.raises(UserError, match="seeds 0 and 2 predict different clips"):
        scores.summarise(predictions.select(np.arange(len(predictions) - 1)))
    changed = results.concatenate([predictions.select(predictions.seed < 2)])
    altered = predictions.select(predictions.seed == 2)
    altered.truth[-1] = (altered.truth[-1] + 1) % 3
    with pytest.raises(UserError, match="seeds 0 and 2 disagree on the truth of clip"):
        scores.summarise(results.concatenate([changed, altered]))
    with pytest.raises(UserError, match="no prediction"):
        scores.summarise(predictions.select(np.array([], int)))
    with pytest.raises(UserError, match="select is 'best'"):
        scores.summarise(predictions, select="best")
    with pytest.raises(UserError, match="oracle_inputs is 'apex'"):
        scores.summarise(predictions, oracle_inputs="apex")


def test_person_scores(build_table):
    _, predictions = make(build_table)
    rows = scores.person_scores(predictions)
    assert sum(row["n"] for row in rows) == 40
    for row in rows:
        mine = predictions.select(predictions.person == row["person"])
        assert row["acc"] == pytest.approx((mine.truth == mine.predicted).mean())
    _, au = make_au(build_table)
    for row in scores.person_scores(au):
        mine = au.select(au.person == row["person"])
        known = mine.truth >= 0
        assert row["acc"] == pytest.approx((mine.truth == mine.predicted)[known].mean())
