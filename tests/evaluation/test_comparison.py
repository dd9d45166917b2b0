from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import sklearn.metrics

from mer_jax.errors import UserError
from mer_jax.evaluation import comparison, metrics, results
from mer_jax.evaluation.comparison import Contender, Options

CLASSES = ("a", "b", "c")
FACTS = {"protocol": "loso", "label_set": "toy", "split_hash": "ab" * 32, "select": "last"}
FEW = Options(replicates=200, permutations=199)


def table_of(build_table, persons=9, clips=5):
    return build_table([{"dataset": "casme2", "subject": f"{k % persons:02d}"} for k in range(persons * clips)])


def predict(build_table, skill, seeds=(0, 1), salt=0, **size):
    """Predictions that are right with a probability of `skill`."""
    table = table_of(build_table, **size)
    labels = np.random.default_rng(1).integers(0, 3, len(table)).astype(np.int32)
    parts = []
    for seed in seeds:
        rng = np.random.default_rng([salt, seed])
        guess = np.where(rng.random(len(table)) < skill, labels, rng.integers(0, 3, len(table)))
        p = 0.7 * np.eye(3)[guess] + 0.1
        parts.append(results.predictions_of(table, labels, CLASSES, seed=seed, fold=table["subject"], probability=p))
    return results.concatenate(parts)


def predict_units(build_table, skill, salt=0):
    table = table_of(build_table)
    labels = np.random.default_rng(1).integers(-1, 2, (len(table), 3)).astype(np.int8)
    rng = np.random.default_rng(salt)
    p = np.where(rng.random(labels.shape) < skill, labels == 1, rng.random(labels.shape) < 0.5) * 0.8 + 0.1
    units = ("AU1", "AU4", "AU12")
    return results.predictions_of(table, labels, units, seed=0, fold=table["subject"], probability=p)


def contender(name, predictions, **facts):
    return Contender(name, predictions, FACTS | facts)


def score(kind, p):
    reference = {
        "acc": sklearn.metrics.accuracy_score,
        "uf1": lambda t, q: sklearn.metrics.f1_score(t, q, average="macro"),
        "uar": sklearn.metrics.balanced_accuracy_score,
        "wf1": lambda t, q: sklearn.metrics.f1_score(t, q, average="weighted"),
    }[kind]
    return [reference(p.truth[p.seed == s], p.predicted[p.seed == s]) for s in p.seeds]


def test_a_run_against_itself(build_table):
    p = predict(build_table, 0.5)
    found = comparison.compare([contender("x", p), contender("y", p)], FEW)
    (pair,) = found["pairs"]
    for row in pair["scores"].values():
        assert (row["difference"], row["low"], row["high"], row["p"]) == (0, 0, 0, 1)
        assert (row["resolvable"], row["persons_needed"], row["p_holm"]) == (None, None, None)
    assert pair["permutation"]["persons_that_differ"] == 0
    assert all(test["p"] == 1 for test in pair["mcnemar"]["seeds"])
    assert all(row["difference"] == 0 for row in [*pair["per_class"].values(), *pair["per_person"]])


def test_scores_are_means_over_seeds(build_table):
    p, q = predict(build_table, 0.6), predict(build_table, 0.4, seeds=(3, 5, 8), salt=1)
    found = comparison.compare([contender("x", p), contender("y", q)], FEW)
    row = found["pairs"][0]["scores"]
    for name in ("uf1", "uar", "acc", "wf1"):
        assert row[name]["a"] == pytest.approx(np.mean(score(name, p)))
        assert row[name]["b"] == pytest.approx(np.mean(score(name, q)))
        assert row[name]["difference"] == pytest.approx(row[name]["a"] - row[name]["b"])
        assert row[name]["seed_std_b"] == pytest.approx(np.std(score(name, q), ddof=1))
    assert (found["primary"], found["n"], found["persons"]) == ("uf1", 45, 9)
    assert [(t["seed_a"], t["seed_b"]) for t in found["pairs"][0]["mcnemar"]["seeds"]] == [(0, 3), (1, 5)]
    assert json.loads(json.dumps(found)) == found


