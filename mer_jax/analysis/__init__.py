"""Opens finished runs: `open_run(WORKDIR)`; `python -m mer_jax.analysis WORKDIR` makes reports and comparisons."""

from mer_jax.analysis.open_run import Run, open_run

__all__ = ["Run", "open_run"]
