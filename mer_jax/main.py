"""Command line of a run.

  python -m mer_jax.main --config configs/ma2mi.py
  python -m mer_jax.main --config configs/ma2mi.py:scratch --workdir runs/scratch --config.seeds="(0,1,2)"

Exit codes: 0 done, 2 a mistake in the call or the data, 3 a number became infinite, 75 stopped and saved (run again).
"""

from __future__ import annotations

import os
import sys

import jax
from absl import app, flags

from mer_jax import startup
from mer_jax.errors import HiccupError, MerError
from mer_jax.files import storage_error

_CONFIG = startup.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run; default: workdir/<config>. A run there goes on.")
_PLAN = flags.DEFINE_bool("plan", False, "Print data, folds, steps, memory and expected time; train nothing.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, where jax cannot find out by itself.")
_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes, with --coordinator.")
_PROCESS = flags.DEFINE_integer("process", None, "Number of this process from 0, with --coordinator.")
_CPU_DEVICES = flags.DEFINE_integer(
    "cpu_devices", 0, "On CPU: devices that folds and batches are divided over; 0 = one a core, at most 8."
)
_PROCESS_TIMEOUT = flags.DEFINE_integer(
    "process_timeout", 60, "Seconds after which a process that is not heard of counts as lost and the others end."
)
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    os.environ.get("JAX_COMPILATION_CACHE_DIR", "~/.cache/mer_jax/compiled"),
    "Folder that keeps compiled programs, or $JAX_COMPILATION_CACHE_DIR; '' keeps none.",
)


def main(_: list[str]) -> None:
    """Starts jax in one place, runs the config, turns known errors into one message and an exit code."""
    try:
        startup.divide_cpu(_CPU_DEVICES.value)
        startup.start_jax(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value, _CACHE.value, _PROCESS_TIMEOUT.value)
        from mer_jax.run import run

        run(_CONFIG.value, startup.workdir(_WORKDIR.value), _PLAN.value)
    except MerError as error:
        print(f"mer_jax: {error}", file=sys.stderr, flush=True)
        os._exit(startup.stop(error.exit_code, str(error)))
    except KeyboardInterrupt:
        print("mer_jax: interrupted; run the same command again to go on", file=sys.stderr, flush=True)
        os._exit(130)
    except Exception as error:
        if told := storage_error(error):
            print(f"mer_jax: {told}", file=sys.stderr, flush=True)
            # what may pass is this process's alone: the others notice that it is gone, and all are run again
            passing = isinstance(told, HiccupError)
            os._exit(told.exit_code if passing else startup.stop(told.exit_code, str(told)))
        if not jax.distributed.is_initialized() or jax.process_count() == 1:
            raise
        os._exit(startup.fail(error))
    startup.stop(0)


if __name__ == "__main__":
    startup.parse_and_run(main, app)
