"""The workdir of a run: which files there are, whose config it belongs to, and what is written once."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from mer_jax import __version__
from mer_jax.errors import UserError
from mer_jax.files import is_remote, read_json, write_json
from mer_jax.training import mesh

# Where things are, which part is run now, how it fits: these may differ between two starts of one run.
FREE = (
    "stages", "eval.apex", "data.dir", "data.manual_dir", "data.macro_manual_dir",
    "engine.shard_params", "engine.remat", "engine.folds_per_device",
)  # fmt: skip
IDENTITY = ("fingerprints", "split_hash")  # facts that a resumed run must find as they were
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain", "tensorflow-datasets")


class Workdir:
    """Paths and the files that a run writes once.

    Args:
      root: the folder; made if it is missing.
      seeds: seeds of the run; with more than one, each has checkpoints of its own.
    """

    def __init__(self, root: Path, seeds: tuple[int, ...]) -> None:
        self.root, self._seeds = root, seeds
        try:
            root.mkdir(parents=True, exist_ok=True)
            mark = root / f".writable-{jax.process_index()}"
            mark.write_bytes(b"")
            mark.unlink(missing_ok=True)
        except Exception as error:  # a remote file system raises what it likes
            if not isinstance(error, OSError) and not is_remote(root):
                raise
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"--workdir {root} cannot be written ({reason}); choose another folder") from None

    def checkpoints(self, seed: int, *parts: str) -> Path:
        """`checkpoints/...` of a seed; `checkpoints/seed_<n>/...` where the run has several."""
        base = self.root / "checkpoints"
        return (base if len(self._seeds) == 1 else base / f"seed_{seed}").joinpath(*parts)

    def claim(self, config: Mapping[str, Any]) -> None:
        """Writes `config.json`, or makes sure that the run found there is this one. To be called by all processes.

        Raises:
          UserError: the config differs; the keys are named.
        """
        path = self.root / "config.json"
        plain = _jsonable(config)
        found = read_json(path) if mesh.is_writer() and path.exists() else plain
        ours, theirs = _flat(plain), _flat(mesh.agree_on_facts(found))
        changed = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k) and k not in FREE)
        if changed:
            listed = "; ".join(f"{k}: {theirs.get(k)!r} there, {ours.get(k)!r} now" for k in changed[:8])
            raise UserError(
                f"--workdir {self.root} holds a run with another config ({listed}). "
                "Give the old values, or another --workdir"
            )
        if mesh.is_writer() and found is plain:
            write_json(path, plain)

    def manifest(self, **facts: Any) -> dict[str, Any]:
        """Adds facts to `manifest.json` and returns the whole as process 0 has it; facts already there are kept.

        "commits" lists the versions of the code that worked on this run, in order; usually one.

        To be called by all processes.

        Raises:
          UserError: the data or the splits are not those that the run was started with.
        """
        path, facts = self.root / "manifest.json", _jsonable(facts)
        there = read_json(path) if mesh.is_writer() and path.exists() else None
        # other hosts of a network file system may still see an older file
        known = mesh.agree_on_facts({**facts, **(_environment() if there is None else there)})
        for fact in IDENTITY:
            if fact in facts and known[fact] != facts[fact]:
                raise UserError(
                    f"--workdir {self.root} holds a run on other data: {fact} was {known[fact]}, is {facts[fact]}. "
                    "Restore the data, or choose another --workdir"
                )
        commits = known.get("commits", [])
        known["commits"] = commits if _commit() in commits else [*commits, _commit()]
        if mesh.is_writer() and known != there:
            write_json(path, known)
        return known


@functools.cache
def _commit() -> str:
    """The commit of this code, with "-dirty" where files differ from it; $MER_JAX_COMMIT for a copy without history."""
    root = Path(__file__).parents[1]
    if given := os.environ.get("MER_JAX_COMMIT"):
        return given
    if not (root / ".git").exists():
        return "unknown"
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _environment() -> dict[str, Any]:
    versions = {"mer_jax": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    devices = [d.device_kind for d in jax.devices()]
    return {
        "versions": versions,
        "command": sys.argv[1:],
        "devices": {"platform": jax.default_backend(), "kinds": sorted(set(devices)), "count": len(devices)},
        "processes": jax.process_count(),
    }


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    return value


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
