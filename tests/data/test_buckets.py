"""Buckets of clip lengths against exhaustive search."""

import itertools

import numpy as np
import pytest

from mer_jax.data.buckets import fitting_lengths


def padded(edges, lengths):
    return sum(min(e for e in edges if e >= n) for n in lengths)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("smallest", [1, 4])
def test_no_other_edges_waste_less(seed, count, smallest):
    lengths = np.random.default_rng(seed).integers(5, 20, 15)
    edges, bucket = fitting_lengths(lengths, count, smallest)
    assert edges == tuple(sorted(edges))
    assert edges[-1] == lengths.max()
    for b, edge in enumerate(edges):
        held = lengths[bucket == b]
        assert held.max() == edge
        assert len(held) >= smallest
    best = np.inf
    for k in range(count):
        for inner in itertools.combinations(np.unique(lengths)[:-1], k):
            tried = (*inner, lengths.max())
            if np.bincount(np.searchsorted(tried, lengths)).min() >= smallest:
                best = min(best, padded(tried, lengths))
    assert padded(edges, lengths) == best


def test_few_lengths_make_few_buckets():
    edges, bucket = fitting_lengths(np.array([7, 7, 7]), 4)
    assert edges == (7,)
    assert (bucket == 0).all()
    assert fitting_lengths(np.array([3, 9]), 4, smallest=5)[0] == (9,)


def test_nothing_is_refused():
    with pytest.raises(ValueError, match="0 clips"):
        fitting_lengths(np.array([], int), 3)
