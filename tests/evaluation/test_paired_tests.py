from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from mer_jax.evaluation import metrics, paired_tests

SCORES = {"uf1": metrics.uf1, "acc": metrics.acc}


def runs_of(persons, seeds=(1, 1), classes=3, clips=4, seed=0):
    """Counts [S, P, C, C] of two runs over the same clips."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(1, clips, (persons, classes))
    made = []
    for n_seeds in seeds:
        share = rng.dirichlet(np.ones(classes), (n_seeds, persons, classes))
        made.append(rng.multinomial(np.broadcast_to(truth, (n_seeds, persons, classes)), share))
    return made


def test_mcnemar_against_scipy():
    for only_a, only_b in itertools.product((0, 1, 2, 5, 9, 30, 400), repeat=2):
        expected = scipy.stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
        assert paired_tests.mcnemar(only_a, only_b) == pytest.approx(expected, rel=1e-9)
    assert paired_tests.mcnemar(1, 9) == 22 / 1024  # 2 (1 + 10) / 2^10


def test_holm_is_the_smallest_rate_at_which_the_procedure_rejects():
    def rejects(p, alpha):
        order, found = np.argsort(p, kind="stable"), np.zeros(len(p), bool)
        for rank, k in enumerate(order):
            if p[k] > alpha / (len(p) - rank):
                break
            found[k] = True
        return found

    rng = np.random.default_rng(0)
    for n in (1, 3, 6, 10):
        p = np.round(rng.random(n) ** 2, 2)
        adjusted = paired_tests.holm(p)
        for k in range(n):
            assert rejects(p, adjusted[k] * (1 + 1e-9))[k] or adjusted[k] == 1
            assert not rejects(p, adjusted[k] * (1 - 1e-9) - 1e-12)[k]
    np.testing.assert_allclose(paired_tests.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])  # statsmodels


@pytest.mark.parametrize("seed", range(3))
def test_sign_swap_against_scipy(seed):
    a, b = runs_of(7, seeds=(2, 2), seed=seed)
    both = np.concatenate([a, b], axis=1)
    found = paired_tests.sign_swap(a, b, SCORES)
    assert (found.exact, found.arrangements, found.persons) == (True, 64, 7)
    for name, score in SCORES.items():

        def difference(x, y, score=score):
            return np.mean([score(run[x.astype(int)].sum(0)) - score(run[y.astype(int)].sum(0)) for run in both])

        expected = scipy.stats.permutation_test(
            (np.arange(7), np.arange(7, 14)), difference, permutation_type="samples", n_resamples=np.inf,
            vectorized=False,
        )  # fmt: skip
        assert found.p[name] == pytest.approx(expected.pvalue)


def test_all_seeds_of_a_person_are_swapped_at_once_and_unequal_numbers_are_paired_in_turn():
    a, b = runs_of(5, seeds=(3, 2))
    values = []
    for swap in itertools.product((False, True), repeat=5):
        total = 0.0
        for k in range(6):  # the least common multiple
            first, second = a[k % 3].copy(), b[k % 2].copy()
            for person in np.flatnonzero(swap):
                first[person], second[person] = b[k % 2][person], a[k % 3][person]
            total += (metrics.uf1(first.sum(0)) - metrics.uf1(second.sum(0))) / 6
        values.append(total)
    observed = np.mean([metrics.uf1(x.sum(0)) for x in a]) - np.mean([metrics.uf1(x.sum(0)) for x in b])
    assert values[0] == pytest.approx(observed)
    expected = np.mean(np.abs(values) >= abs(observed) - 1e-12)
    assert paired_tests.sign_swap(a, b, SCORES).p["uf1"] == pytest.approx(expected)


def test_drawn_swaps_agree_with_all_of_them_and_give_no_zero():
    a, b = runs_of(12)
    exact = paired_tests.sign_swap(a, b, SCORES, permutations=2**11)
    drawn = paired_tests.sign_swap(a, b, SCORES, permutations=2**11 - 1)
    assert (exact.exact, drawn.exact) == (True, False)
    for name in SCORES:
        assert drawn.p[name] == pytest.approx(exact.p[name], abs=4 * np.sqrt(exact.p[name] / 2047) + 1e-3)
    right = np.tile(np.diag([3, 3, 3]), (1, 40, 1, 1))
    wrong = np.roll(right, 1, axis=-1)
    found = paired_tests.sign_swap(right, wrong, SCORES, permutations=99)
    assert found.p["uf1"] == found.smallest_p == 1 / 100


def test_a_run_against_itself_and_persons_who_do_not_differ():
    a, b = runs_of(60, seeds=(2, 2))
    same = paired_tests.sign_swap(a, a, SCORES)
    assert (same.p, same.persons, same.exact) == ({"uf1": 1.0, "acc": 1.0}, 0, True)
    b[:, 4:] = a[:, 4:]
    few = paired_tests.sign_swap(a, b, SCORES)
    assert (few.persons, few.exact, few.smallest_p) == (4, True, 1 / 8)


def test_the_smallest_difference_is_found_with_the_power_asked_for():
    normal = scipy.stats.norm
    for alpha, power in ((0.05, 0.8), (0.05 / 3, 0.9)):
        difference = paired_tests.smallest_difference(0.04, alpha, power)
        assert normal.sf(normal.isf(alpha / 2) - difference / 0.04) == pytest.approx(power)


def simulate(effect, times, persons=20, classes=3, swaps=199):
    """Shares of p <= .05 of the permutation (UF1) and of McNemar's test, and the mean difference of UF1.

    The clips of a person are alike: each run is lucky or not with a person, either one equally often.
    """
    rng = np.random.default_rng(0)
    hits, differences = [], []
    person = np.repeat(np.arange(persons), 8)
    for _ in range(times):
        truth = rng.integers(0, classes, len(person))
        counts, right = [], []
        for shift in (effect, 0.0):
            logit = 0.3 + shift + rng.normal(0, 0.8, persons)[person]
            guess = (truth + rng.integers(1, classes, len(person))) % classes
            predicted = np.where(rng.random(len(person)) < 1 / (1 + np.exp(-logit)), truth, guess)
            counts.append(metrics.grouped_confusion(truth, predicted, person, persons, classes)[None])
            right.append(predicted == truth)
        p = paired_tests.sign_swap(*counts, {"uf1": metrics.uf1}, swaps).p["uf1"]
        clips = paired_tests.mcnemar(int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum()))
        hits.append((p <= 0.05, clips <= 0.05))
        differences.append(metrics.uf1(counts[0].sum((0, 1))) - metrics.uf1(counts[1].sum((0, 1))))
    return *np.mean(hits, axis=0), float(np.mean(differences))


def test_a_null_is_not_found_by_persons_but_too_often_by_clips():
    by_person, by_clip, _ = simulate(0.0, 400)
    assert 0.02 <= by_person <= 0.08  # .05 ± 2.8 standard errors
    assert by_clip > 0.1


def test_a_planted_effect_is_found():
    by_person, _, difference = simulate(1.4, 100)
    assert difference > 0.2
    assert by_person > 0.9
