"""`python -m mer_jax.analysis WORKDIR` rebuilds the report of a run; several workdirs are compared.

python -m mer_jax.analysis WORKDIR --maps --features      looks into the networks of the folds first
python -m mer_jax.analysis WORKDIR WORKDIR ...            compares runs over the same splits
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mer_jax.analysis.compare import compare_runs
from mer_jax.analysis.open_run import open_run
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
    parser.add_argument(
        "--maps",
        action="store_true",
        help="look into the networks: Grad-CAM, integrated gradients and the system's own signals of the tested clips, "
        "and how much of them lies where the face moves (maps.csv). Needs the data",
    )
    parser.add_argument(
        "--features",
        action="store_true",
        help="look at the tested clips with the networks of their folds: PCA and t-SNE of what the last layer reads",
    )
    parser.add_argument("--clips", metavar="N", type=int, default=0, help="clips that --maps looks at (default: all)")
    parser.add_argument("--data_dir", metavar="DIR", default="", help="where the datasets are built, if they moved")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where a comparison is written (default: comparison)")
    options = parser.parse_args(arguments)
    try:
        if len(options.workdir) == 1:
            if options.out is not None:
                raise UserError("--out is for comparisons; the report of one run is written into its workdir")
            _look(options)
            print(write_report(options.workdir[0]))
        else:
            if options.maps or options.features:
                raise UserError(f"--maps and --features are for one run; found {len(options.workdir)} workdirs")
            found = compare_runs(options.workdir, options.out or Path("comparison"))
            print(found.text)
            print(found.page)
    except MerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _look(options: argparse.Namespace) -> None:
    """Looks into the networks where that is asked for."""
    if options.maps:
        from mer_jax.analysis.attribution import write_maps  # reads checkpoints and data, which a report does not
        from mer_jax.analysis.map_figures import lines
        from mer_jax.analysis.map_scores import read_scores

        path = write_maps(open_run(options.workdir[0]), options.clips, options.data_dir)
        print("\n".join(lines(read_scores(path))))
    if options.features:
        from mer_jax.analysis.features import write_features

        write_features(open_run(options.workdir[0]), options.data_dir)


if __name__ == "__main__":
    sys.exit(main())
