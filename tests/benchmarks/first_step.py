"""`python -m tests.benchmarks.first_step FLAGS`: `python -m mer_jax.main FLAGS`, ended when its first step is done."""

from __future__ import annotations

import functools
import os
import runpy
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))


def ends_here(step: Any, name: str) -> Any:
    """`step`, after whose first call nothing comes."""

    @functools.wraps(step)
    def stepped(*arguments: Any, **named: Any) -> Any:
        import jax

        jax.block_until_ready(step(*arguments, **named))
        print(f"first step of {name} done", flush=True)
        os._exit(0)

    return stepped


def main() -> None:
    from mer_jax.training import folds, pretrain

    pretrain.PretrainEngine.train = ends_here(pretrain.PretrainEngine.train, "pre-training")
    folds.FoldEngine.chunk = ends_here(folds.FoldEngine.chunk, "a chunk of folds")
    runpy.run_module("mer_jax.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
