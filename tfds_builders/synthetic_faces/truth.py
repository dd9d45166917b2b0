"""What truly moves in the rendered clips: `python -m tfds_builders.synthetic_faces.truth CONFIG [CONFIG ...]`.

Writes one file a config below the data directory, where `python -m mer_jax.analysis WORKDIR --maps` looks for it.
Nothing is rendered, and TensorFlow is not needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mer_jax.data import truth
from mer_jax.data.source import default_data_dir
from mer_jax.errors import UserError
from mer_jax.progress import Progress
from tfds_builders.synthetic_faces import generate


def write(config: str, data_dir: Path) -> Path:
    """Writes the truth of a config's clips with an expression.

    Args:
      config: of the synthetic faces, such as micro.
      data_dir: where datasets are built.

    Raises:
      UserError: no such config.
    """
    if config not in generate.CONFIGS:
        raise UserError(f"synthetic_faces has no config {config!r}; there are {', '.join(generate.CONFIGS)}")
    jobs = [job for job in generate.clip_jobs(config) if job.emotion != "neutral"]
    moved, disturbed = [], []
    with Progress(f"true motion of {config}", len(jobs), "clips") as progress:
        for job in jobs:
            moved.append(generate.action_unit_motion(job))
            disturbed.append(generate.disturbance(job))
            progress.advance()
    names = np.array([job.name for job in jobs])
    found = truth.Truth(names, np.stack(moved), np.array(disturbed, np.float32))
    return truth.write(data_dir, f"synthetic_faces_{config}", found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tfds_builders.synthetic_faces.truth", description=__doc__)
    parser.add_argument("config", metavar="CONFIG", nargs="+", help="such as micro")
    parser.add_argument("--data_dir", type=Path, default=None, help="where datasets are built")
    options = parser.parse_args(arguments)
    try:
        for config in options.config:
            print(write(config, (options.data_dir or default_data_dir()).expanduser()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
