"""Shared by the tests of launch/: running scripts with a clean environment and stand-ins for the tools they call."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
MAIN = 'python -m mer_jax.main --config "$MER_JAX_CONFIG" --workdir "$MER_JAX_WORKDIR" ${MER_JAX_FLAGS:-}'
SCRIPTS = ("tpu_vm.sh", "queued_resource.sh", "worker.sh", "gke.sh", "local_multiprocess.sh", "slurm.sbatch")
VERBS = {
    "tpu_vm.sh": ("create", "setup", "run", "stop", "logs", "delete"),
    "queued_resource.sh": ("create", "wait", "run", "delete"),
    "worker.sh": ("setup", "run", "stop"),
    "gke.sh": ("apply", "logs", "delete"),
    "local_multiprocess.sh": ("",),
    "slurm.sbatch": ("",),
}
NAMES = {
    "MER_JAX_CONFIG": "configs/ma2mi.py:paper",
    "MER_JAX_WORKDIR": "/mnt/mer_jax/runs/a",
    "MER_JAX_PROJECT": "project",
    "MER_JAX_ZONE": "us-west4-a",
    "MER_JAX_TPU_NAME": "slice",
    "MER_JAX_TPU_TYPE": "v5litepod-16",
    "MER_JAX_TPU_VERSION": "v2-alpha-tpuv5-lite",
    "MER_JAX_BUCKET": "bucket",
    "MER_JAX_MOUNT": "/mnt/mer_jax",
    "MER_JAX_JOB": "job",
    "MER_JAX_IMAGE": "registry/mer_jax:1",
}


def environment(**names):
    """This process's environment without what belongs to a launch, this Python first in PATH, and `names`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MER_JAX_", "SLURM_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    cache = {"MER_JAX_TEST_CACHE": os.environ["MER_JAX_TEST_CACHE"]}
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **cache, **names}


def launch(script, *words, cwd=ROOT, **names):
    """Runs a script of launch/ to its end."""
    path = LAUNCH / script if "/" not in script else script
    return subprocess.run(
        ["bash", str(path), *words], cwd=cwd, env=environment(**names), capture_output=True, text=True, check=False,
        timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def stand_in(folder, name, body):
    """Puts a command `name` first in PATH that appends its words to `<name>.calls` and then runs `body`."""
    folder.mkdir(exist_ok=True)
    command = folder / name
    command.write_text(f'#!/usr/bin/env bash\necho "$*" >> "{folder}/{name}.calls"\n{body}\n')
    command.chmod(0o755)


def calls(folder, name):
    path = folder / f"{name}.calls"
    return path.read_text().splitlines() if path.exists() else []


def first_in_path(folder):
    return {"PATH": f"{folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def verbs_in_help(text):
    """Words after the script's name in the usage lines of --help."""
    return re.findall(r"^  launch/\S+ (\w+)  ", text, re.MULTILINE)
