import itertools

import cv2
import jax
import numpy as np
import pytest

from mer_jax.data import median


@pytest.mark.parametrize("k", [3, 5])
def test_columns_are_sorted_by_the_small_network(k):
    for bits in itertools.product((0, 1), repeat=k):
        wires = list(bits)
        for a, b in median._SORT[k]:
            wires[a], wires[b] = min(wires[a], wires[b]), max(wires[a], wires[b])
        assert wires == sorted(bits)


@pytest.mark.parametrize("k", [3, 5])
def test_network_finds_the_median_of_every_input_of_zeros_and_ones(k):
    """By the 0-1 principle this proves it for all inputs."""
    states = median.sorted_column_states(k)
    assert len(np.unique(states, axis=0)) == (k + 1) ** k
    wires = {w: states[:, w].copy() for w in range(k * k)}
    network, output = median.median_network(k)
    for a, b, keep_min, keep_max in network:
        low, high = wires[a] & wires[b], wires[a] | wires[b]
        # What is not kept must never be read again: it is poisoned by removal.
        wires[a], wires[b] = (low if keep_min else None), (high if keep_max else None)
    np.testing.assert_array_equal(wires[output], states.sum(axis=1) > k * k // 2)


def test_network_of_five_is_small():
    network, _ = median.median_network(5)
    assert sum(low + high for _, _, low, high in network) <= 114


@pytest.mark.parametrize("k", [3, 5])
def test_filter_equals_numpy_and_opencv(k):
    rng = np.random.default_rng(k)
    x = rng.standard_normal((3, 17, 23)).astype(np.float32)
    x[1] = rng.integers(0, 3, (17, 23))  # many ties
    x[2] = np.arange(17)[:, None]
    found = np.asarray(jax.jit(median.median_filter, static_argnums=1)(x, k))
    padded = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(1, 2))
    np.testing.assert_array_equal(found, np.median(windows, axis=(-2, -1)))
    np.testing.assert_array_equal(found, [cv2.medianBlur(plane, k) for plane in x])


def test_other_windows_are_refused():
    with pytest.raises(ValueError, match="found 7"):
        median.median_filter(np.zeros((1, 9, 9), np.float32), 7)
