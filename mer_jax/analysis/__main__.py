"""`python -m mer_jax.analysis WORKDIR` rebuilds the report of a run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mer_jax.analysis.report import write_report
from mer_jax.errors import MerError


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m mer_jax.analysis", description="Rebuild report.html and figures/ of a run from its workdir."
    )
    parser.add_argument("workdir", metavar="WORKDIR", help="workdir of a run")
    try:
        print(write_report(parser.parse_args(arguments).workdir))
    except MerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
