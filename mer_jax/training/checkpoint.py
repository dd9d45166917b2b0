"""Checkpoints: orbax underneath; numpy trees out, whatever device count wrote them.

What there is, process 0 says: other hosts of a network file system may still see an older listing, and processes that
disagree on what is finished would wait for each other for ever.

Two kinds: *rolling* states of a stage in flight (`<stage>/<step>`), and *finished* variables (`folds/<fold>`), which
analysis opens one by one. Both hold an item "state" (arrays) and an item "meta" (JSON). Orbax writes under a
temporary name and renames, so a checkpoint that exists is whole.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mer_jax.errors import UserError
from mer_jax.files import is_remote, path_of, read_facts, refresh, remove_tree
from mer_jax.training import mesh

# Orbax reports every file it touches, and what goes wrong in its threads, which is raised again by who waits for them.
logging.getLogger("absl").setLevel(logging.CRITICAL)

_SLICE_BYTES = 2**20  # of a leaf that is whole on several devices, when each of them writes a slice of it
_DAMAGED = "If it is damaged, delete that folder: what it held is then done again"


class Rolling:
    """The latest state of a stage in flight, one sub-folder a step; older ones go when a newer one is whole.

    Not orbax's CheckpointManager: its `save` asks the preemption service with step numbers of its own, after which
    `mesh.Preemption`, which counts chunks, would not hear a SIGTERM for a long time.

    Args:
      directory: absolute.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._checkpointer = _writer()
        if jax.process_index() == 0 and directory.is_dir():
            halves = directory.glob("*.orbax-checkpoint-tmp*")
            if is_remote(directory):
                halves = (p for p in directory.iterdir() if p.name.isdigit() and not _is_whole(p))
            for half in list(halves):  # of a start that was killed while saving
                remove_tree(half)

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> None:
        """Starts an asynchronous save; `state` may be donated once this returns. A step that exists is left alone."""
        self.wait()
        if mesh.agree(step in self._steps()):
            return
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(nest(flatten(state))), meta=ocp.args.JsonSave(dict(meta)))
        self._checkpointer.save(self.directory / str(step), args=args)

    def latest(self) -> int | None:
        """The newest whole step, or None."""
        self.wait()
        step = int(mesh.agree(max(self._steps(), default=-1)))
        return None if step < 0 else step

    def restore(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The flat arrays and the metadata of a step."""
        return flatten(read_arrays(self.directory / str(step))), read_meta(self.directory / str(step))

    def wait(self) -> None:
        """Blocks until saves in flight are on disk, then drops older ones; raises what went wrong."""
        self._checkpointer.wait_until_finished()
        for step in sorted(self._steps())[:-1] if jax.process_index() == 0 else []:
            remove_tree(self.directory / str(step))

    def close(self) -> None:
        """Waits and releases threads."""
        self.wait()
        self._checkpointer.close()

    def _steps(self) -> list[int]:
        return _steps(self.directory) if mesh.is_writer() else []


class Finished:
    """Final variables by name, each its own checkpoint; written once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._checkpointer = _writer()

    def path(self, name: str) -> Path:
        """Where the checkpoint of a name lies."""
        return self.directory / name.replace("/", "__")

    def save(self, name: str, variables: Any, meta: Mapping[str, Any]) -> None:
        """Writes nested variables and JSON metadata; asynchronous."""
        path = self.path(name)
        refresh(self.directory)
        if mesh.is_writer() and is_remote(path) and path.is_dir() and not _is_whole(path):
            remove_tree(path)  # half of it, of a start that was killed while saving; elsewhere that has another name
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(variables), meta=ocp.args.JsonSave(dict(meta)))
        self._checkpointer.save(path, args=args)

    def exists(self, name: str) -> bool:
        """Whether the checkpoint is whole, as this process sees it."""
        return _is_whole(self.path(name))

    def which(self, names: Sequence[str]) -> set[str]:
        """Those whose checkpoints are whole, as process 0 sees them; to be called by all processes."""
        refresh(self.directory)
        whole = mesh.agree_on(np.array([mesh.is_writer() and self.exists(name) for name in names], bool))
        return {name for name, is_whole in zip(names, whole, strict=True) if is_whole}

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
        with _reader(ocp.PyTreeCheckpointHandler) as reader:
            tree = reader.metadata(path / "state").item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            return reader.restore(path / "state", args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    except Exception as error:
        raise UserError(f"the checkpoint {path} cannot be read: {_first_line(error)}. {_DAMAGED}") from error


def read_meta(path: Path) -> dict[str, Any]:
    """The JSON metadata of a checkpoint.

    Raises:
      UserError: it cannot be read.
    """
    try:
        with _reader(ocp.JsonCheckpointHandler) as reader:
            return dict(reader.restore(path / "meta", args=ocp.args.JsonRestore()))
    except Exception as error:
        raise UserError(f"the checkpoint {path} cannot be read: {_first_line(error)}. {_DAMAGED}") from error


def pretraining_directory(settings: Any, root: Path, seed: int) -> Path:
    """Where the pre-training behind a seed of a run is: the run's, or that of its `init_from`. There it is the only one
    (imported weights, too), the one that the seeds share, or the seed's own; whether it exists is not asked.

    Args:
      settings: of the run.
      root: its workdir.
      seed: one of its seeds.
    """
    if settings.init_from:
        root = path_of(settings.init_from)
        config = read_facts(root / "config.json")
        seeds, share = config.get("seeds", [seed]), config.get("pre", {}).get("share", False)
    else:
        seeds, share = settings.seeds, settings.pre.share
    base = root / "checkpoints"
    return base / "pretrain" if len(seeds) == 1 else base / f"seed_{seeds[0] if share else seed}" / "pretrain"


def finished_state(directory: Path) -> Path | None:
    """The checkpoint of a stage that came to its end (meta "finished") among `<directory>/<step>`, or None."""
    steps = sorted(_steps(directory), reverse=True)
    if steps and read_meta(directory / str(steps[0]))["finished"]:
        return directory / str(steps[0])
    return None


def agreed_state(directory: Path) -> Path | None:
    """`finished_state` as process 0 sees it; to be called by all processes."""
    found = finished_state(directory) if mesh.is_writer() else None
    step = int(mesh.agree(int(found.name) if found else -1))
    return directory / str(step) if step >= 0 else None


def read_variables(checkpoint: Path) -> dict[str, Any]:
    """Variables of a training state on disk: the moving average of the parameters where there is one."""
    state = read_arrays(checkpoint)
    return {"params": state.get("ema") or state["params"], **state.get("collections", {})}


def _is_whole(checkpoint: Path) -> bool:
    """Whether all of a checkpoint was written; in a bucket, where nothing can be renamed, orbax marks it."""
    return checkpoint.is_dir() and (not is_remote(checkpoint) or ocp.utils.is_checkpoint_finalized(checkpoint))


def _steps(directory: Path) -> list[int]:
    """Numbers of the whole checkpoints in a directory."""
    refresh(directory)
    if not directory.is_dir():
        return []
    return [int(p.name) for p in directory.iterdir() if p.name.isdigit() and _is_whole(p)]


def _writer() -> ocp.AsyncCheckpointer:
    """By default orbax cuts every whole leaf into a slice a device, one dispatched operation each: of small leaves that
    takes much longer than to write them, and the training waits for it.
    """
    kinds = ocp.type_handlers
    arrays = kinds.ArrayHandler(min_slice_bytes_for_replica_parallel=_SLICE_BYTES)
    others = ((np.ndarray, kinds.NumpyHandler()), (np.number, kinds.ScalarHandler()))
    handlers = kinds.create_type_handler_registry((jax.Array, arrays), *others)
    state = ocp.PyTreeCheckpointHandler(type_handler_registry=handlers)
    return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(state=state, meta=ocp.JsonCheckpointHandler()))


def _reader(handler: Any) -> ocp.Checkpointer:
    """A reader of this process alone: by default orbax waits for all processes, and some things one process reads."""
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"read_{jax.process_index()}",
    )
    return ocp.Checkpointer(handler(multiprocessing_options=alone), multiprocessing_options=alone)


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
