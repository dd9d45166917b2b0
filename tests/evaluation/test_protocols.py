from __future__ import annotations

import csv
import hashlib

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from mer_jax.data.clips import ClipTable
from mer_jax.errors import UserError
from mer_jax.evaluation import protocols, results

DATASETS = ("casme2", "samm", "samm_long_videos", "smic_hs", "smic_vis")
COHORT = {"casme2": "casme2", "samm": "samm", "samm_long_videos": "samm", "smic_hs": "smic", "smic_vis": "smic"}
ALL_SELECTS = ("last", "inner", "oracle")


def table_of(build_table, clips) -> ClipTable:
    return build_table([{"dataset": d, "subject": s, "cohort": COHORT.get(d, d)} for d, s in clips])


@st.composite
def problems(draw):
    """Random tables: several datasets, some of the same people, unlabelled clips, single labels or action units."""
    clips = draw(
        st.lists(
            st.tuples(st.sampled_from(DATASETS), st.sampled_from(["1", "02", "s3", "10", "x"])), min_size=2, max_size=30
        )
    )
    n = len(clips)
    if draw(st.booleans()):
        labels = np.array(draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n)), np.int32)
    else:
        cells = draw(st.lists(st.integers(-1, 1), min_size=2 * n, max_size=2 * n))
        labels = np.array(cells, np.int8).reshape(n, 2)
    return clips, labels


@settings(max_examples=150, deadline=None)
@given(
    problem=problems(),
    name=st.sampled_from(["loso", "kfold", "cde", "loso_within", "cross_dataset", "au_loso"]),
    select=st.sampled_from(ALL_SELECTS),
    n_folds=st.integers(2, 4),
    seed=st.integers(0, 5),
)
def test_nobody_is_on_both_sides(build_table, problem, name, select, n_folds, seed):
    clips, labels = problem
    table = table_of(build_table, clips)
    try:
        folds = protocols.make(name, table, labels, seed, select=select, n_folds=n_folds)
    except UserError:
        reject()  # the data cannot be divided; what makes them so is tested below
    usable = labels >= 0 if labels.ndim == 1 else (labels >= 0).any(1)
    person = [f"{COHORT[d]}/{s}" for d, s in clips]
    times_tested = np.zeros(len(clips), int)
    for fold in folds:
        sides = [{person[k] for k in np.flatnonzero(m)} for m in (fold.train, fold.validation, fold.test)]
        assert not sides[0] & sides[1]
        assert not sides[0] & sides[2]
        assert not sides[1] & sides[2]
        assert fold.train.any()
        assert fold.test.any()
        assert fold.validation.any() == (select == "inner")
        assert not ((fold.train | fold.validation | fold.test) & ~usable).any()
        if name in ("loso", "au_loso", "cde", "kfold"):  # everybody who is not tested trains
            np.testing.assert_array_equal(fold.train | fold.validation | fold.test, usable)
        times_tested += fold.test
    np.testing.assert_array_equal(times_tested, usable)
    assert len({fold.name for fold in folds}) == len(folds)


@settings(max_examples=60, deadline=None)
@given(problem=problems(), other=problems(), seed=st.integers(0, 3))
def test_pretraining_never_sees_a_tested_person(build_table, problem, other, seed):
    clips, labels = problem
    table, macro = table_of(build_table, clips), table_of(build_table, other[0])
    try:
        folds = protocols.make("loso", table, labels, seed)
    except UserError:
        reject()
    allowed = protocols.allowed_for_pretraining(macro, folds, table)
    tested = {f"{COHORT[d]}/{s}" for k, (d, s) in enumerate(clips) if any(f.test[k] for f in folds)}
    for k, (d, s) in enumerate(other[0]):
        assert allowed[k] == (f"{COHORT[d]}/{s}" not in tested)
    persons = [p for k, p in enumerate(macro.person.tolist()) if allowed[k]]
    protocols.check_pretraining_persons(persons, folds, table, "weights")
    leaked = sorted(set(macro.person.tolist()) & tested)
    if leaked:
        with pytest.raises(UserError, match="who is tested here"):
            protocols.check_pretraining_persons([*persons, leaked[0]], folds, table, "weights")


