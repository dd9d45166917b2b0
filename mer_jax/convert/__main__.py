"""`python -m mer_jax.convert SYSTEM released.pth OUT [--config configs/x.py:released,...]` imports released weights.

OUT becomes a run with a finished pre-training: `python -m mer_jax.main ... --config.init_from=OUT` goes on from it.
Without --config the network is that of `configs/SYSTEM.py:released`. Loading runs nothing of what the file holds.
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import app

from mer_jax import startup
from mer_jax.errors import MerError

_CONFIG = startup.define_config()


def main(arguments: list[str]) -> None:
    """Converts and says where the checkpoint is; a known error becomes one message and its exit code."""
    from mer_jax.convert import convert
    from mer_jax.settings import Settings

    system, source, out = arguments[1:]
    try:
        fields = {k: v for k, v in _CONFIG.value.to_dict().items() if k not in ("ablation", "rows", "row_names")}
        place = convert(system, Path(source), Path(out).expanduser().absolute(), Settings(fields))
    except MerError as error:
        print(f"mer_jax: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(f"{place}\nuse it with --config.init_from={out}")


if __name__ == "__main__":
    startup.parse_and_run(main, app, words=("SYSTEM", "released.pth", "OUT"), default="configs/{SYSTEM}.py:released")
