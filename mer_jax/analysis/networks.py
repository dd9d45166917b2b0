"""Opens the networks of a finished run: a system, its variables and what they say of a batch. Trains nothing."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax import systems
from mer_jax.data import motion, packed
from mer_jax.errors import UserError
from mer_jax.evaluation import labels
from mer_jax.files import path_of, read_facts
from mer_jax.settings import Settings
from mer_jax.training.checkpoint import Finished, finished_state, read_arrays, read_meta, read_variables
from mer_jax.training.state import Variables
from mer_jax.training.step import initial_variables, view_of

_MACRO_CLASSES = 2  # any number that a system accepts: only the network of its pre-training depends on it
_FRAMES = 16  # of a made-up clip


@dataclasses.dataclass(frozen=True)
class Network:
    """One trained network of a run.

    Attributes:
      settings: of the run.
      system: the system, built for `classes`.
      classes: names of the classes or action units; of imported weights those of the config's label set, or
        "class 0", ... where it has another number of classes.
      variables: collections of host arrays.
      meta: what was written beside them: of a fold its test clips and probabilities.
    """

    settings: Settings
    system: Any
    classes: tuple[str, ...]
    variables: Variables
    meta: dict[str, Any]

    def apply(self, batch: Any) -> Any:
        """Outputs of the recognition network in evaluation mode for a batch as `system.view` makes it, [B, ...]."""
        return jax.jit(lambda v, b: self.system.finetune.module.apply(v, b, False))(self.variables, batch)


def fold_names(workdir: Path | str, seed: int | None = None) -> list[str]:
    """Names of the finished folds of a seed (default: the first)."""
    workdir = path_of(workdir)
    splits = _folds(workdir, read_settings(workdir), seed)
    return sorted(read_meta(p)["fold"] for p in splits.iterdir() if (p / "meta").exists()) if splits.is_dir() else []


def check_folds(workdir: Path | str, names: Iterable[str], seed: int | None = None) -> None:
    """Raises UserError where one of the folds that the splits name has no finished network."""
    missing = sorted(set(names) - set(fold_names(workdir, seed)))
    if missing:
        raise UserError(
            f"{workdir}: found no checkpoint of the fold {_some(missing)} that splits.csv names; restore it, or finish "
            "the run"
        )


def open_network(workdir: Path | str, fold: str | None = None, seed: int | None = None) -> Network:
    """The network of a fold, or the imported weights of a converted checkpoint.

    Args:
      workdir: of a run, or the OUT of `mer_jax.convert`.
      fold: name of a fold; None for imported weights.
      seed: one of the run's seeds; default the first.

    Raises:
      UserError: no run, no such seed or fold, a checkpoint that cannot be read, or one of another network.
    """
    workdir = path_of(workdir)
    settings = read_settings(workdir)
    classes = read_classes(workdir, settings)
    if fold is None:
        checkpoint = finished_state(workdir / "checkpoints" / "pretrain")
        if checkpoint is None or "imported" not in read_meta(checkpoint):
            raise UserError(f"{workdir}: holds no imported weights; name one of its folds: {_list(workdir, seed)}")
        variables = read_variables(checkpoint)
        count = read_meta(checkpoint)["n_classes"]
        classes = classes if len(classes) == count else tuple(f"class {k}" for k in range(count))
    else:
        finished = Finished(_folds(workdir, settings, seed))
        checkpoint = finished.path(fold)
        if not finished.exists(fold):
            raise UserError(f"{workdir}: found no finished fold {fold!r}; there are {_list(workdir, seed)}")
        finished.close()
        variables = read_arrays(checkpoint)
    system = systems.build(settings, len(classes), _MACRO_CLASSES)
    _check(checkpoint, system, variables, classes)
    return Network(settings, system, classes, variables, read_meta(checkpoint))


def read_settings(workdir: Path) -> Settings:
    """The config of a run.

    Raises:
      UserError: there is none.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir}: found no config.json; expected the workdir of a run")
    return Settings(read_facts(path))