@settings(max_examples=40, deadline=None)
@given(problem=problems(), select=st.sampled_from(ALL_SELECTS), seed=st.integers(0, 3), data=st.data())
def test_splits_do_not_depend_on_the_order_of_the_table(build_table, problem, select, seed, data):
    clips, labels = problem
    table = table_of(build_table, clips)
    order = np.array(data.draw(st.permutations(range(len(clips)))))
    try:
        folds = protocols.make("loso", table, labels, seed, select=select)
    except UserError:
        reject()
    shuffled = protocols.make("loso", table.select(order), labels[order], seed, select=select)
    assert protocols.split_hash("loso", folds, table) == protocols.split_hash("loso", shuffled, table.select(order))


def test_loso_has_a_fold_for_each_person_with_a_label(build_table):
    table = table_of(build_table, [("samm", "006"), ("samm", "006"), ("samm", "007"), ("samm", "025")])
    folds = protocols.make("loso", table, np.array([0, 1, 1, -1]))
    assert [f.name for f in folds] == ["samm-006", "samm-007"]
    np.testing.assert_array_equal(folds[0].test, [True, True, False, False])
    np.testing.assert_array_equal(folds[0].train, [False, False, True, False])
    assert not folds[0].validation.any()


def test_one_person_in_two_datasets_is_one_fold(build_table):
    table = table_of(build_table, [("samm", "006"), ("samm_long_videos", "006"), ("samm", "007")])
    folds = protocols.make("loso", table, np.zeros(3, int))
    assert [f.name for f in folds] == ["samm-006", "samm-007"]
    np.testing.assert_array_equal(folds[0].test, [True, True, False])


def test_cross_dataset_leaves_out_people_of_the_tested_dataset(build_table):
    clips = [("samm", "006"), ("samm_long_videos", "006"), ("samm_long_videos", "011"), ("casme2", "006")]
    folds = protocols.make("cross_dataset", table_of(build_table, clips), np.zeros(4, int))
    by_name = {f.name: f for f in folds}
    assert list(by_name) == ["casme2", "samm", "samm_long_videos"]
    np.testing.assert_array_equal(by_name["samm"].train, [False, False, True, True])
    np.testing.assert_array_equal(by_name["samm_long_videos"].train, [False, False, False, True])
    np.testing.assert_array_equal(by_name["casme2"].train, [True, True, True, False])


def test_kfold_is_a_fixed_table_of_sorted_persons(build_table):
    clips = [("smic_hs", f"s{k}") for k in (10, 2, 1, 3, 20) for _ in range(k)]
    table = table_of(build_table, clips)
    folds = protocols.make("kfold", table, np.zeros(len(clips), int), n_folds=2)
    tested = [sorted({clips[k][1] for k in np.flatnonzero(f.test)}) for f in folds]
    assert tested == [["s1", "s20", "s3"], ["s10", "s2"]]  # sorted as numbers: s1 s2 s3 s10 s20
    listing = protocols.subject_table(folds, table)
    assert listing.splitlines()[1].split() == ["fold0", "12", "0", "24", "smic/s1", "smic/s3", "smic/s20"]
    with pytest.raises(UserError, match="n_folds is 6; the data have 5 persons"):
        protocols.make("kfold", table, np.zeros(len(clips), int), n_folds=6)


def test_holdout_protocols_name_their_datasets(build_table):
    pair = table_of(build_table, [("casme2", "01"), ("samm", "006")])
    folds = protocols.make("hde_megc2018", pair, np.zeros(2, int))
    assert [(f.name, f.train.tolist(), f.test.tolist()) for f in folds] == [
        ("casme2", [False, True], [True, False]),
        ("samm", [True, False], [False, True]),
    ]
    with pytest.raises(UserError, match=r"hde_atnet is defined on casme2, samm, smic_hs; .* casme2, samm"):
        protocols.make("hde_atnet", pair, np.zeros(2, int))
    three = build_table([{"dataset": d, "subject": "1"} for d in ("casme2_cropped", "samm", "smic")])
    folds = protocols.make("hde_atnet", three, np.zeros(3, int))
    assert [f.name for f in folds] == ["casme2", "samm", "smic_hs"]
    assert all(f.train.sum() == 2 for f in folds)
    names = ("casme", "casme2", "samm", "fourdme", "mmew", "casme3")
    six = build_table([{"dataset": d, "subject": "1"} for d in names])
    folds = protocols.make("cd6me", six, np.zeros((6, 12), np.int8))
    assert [f.name for f in folds] == sorted(names)