def test_the_interval_is_that_of_resampled_persons(build_table):
    """Against scores of rows that are repeated as often as their person is drawn."""
    p, q = predict(build_table, 0.7), predict(build_table, 0.4, salt=1)
    found = comparison.compare([contender("x", p), contender("y", q)], FEW)["pairs"][0]["scores"]["acc"]
    persons = sorted(set(p.person.tolist()))
    differences = []
    for weights in metrics.person_weights(len(persons), FEW.replicates, FEW.seed).astype(int):
        times = weights[[persons.index(person) for person in p.person]]
        shares = [np.mean(np.repeat(x.truth == x.predicted, times)) for x in (p, q)]
        differences.append(shares[0] - shares[1])
    assert found["se"] == pytest.approx(np.std(differences, ddof=1))
    np.testing.assert_allclose([found["low"], found["high"]], np.quantile(differences, [0.025, 0.975]))


def test_seeds_are_no_further_samples(build_table):
    """The same predictions under more seeds: same interval, same p."""
    once, other = predict(build_table, 0.6, seeds=(0,)), predict(build_table, 0.4, seeds=(0,), salt=1)
    thrice = [
        results.concatenate([dataclasses.replace(p, seed=np.full(len(p), s)) for s in range(3)]) for p in (once, other)
    ]
    first = comparison.compare([contender("x", once), contender("y", other)], FEW)["pairs"][0]["scores"]
    second = comparison.compare([contender("x", thrice[0]), contender("y", thrice[1])], FEW)["pairs"][0]["scores"]
    for name in first:
        for key in ("difference", "low", "high", "se", "p", "resolvable"):
            assert second[name][key] == pytest.approx(first[name][key])
        assert (first[name]["seed_std_a"], second[name]["seed_std_a"]) == (None, 0)


def test_three_runs_are_corrected(build_table):
    skills = {"x": 0.9, "y": 0.3, "z": 0.3}
    runs = [contender(n, predict(build_table, skill, salt=k)) for k, (n, skill) in enumerate(skills.items())]
    found = comparison.compare(runs, FEW)
    assert [(pair["a"], pair["b"]) for pair in found["pairs"]] == [("x", "y"), ("x", "z"), ("y", "z")]
    p = [pair["scores"]["uf1"]["p"] for pair in found["pairs"]]
    adjusted = [pair["scores"]["uf1"]["p_holm"] for pair in found["pairs"]]
    assert adjusted[int(np.argmin(p))] == pytest.approx(3 * min(p))
    assert all(a >= b for a, b in zip(adjusted, p, strict=True))
    alone = comparison.compare(runs[:2], FEW)["pairs"][0]["scores"]["uf1"]
    row = found["pairs"][0]["scores"]["uf1"]
    assert row["p"] == alone["p"]
    assert row["resolvable"] > alone["resolvable"]  # a stricter test
    assert row["persons_needed"] == np.ceil(9 * (row["resolvable"] / row["difference"]) ** 2)


def test_classes_and_persons(build_table):
    p, q = predict(build_table, 0.8, seeds=(0,)), predict(build_table, 0.4, seeds=(0,), salt=1)
    pair = comparison.compare([contender("x", p), contender("y", q)], FEW)["pairs"][0]
    for side, x in (("a", p), ("b", q)):
        expected = sklearn.metrics.f1_score(x.truth, x.predicted, average=None)
        np.testing.assert_allclose([row[side] for row in pair["per_class"].values()], expected)
        for row in pair["per_person"]:
            mine = x.person == row["person"]
            assert (row[side], row["n"]) == (pytest.approx(np.mean((x.truth == x.predicted)[mine])), 5)
    assert all(row["low"] <= row["difference"] <= row["high"] for row in pair["per_class"].values())
    differences = [row["difference"] for row in pair["per_person"]]
    assert differences == sorted(differences, reverse=True)
    assert len(differences) == 9


def test_a_class_that_a_resample_may_miss(build_table):
    """Its interval is over the resamples that have it; without a clip there is none."""
    p, q = (predict(build_table, s, seeds=(0,), salt=k) for k, s in enumerate((0.8, 0.4)))
    rare, odd = np.where(p.truth == 2, 0, p.truth), p.person == p.person[0]
    for missing in (odd, np.zeros_like(odd)):
        truth = np.where(missing, 2, rare)
        runs = [contender(n, dataclasses.replace(x, truth=truth)) for n, x in (("x", p), ("y", q))]
        row = comparison.compare(runs, FEW)["pairs"][0]["per_class"]["c"]
        assert row["support"] == missing.sum()
        assert (row["low"] is None) == (not missing.any())


