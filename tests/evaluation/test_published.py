from __future__ import annotations

import itertools

import numpy as np

from mer_jax.evaluation import labels, protocols, published, results, scores
from mer_jax.evaluation.datasets import DATASETS
from mer_jax.evaluation.label_set import ActionUnitSet, LabelSet

ROWS = published.published()
CDE = {"casme2": (88, 32, 25), "samm": (92, 26, 15), "smic_hs": (70, 51, 43)}


def run_of(build_table, counts, protocol="cde", label_set="megc2019", seeds=(0,)):
    """Metrics of made-up predictions over clips of three classes."""
    rows, truth = [], []
    for dataset, per_class in counts.items():
        for c, n in enumerate(per_class):
            rows += [{"dataset": dataset, "subject": f"{k % 16:02d}"} for k in range(n)]
            truth += [c] * n
    table, rng = build_table(rows), np.random.default_rng(0)
    classes = ("negative", "positive", "surprise")
    parts = [
        results.predictions_of(
            table, np.array(truth), classes, seed=seed, fold=table["subject"],
            probability=rng.dirichlet(np.ones(3), len(table)),
        )
        for seed in seeds
    ]  # fmt: skip
    predictions = results.concatenate(parts)
    return scores.summarise(predictions, protocol=protocol, label_set=label_set, replicates=10)


def test_every_row_fits_the_registry():
    for row in ROWS:
        assert row.scores, row
        assert all(0 < value <= 1 for value in row.scores.values()), row
        assert row.datasets <= set(DATASETS), row
        assert row.test_selected in ("yes", "no", "unknown"), row
        assert row.source, row
        assert row.protocol in protocols.PROTOCOLS or " " in row.protocol or not row.protocol, row
        if row.counts:
            assert sum(row.counts.values()) == row.n, row
            assert dict(row.counts) in expected_counts(row), row


def expected_counts(row):
    """What the label set of a row expects of its datasets, in each version."""
    known = labels.get(row.label_set)
    if isinstance(known, ActionUnitSet):
        assert len(known.units) == row.classes
        return [dict(known.expected)]
    assert isinstance(known, LabelSet)
    assert len(known.classes) == row.classes
    versions = [[c.clips for c in known.expected[dataset]] for dataset in sorted(row.datasets)]
    return [{c: sum(part[c] for part in parts) for c in known.classes} for parts in itertools.product(*versions)]


def test_an_accuracy_is_a_share_of_its_clips():
    """Where it is not, the clips were others, and the row has no counts."""
    for row in ROWS:
        assert not row.counts or "no share" not in row.note
        if row.counts and "acc" in row.scores:
            three_digits = round(row.scores["acc"], 3) == row.scores["acc"]
            nearest = round(row.scores["acc"] * row.n) / row.n
            assert abs(nearest - row.scores["acc"]) < (5.5e-4 if three_digits else 1.1e-4), row


def test_rows_are_unique():
    keys = [(row.system, row.source, row.datasets, row.classes, row.protocol) for row in ROWS]
    assert len(set(keys)) == len(keys)


def test_known_numbers():
    """The log of STSTNet: its UAR is the mean recall, not the mean precision that the paper prints."""
    (row,) = [r for r in ROWS if r.system == "STSTNet" and len(r.datasets) == 3 and r.label_set == "megc2019"]
    assert (row.n, row.scores["uf1"], row.scores["uar"]) == (442, 0.7353, 0.7186)


def test_beside_a_composite_run(build_table):
    metrics = run_of(build_table, CDE, seeds=(0, 1))
    found = published.beside(metrics)
    assert set(found.parts) == {"", "casme2", "samm", "smic_hs"}
    assert {row.n for row in found.parts[""]} == {442}
    assert {row.n for row in found.parts["samm"]} == {133}
    assert "ATNet" in {row.system for row in found.parts["casme2"]}
    assert {row.system for row in found.other_counts} == {"ATNet", "AHMSA-Net"}  # no share of so many clips
    assert all(row.protocol == "cde" for rows in found.parts.values() for row in rows)


def test_only_where_map_protocol_and_counts_agree(build_table):
    moved = CDE | {"casme2": (87, 33, 25)}  # as many clips, one of another class
    found = published.beside(run_of(build_table, moved))
    assert set(found.parts) == {"samm", "smic_hs"}
    assert {row.datasets for row in found.other_counts if row.counts} == {frozenset(CDE), frozenset(("casme2",))}
    assert published.beside(run_of(build_table, CDE, protocol="kfold")) == published.Beside({}, ())
    assert published.beside(run_of(build_table, CDE, label_set="own")) == published.Beside({}, ())
    # The SMIC part of the composite is not SMIC alone: other people train.
    alone = published.beside(run_of(build_table, {"smic_hs": (70, 51, 43)}, protocol="loso", label_set="smic_3"))
    assert {row.source for row in alone.parts[""]} == {"arXiv 2009.09179"}
    assert {row.system for row in alone.other_counts} >= {"SLSTT", "SRMCL"}  # their counts are unknown
    holdout = published.beside(run_of(build_table, CDE, protocol="hde_atnet"))
    assert set(holdout.parts) == {"casme2", "samm", "smic_hs"}


def test_configurations_are_their_dataset_and_two_builds_are_none(build_table):
    renamed = {"casme2_cropped": CDE["casme2"], "samm": CDE["samm"], "smic_hs": CDE["smic_hs"]}
    assert "casme2_cropped" in published.beside(run_of(build_table, renamed)).parts
    twice = {"casme2": (40, 32, 25), "casme2_cropped": (48, 0, 0), "samm": CDE["samm"], "smic_hs": CDE["smic_hs"]}
    assert not published.beside(run_of(build_table, twice)).parts


def test_action_units(build_table):
    clips = labels.get("cd6me").expected
    table = build_table([{"dataset": d, "subject": str(k % 7)} for d, n in clips.items() for k in range(n)])
    rng = np.random.default_rng(0)
    truth = (rng.random((len(table), 12)) < 0.3).astype(np.int8)
    units = [f"AU{k}" for k in labels.get("cd6me").units]
    p = results.predictions_of(table, truth, units, seed=0, fold=table["dataset"], probability=rng.random(truth.shape))
    metrics = scores.summarise(p, protocol="cd6me", label_set="cd6me", replicates=5)
    found = published.beside(metrics)
    assert set(found.parts) == {""}
    best = max(found.parts[""], key=lambda row: row.scores["f1_binary"])
    assert (best.system, best.scores["f1_binary_datasets"]) == ("SSSNet, 64 px flow", 0.384)