def test_data_that_cannot_be_divided(build_table):
    one = table_of(build_table, [("casme2", "01"), ("casme2", "01")])
    with pytest.raises(UserError, match="at least two persons"):
        protocols.make("loso", one, np.zeros(2, int))
    with pytest.raises(UserError, match="no clip has a label"):
        protocols.make("loso", one, np.full(2, -1))
    with pytest.raises(UserError, match=r"cde needs at least two datasets; .* casme2"):
        protocols.make("cde", one, np.zeros(2, int))
    with pytest.raises(UserError, match="did you mean 'loso'"):
        protocols.make("losso", one, np.zeros(2, int))
    with pytest.raises(UserError, match="select is 'best'"):
        protocols.make("loso", one, np.zeros(2, int), select="best")
    shared = table_of(build_table, [("samm", "006"), ("samm_long_videos", "006")])
    with pytest.raises(UserError, match="no person is left to train on"):
        protocols.make("cross_dataset", shared, np.zeros(2, int))
    two = table_of(build_table, [("casme2", "01"), ("casme2", "02")])
    with pytest.raises(UserError, match="1 training person cannot be divided"):
        protocols.make("loso", two, np.zeros(2, int), select="inner")


def test_inner_validation_depends_on_seed_and_fold_and_keeps_every_class(build_table):
    rng = np.random.default_rng(0)
    clips = [("casme2", f"{k:02d}") for k in rng.integers(0, 20, 120)]
    table = table_of(build_table, clips)
    labels = rng.integers(0, 3, 120).astype(np.int32)
    rare = np.flatnonzero(np.array([s for _, s in clips]) == "07")
    labels[rare] = 3  # only one person shows class 3
    a = protocols.make("loso", table, labels, seed=0, select="inner")
    b = protocols.make("loso", table, labels, seed=0, select="inner")
    c = protocols.make("loso", table, labels, seed=1, select="inner")
    plain = protocols.make("loso", table, labels, seed=0)
    assert all(np.array_equal(x.validation, y.validation) for x, y in zip(a, b, strict=True))
    assert sum(not np.array_equal(x.validation, y.validation) for x, y in zip(a, c, strict=True)) > 10
    assert len({tuple(sorted({clips[k][1] for k in np.flatnonzero(f.validation)})) for f in a}) > 10
    for fold, whole in zip(a, plain, strict=True):
        np.testing.assert_array_equal(fold.train | fold.validation, whole.train)
        persons = {clips[k][1] for k in np.flatnonzero(fold.validation)}
        assert len(persons) == 4  # a fifth of 19
        assert "07" not in persons
        assert set(labels[whole.train].tolist()) == set(labels[fold.train].tolist())


def test_overlap_is_refused_by_name(build_table):
    table = table_of(build_table, [("samm", "006"), ("samm_long_videos", "006"), ("samm", "007")])
    masks = [np.array(m, bool) for m in ([1, 0, 1], [0, 0, 0], [0, 1, 0])]
    with pytest.raises(UserError, match=r"fold f: person 'samm/006' is on both sides, train and test \(1 in all\)"):
        protocols.check_no_person_overlap([protocols.Fold("f", *masks)], table)
    with pytest.raises(UserError, match="validation and test"):
        protocols.check_no_person_overlap([protocols.Fold("f", masks[1], masks[0], masks[2])], table)
    with pytest.raises(UserError, match="train and validation"):
        protocols.check_no_person_overlap([protocols.Fold("f", masks[0], masks[2], masks[1])], table)
    with pytest.raises(ValueError, match="expected"):
        protocols.check_no_person_overlap([protocols.Fold("f", masks[0][:2], masks[1], masks[2])], table)


def test_predictions_cover_the_test_parts(build_table):
    table = table_of(build_table, [("samm", f"{k % 3:03d}") for k in range(9)])
    folds = protocols.make("loso", table, np.zeros(9, int))
    parts = [
        results.predictions_of(
            table,
            np.zeros(9, int),
            ("a", "b"),
            seed=seed,
            fold=np.full(3, fold.name),
            probability=np.full((3, 2), 0.5),
            rows=np.flatnonzero(fold.test),
        )
        for seed in (0, 1)
        for fold in folds
    ]
    protocols.check_predictions(results.concatenate(parts), folds, table)
    with pytest.raises(ValueError, match="seed 1: 3 test clips without a prediction"):
        protocols.check_predictions(results.concatenate(parts[:-1]), folds, table)
    with pytest.raises(ValueError, match="3 predictions that no fold tests"):
        protocols.check_predictions(results.concatenate(parts), folds[:-1], table)
    parts[0].fold[:] = "samm-001"
    with pytest.raises(ValueError, match="seed 0: 3 test clips without a prediction"):
        protocols.check_predictions(results.concatenate(parts), folds, table)


