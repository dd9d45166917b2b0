"""Exports a finished run as one StableHLO file for CPU, GPU and TPU, with its facts and a model card.

  python -m mer_jax.export workdir/ma2mi exported/ma2mi
  python -m mer_jax.export workdir/ma2mi exported/p003 --fold p003

OUT gets network.stablehlo (frames of clips -> probabilities, the mean over folds; number of clips and frames are free),
network.json (inputs, classes, preprocessing) and model_card.md. `mer_jax.export.load(OUT)` opens it; the card has the
lines that do so with jax alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mer_jax.errors import MerError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    lines = (__doc__ or "").split("\n")
    parser = argparse.ArgumentParser(
        prog="python -m mer_jax.export",
        description=lines[0],
        epilog="\n".join(lines[1:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="workdir of a finished run, or the OUT of mer_jax.convert"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    parser.add_argument("--fold", help="export this fold alone (default: the mean of all)")
    parser.add_argument("--seed", type=int, help="seed of the run (default: its first)")
    given = parser.parse_args(argv)
    try:
        from mer_jax.export import export

        written = export(given.run.expanduser(), given.out.expanduser(), given.fold, given.seed)
    except MerError as error:
        print(f"mer_jax: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(str(path) for path in written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
