"""Opens what a run left in its workdir, for figures and the report; reads files only, no checkpoint."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax.analysis import pictures
from mer_jax.analysis.pictures.base import PANELS
from mer_jax.errors import UserError
from mer_jax.evaluation.results import Predictions, read_metrics, read_predictions

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
      name: last part of the workdir's path.
      config: the resolved config; absolute paths are cut to their last part.
      manifest: versions, devices, choices; empty where absent; paths as in `config`.
      metrics: content of metrics.json; None before the run is scored.
      predictions: content of predictions.csv; None before the run is scored.
      looks: lines of log.jsonl, one a (stage, seed, fold, step): a resumed run's last word.
      health: seed -> scores of the pretext on held-out people, with "pairs", what happened to the frame pairs.
      panels: arrays of `PANELS`.
    """

    name: str
    config: Mapping[str, Any]
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


def open_run(workdir: Path | str) -> Run:
    """Reads a workdir.

    Raises:
      UserError: no run there, or a file of it that cannot be read; names the file.
    """
    workdir = Path(workdir).expanduser().resolve()
    if not (workdir / "config.json").is_file():
        raise UserError(f"{workdir}: found no config.json; expected the workdir of a run")
    metrics = read_metrics(workdir / "metrics.json") if (workdir / "metrics.json").exists() else None
    predictions = None
    if (workdir / "predictions.csv").exists():
        classes = metrics["classes"] if metrics and metrics.get("task", "emotion") == "emotion" else None
        predictions = read_predictions(workdir / "predictions.csv", classes)
    config = without_paths(_json(workdir / "config.json"))
    return Run(
        name=workdir.name,
        config=config,
        manifest=without_paths(_json(workdir / "manifest.json")) if (workdir / "manifest.json").exists() else {},
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


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}); expected the file as the run wrote it") from None


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
    return {seed: _json(path) for seed, path in files.items() if path.exists()}


def _panels(path: Path, system: str) -> dict[str, np.ndarray]:
    drawn_by = pictures.of(system)
    if not path.exists() or drawn_by is None:
        return {}
    with np.load(path, allow_pickle=False) as file:
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