def test_fold_names_are_file_names(build_table):
    table = table_of(build_table, [("clip_folder", "Zoë / 1"), ("clip_folder", "a b"), ("clip_folder", "a_b")])
    names = [f.name for f in protocols.make("loso", table, np.zeros(3, int))]
    assert len(set(names)) == 3
    for name in names:
        assert all(c.isascii() and (c.isalnum() or c in "._-") for c in name)
    alone = protocols.make("loso", table.select(np.array([0, 1])), np.zeros(2, int))
    assert "clip_folder-a_b" in [f.name for f in alone]


def test_splits_are_a_table_with_a_hash(build_table, tmp_path):
    table = table_of(build_table, [("samm", s) for s in ("006", "007", "009", "010", "011")])
    labels = np.array([0, 1, 0, 1, -1])
    folds = protocols.make("loso", table, labels, seed=3, select="inner")
    digest = protocols.write_splits(tmp_path / "splits.csv", "loso", folds, table)
    raw = (tmp_path / "splits.csv").read_bytes()
    assert digest == hashlib.sha256(raw).hexdigest() == protocols.split_hash("loso", folds, table)
    rows = list(csv.DictReader(raw.decode().splitlines()))
    assert list(rows[0]) == ["protocol", "fold", "dataset", "subject", "clip", "role"]
    assert len(rows) == 16  # four folds of four clips; the unlabelled one is in none
    for fold in folds:
        mine = {r["clip"]: r["role"] for r in rows if r["fold"] == fold.name}
        for role, mask in (("train", fold.train), ("val", fold.validation), ("test", fold.test)):
            assert {c for c, r in mine.items() if r == role} == set(table["clip"][mask].tolist())
    other = protocols.make("loso", table, labels, seed=4, select="inner")
    assert protocols.split_hash("loso", other, table) != digest


FAMILIES = ("base", "twin", "appearance", "motion", "prior")


def families(build_table, names=FAMILIES):
    clips = [(f"synthetic_faces_{d}", f"p{i:03d}") for d in names for i in (1, 1, 2, 3)]
    table = build_table([{"dataset": d, "subject": s, "cohort": d.replace("_faces", "")} for d, s in clips])
    return table, np.array([d.removeprefix("synthetic_faces_") for d, _ in clips]), np.arange(len(clips)) % 3


def test_within_has_the_folds_of_cde_on_one_database_each(build_table):
    table, family, labels = families(build_table)
    pooled = {f.name: f for f in protocols.make("cde", table, labels)}
    within = protocols.make("loso_within", table, labels)
    assert {f.name for f in within} == set(pooled)
    for fold in within:
        own = family == family[fold.test][0]
        np.testing.assert_array_equal(fold.test, pooled[fold.name].test)
        np.testing.assert_array_equal(fold.train, own & ~fold.test)
        np.testing.assert_array_equal(pooled[fold.name].train, ~fold.test)
    held = protocols.make("loso_within", table, labels, select="inner")
    assert all(set(family[f.validation]) == set(family[f.test]) for f in held)


def test_families_are_datasets_and_cross_by_one_shift(build_table):
    table, family, labels = families(build_table)
    for fold in protocols.make("hde_from_base", table, labels):
        name = fold.name.removeprefix("synthetic_faces_")
        np.testing.assert_array_equal(fold.test, family == name)
        np.testing.assert_array_equal(fold.train, family == "base")
    assert len(protocols.make("hde_from_base", table, labels)) == 4
    hde = {f.name: f for f in protocols.make("cross_dataset", table, labels)}
    assert set(hde) == {f"synthetic_faces_{f}" for f in FAMILIES}
    np.testing.assert_array_equal(hde["synthetic_faces_motion"].train, family != "motion")
    for names in (("base",), ("motion", "prior")):
        with pytest.raises(UserError, match="hde_from_base trains on synthetic_faces_base and tests every other"):
            protocols.make("hde_from_base", *families(build_table, names)[::2])
    with pytest.raises(UserError, match="loso_within needs at least two datasets"):
        protocols.make("loso_within", *families(build_table, ("base",))[::2])
