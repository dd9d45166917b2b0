"""Median filters of small odd windows as selection networks: only minima and maxima of shifted planes.

A k x k window is sorted column by column first; this work is shared by the k windows that contain a column. The
remaining wires pass through a network that is generated here and reduced by the 0-1 principle (Knuth, The Art of
Computer Programming 3, section 5.3.4): on inputs of zeros and ones a sorted column is its number of ones, so that
the (k + 1)^k count vectors are *all* inputs, and an exchange that never acts on them never acts at all.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

WINDOWS = (3, 5)
# Sorting networks of 3 and 5 wires, of the least size.
_SORT = {
    3: ((0, 2), (0, 1), (1, 2)),
    5: ((0, 3), (1, 4), (0, 2), (1, 3), (0, 1), (2, 4), (1, 2), (3, 4), (2, 3)),
}
# The wires (row * k + column) that can still hold the median once columns and rows are sorted, in the order in which
# the last sorter takes them; among 1,500 random orders this one left the fewest operations.
_LAST = {3: (2, 4, 6), 5: (11, 20, 12, 13, 3, 4, 8, 15, 16, 7, 9, 21, 17)}


def _odd_even_merge_sort(wires: Sequence[int]) -> list[tuple[int, int]]:
    """Batcher's network over the given wires as exchanges (wire of the minimum, wire of the maximum)."""
    n, exchanges = len(wires), []
    run = 1
    while run < n:
        gap = run
        while gap >= 1:
            for start in range(gap % run, n - gap, 2 * gap):
                for i in range(start, start + min(gap, n - start - gap)):
                    if i // (2 * run) == (i + gap) // (2 * run):
                        exchanges.append((wires[i], wires[i + gap]))
            gap //= 2
        run *= 2
    return exchanges


def sorted_column_states(k: int) -> np.ndarray:
    """Every input of zeros and ones of a k x k window with sorted columns: bool [(k+1)^k, k*k], wire row*k+column."""
    ones = np.array(list(itertools.product(range(k + 1), repeat=k)))
    rows = np.arange(k)[:, None]
    return (rows >= k - ones[:, None, :]).reshape(len(ones), k * k)


@functools.cache
def median_network(k: int) -> tuple[tuple[tuple[int, int, bool, bool], ...], int]:
    """The exchanges that bring the median of a k x k window with sorted columns to one wire.

    Args:
      k: side of the window, one of WINDOWS.

    Returns:
      The exchanges (a, b, keep_min, keep_max): wire a receives the minimum where keep_min, wire b the maximum where
      keep_max, the other result is never read; and the wire that ends up with the median.
    """
    rows = [(r * k + a, r * k + b) for r in range(k) for a, b in _SORT[k]]
    output = _LAST[k][len(_LAST[k]) // 2]
    states = sorted_column_states(k)
    acting = []
    for a, b in rows + _odd_even_merge_sort(_LAST[k]):
        low, high = states[:, a], states[:, b]
        if (low & ~high).any():
            states[:, a], states[:, b] = low & high, low | high
            acting.append((a, b))
    live, network = {output}, []
    for a, b in reversed(acting):
        if a in live or b in live:
            network.append((a, b, a in live, b in live))
            live |= {a, b}
    return tuple(reversed(network)), output


def median_filter(x: jax.Array, k: int) -> jax.Array:
    """Median of the k x k window around every pixel; the border repeats its outermost pixel.

    Args:
      x: [B, H, W].
      k: side of the window, one of WINDOWS.

    Returns:
      [B, H, W], the values of `x` rearranged (no arithmetic is done on them).
    """
    if k not in WINDOWS:
        raise ValueError(f"window of the median filter: found {k}, expected one of {WINDOWS}")
    height, width = x.shape[1:]
    padded = jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)), mode="edge")
    columns = [padded[:, r : r + height] for r in range(k)]
    for a, b in _SORT[k]:
        columns[a], columns[b] = jnp.minimum(columns[a], columns[b]), jnp.maximum(columns[a], columns[b])
    # Without the barrier the compiler would sort each column k times, once for each window that contains it.
    columns = list(jax.lax.optimization_barrier(tuple(columns)))
    wires = [columns[r][:, :, c : c + width] for r in range(k) for c in range(k)]
    network, output = median_network(k)
    for a, b, keep_min, keep_max in network:
        low, high = wires[a], wires[b]
        if keep_min:
            wires[a] = jnp.minimum(low, high)
        if keep_max:
            wires[b] = jnp.maximum(low, high)
    return wires[output]