def read_classes(workdir: Path, settings: Settings) -> tuple[str, ...]:
    """Names of the classes or action units of a run, in the order of its logits.

    Raises:
      UserError: the manifest names one that the label set does not know, or there are no names at all.
    """
    path = workdir / "manifest.json"
    found = tuple(read_facts(path).get("classes") or ())
    known = labels.REGISTRY.get(settings.data.labels)
    if isinstance(known, labels.LabelSet):
        unknown = [name for name in found if name not in known.classes]
        if unknown:
            raise UserError(
                f"{path}: found the class {unknown[0]!r}; the label set {settings.data.labels!r} has "
                f"{', '.join(known.classes)}"
            )
        return found or known.classes
    if known is None and not found:
        raise UserError(
            f"{path}: found no classes, and the label set {settings.data.labels!r} takes them from the data; expected "
            "their names as the run wrote them"
        )
    return found or (tuple(f"AU{unit}" for unit in known.units) if known is not None else ())


def _folds(workdir: Path, settings: Settings, seed: int | None) -> Path:
    seeds = settings.seeds
    if seed is not None and seed not in seeds:
        raise UserError(f"{workdir}: found no seed {seed}; there are {', '.join(map(str, seeds))}")
    one = [] if len(seeds) == 1 else [f"seed_{seeds[0] if seed is None else seed}"]
    return workdir.joinpath("checkpoints", *one, "finetune", "folds")


@functools.lru_cache(maxsize=8)
def variable_shapes(system: Any) -> dict[str, Any]:
    """Path -> shape of every array of a system's recognition network; nothing is computed."""
    needs, numbers = system.needs, jnp.zeros(1, jnp.int32)
    targets = packed.target_shapes(motion.named(needs.motion), needs.size, 1)

    def initialise() -> Variables:
        frames = jnp.zeros((1, _FRAMES, needs.size, needs.size, needs.channels), jnp.uint8)
        whole = {"length": numbers + _FRAMES, "onset": numbers, "apex": numbers + 1, "offset": numbers + _FRAMES - 1}
        fps, moved = jnp.full(1, 100.0), packed.blank(targets)
        store = packed.pack(frames, **whole, fps=fps, motion=moved, landmarks=needs.landmarks)
        view = view_of(system, frame_count(system, _FRAMES))
        example = view(store, jnp.int32(0), jnp.int32(0), False)
        return initial_variables(system.finetune, jax.tree.map(lambda x: x[None], example), jax.random.key(0))

    return {_path(p): x.shape for p, x in jax.tree_util.tree_leaves_with_path(jax.eval_shape(initialise))}


def frame_count(system: Any, available: Any) -> Any:
    """The `length` that `system.view` takes for clips of so many frames (maybe symbolic); 0 where it takes none."""
    if "length" not in inspect.signature(system.view).parameters:
        return 0
    return int(system.settings.ft.frames) or available  # temporal interpolation brings every clip to `ft.frames`


def _check(checkpoint: Path, system: Any, variables: Variables, classes: tuple[str, ...]) -> None:
    """Raises UserError where the variables are not those of the system, or hold numbers that are none."""
    arrays = {_path(p): x for p, x in jax.tree_util.tree_leaves_with_path(variables)}
    shapes = variable_shapes(system)
    problems = [f"{name} is missing" for name in shapes if name not in arrays]
    problems += [f"{name} is unknown" for name in arrays if name not in shapes]
    problems += [
        f"{name} has shape {arrays[name].shape}, expected {shape}"
        for name, shape in shapes.items()
        if name in arrays and arrays[name].shape != shape
    ]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise UserError(
            f"the checkpoint {checkpoint} is not one of {system.settings.system} as config.json describes it, with the "
            f"{len(classes)} classes {', '.join(classes)} of manifest.json: {'; '.join(problems[:4])}{more}"
        )
    broken = [name for name, x in arrays.items() if not np.isfinite(np.asarray(x, np.float32)).all()]
    if broken:
        raise UserError(f"the checkpoint {checkpoint} is damaged: {broken[0]} holds numbers that are not finite")


def _path(path: Any) -> str:
    return "/".join(str(k.key) for k in path)


def _list(workdir: Path, seed: int | None) -> str:
    return _some(fold_names(workdir, seed)) or "none"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
