"""Checkpoints: orbax underneath; numpy trees out, whatever device count wrote them.

Two kinds: *rolling* states of a stage in flight (`<stage>/<step>`), and *finished* variables (`folds/<fold>`), which
analysis opens one by one. Both hold an item "state" (arrays) and an item "meta" (JSON). Orbax writes under a
temporary name and renames, so a checkpoint that exists is whole.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mer_jax.errors import UserError

logging.getLogger("absl").setLevel(logging.ERROR)  # orbax reports every file it touches


class Rolling:
    """The latest state of a stage in flight.

    Args:
      directory: absolute; one sub-folder a step.
      keep: how many states stay on disk.
    """

    def __init__(self, directory: Path, keep: int = 1) -> None:
        self.directory = directory
        self._manager = ocp.CheckpointManager(
            directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.LatestN(keep), cleanup_tmp_directories=True
            ),
        )

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> None:
        """Starts an asynchronous save; `state` may be donated once this returns. A step that exists is left alone."""
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(nest(flatten(state))), meta=ocp.args.JsonSave(dict(meta)))
        if not self._manager.save(step, args=args, force=True):
            raise RuntimeError(f"orbax refused to save step {step} in {self.directory}")

    def latest(self) -> int | None:
        """The newest whole step, or None."""
        self.wait()
        step = self._manager.latest_step()
        return None if step is None else int(step)

    def restore(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The flat arrays and the metadata of a step."""
        return flatten(read_arrays(self.directory / str(step))), read_meta(self.directory / str(step))

    def wait(self) -> None:
        """Blocks until saves in flight are on disk; raises what went wrong."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and releases threads."""
        self._manager.wait_until_finished()
        self._manager.close()


class Finished:
    """Final variables by name, each its own checkpoint; written once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._checkpointer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())

    def path(self, name: str) -> Path:
        """Where the checkpoint of a name lies."""
        return self.directory / name.replace("/", "__")

    def save(self, name: str, variables: Any, meta: Mapping[str, Any]) -> None:
        """Writes nested variables and JSON metadata; asynchronous."""
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(variables), meta=ocp.args.JsonSave(dict(meta)))
        self._checkpointer.save(self.path(name), args=args)

    def exists(self, name: str) -> bool:
        """Whether the checkpoint is whole."""
        return self.path(name).is_dir()

    def wait(self) -> None:
        """Blocks until saves in flight are on disk; raises what went wrong."""
        self._checkpointer.wait_until_finished()

    def close(self) -> None:
        """Waits and releases threads."""
        self._checkpointer.close()


def read_arrays(path: Path) -> Any:
    """The tree of arrays of a checkpoint as numpy, independent of the devices that wrote it.

    Raises:
      UserError: there is no whole checkpoint, or an array cannot be read.
    """
    if not (path / "state").is_dir():
        raise UserError(f"{path} is not a checkpoint of mer_jax; expected a folder with the item 'state'")
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            tree = reader.metadata(path / "state").item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            return reader.restore(path / "state", args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    except Exception as error:
        raise UserError(f"the checkpoint {path} cannot be read: {_first_line(error)}") from error


def read_meta(path: Path) -> dict[str, Any]:
    """The JSON metadata of a checkpoint."""
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        restored = reader.restore(path, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
    return dict(restored["meta"])


def flatten(tree: Any) -> dict[str, Any]:
    """`{"a.b.c": leaf}` of any pytree (optimizer states hold named tuples, which a checkpoint should not depend on)."""
    return {_key(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Plain nested dicts from `flatten`'s paths: what lies on disk and opens without our classes."""
    tree: dict[str, Any] = {}
    for key, leaf in flat.items():
        *parents, last = key.split(".")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def unflatten(template: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The inverse of `flatten`: numpy leaves in the structure of `template`.

    Raises:
      UserError: leaves are missing, unknown, or of another shape (leading axes included); all are named.
    """
    leaves = jax.tree_util.tree_leaves_with_path(template)
    expected = {_key(path): tuple(leaf.shape) for path, leaf in leaves}
    problems = [f"{k} is missing" for k in expected if k not in arrays]
    problems += [f"{k} is unknown" for k in arrays if k not in expected]
    problems += [
        f"{k} has shape {arrays[k].shape}, expected {shape}"
        for k, shape in expected.items()
        if k in arrays and tuple(arrays[k].shape) != shape
    ]
    if problems:
        raise UserError("the checkpoint is of another network or optimizer: " + "; ".join(problems[:8]))
    return jax.tree.unflatten(jax.tree.structure(template), [arrays[_key(path)] for path, _ in leaves])


def _key(path: Any) -> str:
    return ".".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
