"""Opens a run: what it left in its workdir, its networks, and what they say of any clip. Trains nothing.

    run = open_run(WORKDIR)                    # or the OUT of mer_jax.convert
    run.settings, run.system, run.classes, run.splits, run.predictions, run.metrics
    run.folds()                                # names of the finished folds
    network = run.network("p003")              # system, variables, what it says of a batch
    seen = run.look()                          # logits and features of every scored clip, by the fold that tested it

Files are read at once, checkpoints and data when they are asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mer_jax.analysis import pictures
from mer_jax.analysis.pictures.base import PANELS
from mer_jax.errors import UserError
from mer_jax.evaluation.protocols import read_splits
from mer_jax.evaluation.results import Predictions, read_metrics, read_predictions
from mer_jax.files import path_of, read_facts
from mer_jax.settings import Settings

if TYPE_CHECKING:  # the readers of checkpoints and data take seconds to import, which a report has no need of
    from mer_jax.analysis.looking import Clips, Seen
    from mer_jax.analysis.networks import Network

FEATURES = "analysis/features.npz"  # of `python -m mer_jax.analysis WORKDIR --features`
_ABSOLUTE = re.compile(r"""(?<![^\s'"=,(\[])(?:~|[A-Za-z]:)?[\\/][^\s'",;)\]]+""")  # not after a word: a/b is no path


@dataclasses.dataclass(frozen=True)
class Curve:
    """One quantity over the steps of one training: of a seed, or of a fold of a seed.

    Attributes:
      seed: of the run.
      fold: name of the fold, None for pre-training.
      step: [n], ascending.
      value: float [n], NaN where a look had none.
    """

    seed: int
    fold: str | None
    step: np.ndarray
    value: np.ndarray


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's workdir as data.

    Attributes:
      workdir: where it is.
      name: last part of the workdir's path.
      settings: the resolved config as the run used it.
      config: the same for readers: absolute paths are cut to their last part.
      splits: fold -> role (train, val, test) -> names of clips; empty before the run is scored.
      manifest: versions, devices, choices; empty where absent; paths as in `config`.
      metrics: content of metrics.json; None before the run is scored.
      predictions: content of predictions.csv; None before the run is scored.
      looks: lines of log.jsonl, one a (stage, seed, fold, step): a resumed run's last word.
      health: seed -> scores of the pretext on held-out people, with "pairs", what happened to the frame pairs.
      panels: arrays of `PANELS`.
    """

    workdir: Path
    name: str
    settings: Settings
    config: Mapping[str, Any]
    splits: Mapping[str, Mapping[str, tuple[str, ...]]]
    manifest: Mapping[str, Any]
    metrics: Mapping[str, Any] | None
    predictions: Predictions | None
    looks: Sequence[Mapping[str, Any]]
    health: Mapping[int, Mapping[str, Any]]
    panels: Mapping[str, np.ndarray]

    def curves(self, stage: str) -> dict[str, list[Curve]]:
        """Every logged quantity of a stage: name -> its curves, by seed and fold in order of appearance."""
        trainings: dict[tuple[int, str | None], list[Mapping[str, Any]]] = {}
        for look in self.looks:
            if look["stage"] == stage:
                fold = look.get("fold")
                trainings.setdefault((look["seed"], None if fold is None else str(fold)), []).append(look)
        curves: dict[str, list[Curve]] = {}
        for (seed, fold), looks in trainings.items():
            looks = sorted(looks, key=lambda look: look["step"])
            names = dict.fromkeys(name for look in looks for name in look)
            for name in names:
                values = [look.get(name) for look in looks]
                if name in ("stage", "seed", "fold", "step") or not any(map(_is_number, values)):
                    continue
                kept = [
                    (look["step"], v) for look, v in zip(looks, values, strict=True) if name in look
                ]  # a quantity that is looked at more rarely has fewer points
                step = np.array([s for s, _ in kept])
                value = np.array([v if _is_number(v) else np.nan for _, v in kept], float)
                curves.setdefault(name, []).append(Curve(seed, fold, step, value))
        return curves

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes or action units, in the order of the logits."""
        from mer_jax.analysis.networks import read_classes

        return read_classes(self.workdir, self.settings)

    def number(self, name: str) -> int:
        """Which logit is that of a class; raises UserError for a name that the run does not know."""
        if name not in self.classes:
            raise UserError(f"{self.workdir}: found no class {name!r}; there are {', '.join(self.classes)}")
        return self.classes.index(name)

    def folds(self, seed: int | None = None) -> list[str]:
        """Names of the finished folds of a seed (default: the first); none for imported weights."""
        from mer_jax.analysis.networks import fold_names

        return fold_names(self.workdir, seed)

    def check_folds(self, seed: int | None = None) -> None:
        """Raises UserError where a fold that the splits name has no finished network."""
        from mer_jax.analysis.networks import check_folds

        check_folds(self.workdir, self.splits, seed)

    def network(self, fold: str | None = None, seed: int | None = None) -> Network:
        """The network of a fold; without one, imported weights. See `networks.open_network`."""
        from mer_jax.analysis.networks import open_network

        try:
            return open_network(self.workdir, fold, seed)
        except AttributeError as error:
            if not str(error).startswith("settings have no field"):
                raise
            raise UserError(
                f"{self.workdir / 'config.json'}: {error}; the run was made by another version of mer_jax, "
                "which opens it"
            ) from None

    @functools.cached_property
    def system(self) -> Any:
        """The system (`systems.base.System`) of the first finished fold, or of imported weights."""
        return self.network(next(iter(self.folds()), None)).system

    @functools.cached_property
    def tested_in(self) -> dict[str, str]:
        """Clip -> the fold that tested it."""
        return {clip: fold for fold, roles in self.splits.items() for clip in roles["test"]}

    def clips(self, extra: Sequence[str] = (), data_dir: str = "") -> Clips:
        """The clips that the run scores, and others of its datasets by name, as its system sees them.

        Args:
          extra: names of clips that it does not score.
          data_dir: where the datasets are built, where it is not where the run found them.

        Raises:
          UserError: see `looking.open_clips`.
        """
        from mer_jax.analysis.looking import open_clips

        fingerprint = (self.manifest.get("fingerprints") or {}).get("scored")
        return open_clips(self.settings, self.system, extra, data_dir, fingerprint)

    def look(
        self,
        clips: Sequence[str] | None = None,
        fold: str | None = None,
        seed: int | None = None,
        store: Clips | None = None,
    ) -> Seen:
        """Logits, probabilities and features of clips.

        Args:
          clips: names; default all that the run scores.
          fold: whose network looks; default for each clip the one that tested it, or the imported weights.
          seed: one of the run's seeds; default the first.
          store: of `clips()`, where it is already open.

        Raises:
          UserError: no such clip, fold or seed; or no fold is named for a clip that none tested.
        """
        from mer_jax.analysis.looking import join, look

        store = store or self.clips([] if clips is None else clips)
        imported = not self.folds(seed)
        names = store.table["clip"].astype(str).tolist() if clips is None else list(clips)
        if clips is None and fold is None and not imported:
            names = [name for name in names if name in self.tested_in]
        places = dict(zip(names, store.place(names), strict=True))
        if fold is not None or imported:
            return look(self.network(fold, seed), store, np.array(list(places.values())), fold or "")
        untested = [name for name in names if name not in self.tested_in]
        if untested:
            raise UserError(f"{self.workdir}: no fold tested the clip {untested[0]!r}; name the fold that is to look")
        parts = []
        for one in dict.fromkeys(self.tested_in[name] for name in names):
            mine = [places[name] for name in places if self.tested_in[name] == one]
            parts.append(look(self.network(one, seed), store, np.array(mine), one))
        return join(parts, names)


def open_run(workdir: Path | str) -> Run:
    """Opens the workdir of a run, or the OUT of `mer_jax.convert`.

    Raises:
      UserError: no run there, or a file of it that cannot be read; names the file.
    """
    workdir = path_of(workdir)
    if not (workdir / "config.json").is_file():
        raise UserError(f"{workdir}: found no config.json; expected the workdir of a run")
    metrics = read_metrics(workdir / "metrics.json") if (workdir / "metrics.json").exists() else None
    predictions = None
    if (workdir / "predictions.csv").exists():
        classes = metrics["classes"] if metrics and metrics.get("task", "emotion") == "emotion" else None
        predictions = read_predictions(workdir / "predictions.csv", classes)
    settings = read_facts(workdir / "config.json")
    config = without_paths(settings)
    return Run(
        workdir=workdir,
        name=workdir.name,
        settings=Settings(settings),
        config=config,
        splits=read_splits(workdir / "splits.csv") if (workdir / "splits.csv").exists() else {},
        manifest=without_paths(read_facts(workdir / "manifest.json")),
        metrics=without_paths(metrics) if metrics else None,
        predictions=predictions,
        looks=_looks(workdir / "log.jsonl"),
        health=_health(workdir / "checkpoints", config.get("seeds") or [0]),
        panels=_panels(workdir / PANELS, str(config.get("system"))),
    )


def without_paths(value: Any) -> Any:
    """A JSON value with every absolute path in its strings cut to its last part: a report is handed on."""
    if isinstance(value, str):
        whole = Path(value).is_absolute() and "\n" not in value
        return _last_part(value) if whole else _ABSOLUTE.sub(lambda match: _last_part(match[0]), value)
    if isinstance(value, Mapping):
        return {key: without_paths(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(v) for v in value]
    return value


def _last_part(path: str) -> str:
    return "…/" + re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def _looks(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    looks: dict[tuple[Any, ...], dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            look = json.loads(line)
            key = (look["stage"], look["seed"], look.get("fold"), look["step"])
        except (json.JSONDecodeError, KeyError, TypeError):
            if number == len(lines):  # a killed run's last line may be half a line
                continue
            raise UserError(f"{path}, row {number}: found {line[:80]!r}; expected one look as JSON") from None
        # several lines may describe one look; the later one adds to, and after a resume replaces, the earlier
        looks[key] = looks.get(key, {}) | look
    return list(looks.values())


def _health(checkpoints: Path, seeds: Sequence[int]) -> dict[int, Any]:
    files = {seeds[0]: checkpoints / "pretrain" / "health.json"}
    files |= {seed: checkpoints / f"seed_{seed}" / "pretrain" / "health.json" for seed in seeds if len(seeds) > 1}
    return {seed: read_facts(path) for seed, path in files.items() if path.exists()}


def _panels(path: Path, system: str) -> dict[str, np.ndarray]:
    drawn_by = pictures.of(system)
    if not path.exists() or drawn_by is None:
        return {}
    with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
        panels = {name: file[name] for name in file.files}
    for name, array in panels.items():
        expected = drawn_by.DIMENSIONS.get(name)
        if expected is None:
            raise UserError(f"{path}: found an array {name!r}; expected {', '.join(drawn_by.DIMENSIONS)}")
        if array.ndim != expected:
            raise UserError(f"{path}: {name} has the shape {array.shape}; expected {expected} dimensions")
    for group in getattr(drawn_by, "GROUPS", ()):
        lengths = {name: len(array) for name, array in panels.items() if name.startswith(group)}
        if len(set(lengths.values())) > 1:
            raise UserError(f"{path}: arrays of different length: {lengths}; expected one length for all {group}_*")
    return panels


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
