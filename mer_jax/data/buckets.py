"""Which clips share a batch shape: lengths that waste the least padding."""

from __future__ import annotations

import numpy as np


def fitting_lengths(lengths: np.ndarray, count: int, smallest: int = 1) -> tuple[tuple[int, ...], np.ndarray]:
    """Divides clips by length into at most `count` buckets, so that the fewest frames are padded.

    A clip is padded to the longest clip of its bucket. Found exactly, by dynamic programming over the sorted lengths.

    Args:
      lengths: int [n], frames of each clip.
      count: buckets at most.
      smallest: clips that a bucket holds at least, where there are so many.

    Returns:
      lengths of the buckets, ascending, and int [n], the bucket of each clip.

    Raises:
      ValueError: no clips, or a count below 1.
    """
    lengths = np.asarray(lengths)
    if not len(lengths) or count < 1:
        raise ValueError(f"buckets need clips and a count above 0; found {len(lengths)} clips, count {count}")
    sizes, clips = np.unique(lengths, return_counts=True)
    below = np.concatenate([[0], np.cumsum(clips)])  # clips shorter than sizes[i]
    n, smallest = len(sizes), min(smallest, len(lengths))
    best = np.full((count + 1, n + 1), np.inf)  # frames of the first j sizes in k buckets
    best[0, 0], cut = 0.0, np.zeros((count + 1, n + 1), int)
    for k in range(1, count + 1):
        for j in range(1, n + 1):
            held = below[j] - below[:j]
            costs = np.where(held >= smallest, best[k - 1, :j] + sizes[j - 1] * held, np.inf)
            cut[k, j] = int(costs.argmin())
            best[k, j] = costs[cut[k, j]]
    ends, j, k = [], n, int(best[:, n].argmin())
    while j:
        ends.append(int(sizes[j - 1]))
        j, k = cut[k, j], k - 1
    edges = tuple(ends[::-1])
    return edges, np.searchsorted(edges, lengths)
