"""How long clips and their events last, and at which frame rates: the time scale that a network was trained at."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mer_jax.data.clips import ClipTable


@dataclasses.dataclass(frozen=True)
class TimeScale:
    """Durations in seconds: 5th percentile, median and 95th percentile.

    Attributes:
      fps: frame rates of the clips, ascending.
      clip: of whole clips.
      event: from onset to offset.
    """

    fps: tuple[float, ...]
    clip: tuple[float, float, float]
    event: tuple[float, float, float]

    @classmethod
    def of_table(cls, table: ClipTable) -> TimeScale | None:
        """That of some clips; None where the frame rate of none of them is known."""
        known = table["fps"] > 0
        if not known.any():
            return None
        fps = table["fps"][known].astype(float)
        frames = {"clip": table["length"][known], "event": (table["offset"] - table["onset"])[known] + 1}
        parts: Any = {k: tuple(np.quantile(n / fps, (0.05, 0.5, 0.95)).round(4).tolist()) for k, n in frames.items()}
        return cls(fps=tuple(sorted(set(fps.round(3).tolist()))), **parts)

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> TimeScale:
        """The inverse of `dataclasses.asdict`, after JSON."""
        parts: Any = {name: tuple(found[name]) for name in ("fps", "clip", "event")}
        return cls(**parts)
