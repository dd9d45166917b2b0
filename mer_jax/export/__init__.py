"""A finished run as a file that runs anywhere: StableHLO by jax.export, with its facts and a model card."""

from __future__ import annotations

from pathlib import Path

from mer_jax.export.loading import Exported, load

__all__ = ["Exported", "export", "load"]


def export(run: Path, out: Path, fold: str | None = None, seed: int | None = None) -> list[Path]:
    """Exports a run; see `python -m mer_jax.export`. Returns what was written.

    Raises:
      UserError: no run, a fold that is not there, a checkpoint that does not fit, or a folder in use.
    """
    from mer_jax.export.artifact import write  # a reader of exports needs none of it

    return write(run, out, fold, seed)