def test_datasets_by_themselves(build_table):
    p, q = (predict(build_table, s, salt=k, persons=12) for k, s in enumerate((0.8, 0.4)))
    assert comparison.compare([contender("x", p), contender("y", q)], FEW)["pairs"][0]["per_dataset"] == {}
    dataset = np.where(p.person < "casme2/05", "casme2", "samm")
    p, q = (dataclasses.replace(x, dataset=dataset) for x in (p, q))
    table = comparison.compare([contender("x", p), contender("y", q)], FEW)["pairs"][0]["per_dataset"]
    assert {name: (row["n"], row["persons"]) for name, row in table.items()} == {"casme2": (25, 5), "samm": (35, 7)}
    for name, row in table.items():
        parts = [x.select(x.dataset == name) for x in (p, q)]
        alone = comparison.compare([contender("x", parts[0]), contender("y", parts[1])], FEW)["pairs"][0]["scores"]
        assert row == {key: alone["uf1"][key] for key in row if key in alone["uf1"]} | {
            "n": row["n"], "persons": row["persons"],
        }  # fmt: skip
        assert row["a"] == pytest.approx(np.mean(score("uf1", parts[0])))


def test_action_units(build_table):
    p, q = predict_units(build_table, 0.9), predict_units(build_table, 0.2, salt=1)
    found = comparison.compare([contender("x", p), contender("y", q)], FEW)
    (pair,) = found["pairs"]
    assert found["primary"] == "f1_binary"
    each = [
        [sklearn.metrics.f1_score(x.truth[k, u], x.predicted[k, u]) for u, k in enumerate((x.truth >= 0).T)]
        for x in (p, q)
    ]
    row = pair["scores"]["f1_binary"]
    assert row["difference"] == pytest.approx(np.mean(each[0]) - np.mean(each[1]))
    np.testing.assert_allclose([r["a"] for r in pair["per_class"].values()], each[0])
    assert row["p"] < 0.05
    known = p.truth >= 0
    assert sum(r["n"] for r in pair["per_person"]) == known.sum()
    right, other = (p.truth == p.predicted) & known, (q.truth == q.predicted) & known
    (test,) = pair["mcnemar"]["seeds"]
    assert (test["only_a"], test["only_b"]) == ((right & ~other).sum(), (other & ~right).sum())
    assert pair["mcnemar"]["assumes"] == "assumes independent clips and action units"


def test_what_cannot_be_compared(build_table):
    p, q = predict(build_table, 0.6), predict(build_table, 0.4, salt=1)
    x = contender("x", p)

    def refused(other):
        with pytest.raises(UserError) as error:
            comparison.compare([x, other], FEW)
        return str(error.value)

    assert "x and y cannot be compared: protocol is loso and kfold" in refused(contender("y", q, protocol="kfold"))
    assert "label_set is toy and toy_4" in refused(contender("y", q, label_set="toy_4"))
    assert "the hashes of their splits are abababababab and cdcdcdcdcdcd" in refused(
        contender("y", q, split_hash="cd" * 32)
    )
    assert "select=inner holds out training persons" in refused(contender("y", q, split_hash="cd" * 32, select="inner"))
    assert "without a hash of the splits" in refused(contender("y", q, split_hash=None))
    fewer = refused(contender("y", q.select(q.clip != q.clip[0])))
    assert "they score 45 clips (a " in fewer
    assert f"and 44 (a {(p.truth[:45] == 0).sum() - (p.truth[0] == 0)}" in fewer
    assert repr(str(p.clip[0])) in fewer
    changed = np.where(q.clip == q.clip[3], (q.truth + 1) % 3, q.truth)
    truths = f"{CLASSES[p.truth[3]]} and {CLASSES[(p.truth[3] + 1) % 3]}"
    assert f"the truth of clip {str(p.clip[3])!r} is {truths}" in refused(
        contender("y", dataclasses.replace(q, truth=changed))
    )
    assert "the classes are a, b, c and a, c, b" in refused(
        contender("y", dataclasses.replace(q, classes=("a", "c", "b")))
    )
    assert "tasks are emotion and au" in refused(contender("y", predict_units(build_table, 0.5)))
    assert "expected at least two, with different names" in refused(contender("x", q))
    with pytest.raises(UserError, match="seeds 0 and 1 predict different clips"):
        comparison.compare([x, contender("y", q.select(np.arange(len(q) - 1)))], FEW)
