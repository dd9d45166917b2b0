"""`python -m mer_jax.analysis WORKDIR` rebuilds the report of a run; several workdirs are compared."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mer_jax.analysis.compare import compare_runs
from mer_jax.analysis.report import write_report
from mer_jax.errors import MerError, UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m mer_jax.analysis",
        description="Rebuilds report.html and figures/ of a run from its workdir. Given several runs over the same "
        "splits, compares them: comparison.html, comparison.csv and comparison.json.",
    )
    parser.add_argument("workdir", metavar="WORKDIR", nargs="+", help="workdir of a run")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where a comparison is written (default: comparison)")
    options = parser.parse_args(arguments)
    try:
        if len(options.workdir) == 1:
            if options.out is not None:
                raise UserError("--out is for comparisons; the report of one run is written into its workdir")
            print(write_report(options.workdir[0]))
        else:
            found = compare_runs(options.workdir, options.out or Path("comparison"))
            print(found.text)
            print(found.page)
    except MerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
