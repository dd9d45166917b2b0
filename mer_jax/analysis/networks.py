"""Opens the networks of a finished run: a system, its variables and what they say of a batch. Trains nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from mer_jax import systems
from mer_jax.errors import UserError
from mer_jax.evaluation import labels
from mer_jax.settings import Settings
from mer_jax.training.checkpoint import Finished, finished_state, read_arrays, read_meta, read_variables
from mer_jax.training.state import Variables


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
    workdir = Path(workdir).expanduser()
    splits = _folds(workdir, _settings(workdir), seed)
    return sorted(read_meta(p)["fold"] for p in splits.iterdir() if (p / "meta").exists()) if splits.is_dir() else []


def open_network(workdir: Path | str, fold: str | None = None, seed: int | None = None) -> Network:
    """The network of a fold, or the imported weights of a converted checkpoint.

    Args:
      workdir: of a run, or the OUT of `mer_jax.convert`.
      fold: name of a fold; None for imported weights.
      seed: one of the run's seeds; default the first.

    Raises:
      UserError: no run, no such seed or fold, or a checkpoint that cannot be read.
    """
    workdir = Path(workdir).expanduser()
    settings = _settings(workdir)
    classes = _classes(workdir, settings)
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
    system = systems.build(settings, len(classes))
    return Network(settings, system, classes, variables, read_meta(checkpoint))


def _settings(workdir: Path) -> Settings:
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir}: found no config.json; expected the workdir of a run")
    return Settings(json.loads(path.read_text(encoding="utf-8")))


def _classes(workdir: Path, settings: Settings) -> tuple[str, ...]:
    manifest = json.loads((workdir / "manifest.json").read_text(encoding="utf-8"))
    found = manifest.get("classes")
    if found:
        return tuple(found)
    label_set = labels.get(settings.data.labels)
    return label_set.classes if isinstance(label_set, labels.LabelSet) else ()


def _folds(workdir: Path, settings: Settings, seed: int | None) -> Path:
    seeds = settings.seeds
    if seed is not None and seed not in seeds:
        raise UserError(f"{workdir}: found no seed {seed}; there are {', '.join(map(str, seeds))}")
    one = [] if len(seeds) == 1 else [f"seed_{seeds[0] if seed is None else seed}"]
    return workdir.joinpath("checkpoints", *one, "finetune", "folds")


def _list(workdir: Path, seed: int | None) -> str:
    names = fold_names(workdir, seed)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "none"
