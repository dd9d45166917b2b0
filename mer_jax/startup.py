"""Starting and stopping a process: flags, config files, jax.distributed, the compilation cache."""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags, logging
from jax.experimental import multihost_utils
from ml_collections import config_flags

from mer_jax.errors import NonFiniteError, Preempted, UserError, causes
from mer_jax.files import is_remote, path_of

# What jax says (there is no class of its own for it) where another process, or the service of process 0, is gone.
_LOST = re.compile(
    r"Gloo \S+ failed|NCCL .*(remote process exited|aborted|timed out|system error)|heartbeat|coordination service|"
    r"[Cc]onnection (reset|closed) by peer|[Ff]ailed to connect to|Socket closed|Barrier (failed|timed out)|"
    r"another task died"
)
_ALONE_SECONDS = 30 * 24 * 3600
_COUNTS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")  # where schedulers say how many processes there are
_MISTAKE = "mistake"
_HEAR_SECONDS = 5  # more than it takes to hear of something


def define_config() -> Any:
    """The flag `--config FILE[:words]`, locked: an unknown key is refused."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file, e.g. configs/ma2mi.py[:word,key=value,...]; fields: --config.a.b=value.",
        lock_config=True,
    )


def parse_and_run(main: Any, app: Any, words: Sequence[str] = (), default: str = "") -> None:
    """`absl.app.run` with mistakes in the flags as one message and exit code 2.

    Args:
      main: gets the name of the program and the words.
      app: absl.app.
      words: names of the arguments that are no flags; all are required.
      default: config where none is given; may name words, as in "configs/{SYSTEM}.py:released".
    """
    sys.path.insert(0, os.getcwd())  # configs import their shared part as `configs.common`

    def parser(arguments: list[str]) -> list[str]:
        try:
            _check_config_file(arguments)
            left = flags.FLAGS(arguments)
            if words and len(left) - 1 != len(words):
                raise UserError(f"found the arguments {left[1:]}; expected {' '.join(words)}, see --help")
            if not words and len(left) > 1:
                raise UserError(f"found {left[1]!r}; expected flags only, see --help")
            if default and flags.FLAGS["config"].value is None:
                chosen = f"--config={default.format(**dict(zip(words, left[1:], strict=True)))}"
                _check_config_file([chosen])
                flags.FLAGS([left[0], chosen])
            if flags.FLAGS["config"].value is None:
                raise UserError("--config is missing; for example: --config configs/ma2mi.py")
            return list(left)
        except (flags.Error, UserError, ValueError, AttributeError, TypeError, KeyError) as error:
            print(f"mer_jax: {_readable(error)}", file=sys.stderr)
            sys.exit(2)

    logging.set_verbosity(logging.WARNING)  # jax and orbax tell of every service and file
    app.run(main, flags_parser=parser)


def _check_config_file(arguments: list[str]) -> None:
    for i, argument in enumerate(arguments):
        match = re.fullmatch(r"--?config(=(.*))?", argument)
        if match:
            value = match[2] if match[1] else (arguments[i + 1] if i + 1 < len(arguments) else "")
            path = value.split(":")[0]
            if not Path(path).is_file():
                known = ", ".join(sorted(str(p) for p in Path("configs").glob("*.py") if p.stem != "common"))
                raise UserError(f"--config: there is no file {path!r}; there are: {known or 'none in ./configs'}")


def _readable(error: Exception) -> str:
    text = " ".join(str(error.args[0] if error.args else error).replace("\\n", " ").replace("'\\'", "'").split())
    # a config file that raises arrives with its whole traceback: keep the reason
    reason = re.search(r"Traceback .* (?:\w+Error|\w+Exception): (.*)$", text)
    return f"--config: {reason[1]}" if reason else text


def config_name() -> str:
    """A folder name for the config on the command line: `configs/ma2mi.py:scratch,a=b` -> `ma2mi-scratch-a=b`."""
    path, _, words = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    return "-".join([Path(path).stem, *filter(None, re.split(r"[,\s/]+", words))])


def workdir(given: str | None) -> Path:
    """The absolute folder (or gs:// URL) of a run; `workdir/<config>` where none is given.

    Raises:
      UserError: a URL that checkpoints cannot be written to, or that cannot be reached.
    """
    try:
        return path_of(given or Path("workdir") / config_name())
    except UserError as error:
        raise UserError(f"--workdir {error}") from None


def divide_cpu(devices: int) -> None:
    """Has XLA show the CPU as several devices, so that folds run side by side: one each keeps the cores busier than one
    that uses all of them for small convolutions. Nothing happens where XLA_FLAGS say it already.

    Args:
      devices: how many; 0 for one a core, rounded down to a power of two, at most 8.
    """
    name = "--xla_force_host_platform_device_count"
    known = os.environ.get("XLA_FLAGS", "")
    if name not in known:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
        power = 1 << (min(cores, 8).bit_length() - 1)  # divides the usual batches
        os.environ["XLA_FLAGS"] = f"{known} {name}={devices or power}".strip()


def start_jax(
    coordinator: str | None, processes: int | None, process: int | None, cache: str, process_timeout: int = 60
) -> None:
    """Starts jax.distributed (alone: on localhost, so that SIGTERM is heard and the state saved) and the cache.

    Args:
      coordinator: host:port of process 0, or None where jax finds out by itself, or where this process is alone.
      processes: number of processes, with `coordinator`.
      process: number of this process, with `coordinator`.
      cache: folder of compiled programs; "" for none.
      process_timeout: seconds after which a silent process of several counts as lost and the others end.

    Raises:
      UserError: only some of the three multi-process flags are given, or they contradict each other.
    """
    given = [x is not None for x in (coordinator, processes, process)]
    if any(given) and not all(given):
        raise UserError("--coordinator, --processes and --process belong together; give all three, or none")
    if cache:
        jax.config.update("jax_compilation_cache_dir", cache if is_remote(cache) else str(Path(cache).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_threefry_partitionable", True)
    told = [os.environ.get(name) for name in _COUNTS] if processes is None else [str(processes)]
    alone = "1" in told
    # nobody waits for a process that is alone: it may be suspended, as with a laptop, and go on
    waits: dict[str, Any] = {"heartbeat_timeout_seconds": _ALONE_SECONDS if alone else process_timeout}
    if coordinator and processes is not None and process is not None:
        if not re.fullmatch(r"[^:/\s]+:\d+", coordinator):
            raise UserError(f"--coordinator is {coordinator!r}; expected host:port of process 0, as in node1:29500")
        if not 0 <= process < processes:
            raise UserError(f"--process is {process} of --processes {processes}; expected 0 to {processes - 1}")
        jax.distributed.initialize(coordinator, processes, process, **waits)
        _meet()
        _listen()
        return
    try:
        jax.distributed.initialize(**waits)  # TPU pods, GKE, Slurm, OpenMPI say by themselves who belongs together
        _meet()
        _listen()
    except ValueError as error:
        if "coordinator_address should be defined" not in str(error):
            raise
        jax.distributed.initialize(f"localhost:{_free_port()}", 1, 0, heartbeat_timeout_seconds=_ALONE_SECONDS)


def _meet() -> None:
    """Connects the processes while they are still together: gloo waits for 30 seconds only, and what comes next
    (imports, reading data) may take one of them longer than that on a busy machine.
    """
    multihost_utils.sync_global_devices("start")


def _listen() -> None:
    """Has this process end with the code of another one that ends with a mistake of its own: nothing would come of
    going on, nor of running all again, and waiting in vain would only look like a lost process.
    """
    if jax.process_count() == 1:
        return
    from mer_jax.training import mesh  # late: with orbax behind it, which a mistake in the flags need not wait for

    def listen() -> None:
        try:
            who, code, text = mesh.hear(_MISTAKE).split(" ", 2)
        except jax.errors.JaxRuntimeError:
            return
        if int(who) != jax.process_index():
            print(f"mer_jax: process {who} of this run ended: {text}", file=sys.stderr, flush=True)
            os._exit(int(code))

    threading.Thread(target=listen, name=_MISTAKE, daemon=True).start()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return int(s.getsockname()[1])


def stop(code: int, text: str = "") -> int:
    """What is to be done before a process ends; returns the exit code.

    All processes end a run, or are preempted, at the same place: they leave jax.distributed together. A mistake may be
    one process's own (a file that only its host lacks, a disk that is full): it is told to the others, which end with
    the same code, and none waits for another.

    Args:
      code: exit code.
      text: what a mistake is.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if not jax.distributed.is_initialized():
        return code
    if code in (UserError.exit_code, NonFiniteError.exit_code) and jax.process_count() > 1:
        from mer_jax.training import mesh

        mesh.tell(_MISTAKE, f"{jax.process_index()} {code} {text}")
        if jax.process_index() == 0:  # the text is lost with it
            time.sleep(_HEAR_SECONDS)
        return code
    jax.distributed.shutdown()
    for thread in threading.enumerate():
        if thread.name == _MISTAKE:
            thread.join(_HEAR_SECONDS)  # it has heard that this process leaves
    return code


def fail(error: Exception) -> int:
    """Tells of an error that is no `MerError`, in a run of several processes; returns the exit code.

    Where another process is gone this one can only be run again with all of them: 75, like a preemption. Anything else
    is a bug: its traceback and 1. The process is to end at once, without `stop`: the others may never arrive.
    """
    lost = next((str(cause) for cause in causes(error) if _LOST.search(str(cause))), None)
    if lost is not None:
        first = lost.strip().splitlines()[0][:200]
        print(
            "mer_jax: another process of this run is gone; what was saved is whole. Run the same command again "
            f"({first})",
            file=sys.stderr,
            flush=True,
        )
        return Preempted.exit_code
    traceback.print_exception(error)
    sys.stderr.flush()
    return 1
