"""What a run leaves behind: `predictions.csv` and `metrics.json`.

`predictions.csv` has one row a clip and seed, `seed,fold,dataset,subject,clip,truth,predicted,p_<class>...`; an
action-unit task has `truth_AU1,p_AU1,...` instead of truth, predicted and p_<class> (an empty truth is unknown). Rows
are sorted and numbers have a fixed format, so that equal predictions give equal bytes.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mer_jax.data.clips import ClipTable
from mer_jax.errors import UserError
from mer_jax.evaluation.datasets import person_of
from mer_jax.files import atomic_open, path_of, write_json

KEYS = ("seed", "fold", "dataset", "subject", "clip")
TASKS = ("emotion", "au")
DECIMALS = 6
THRESHOLD = 0.5  # an action unit is predicted where its probability exceeds this (logit > 0)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What was predicted for each clip, by each seed; n rows, sorted by (seed, dataset, subject, clip).

    Attributes:
      task: "emotion" (one class a clip) or "au" (any number of action units a clip).
      classes: the C classes of the protocol in the order of the labels, or the action units ("AU1", "AU2", ...).
      seed: int64 [n].
      fold: text [n], the fold in whose test part the clip was.
      dataset: text [n].
      subject: text [n].
      clip: text [n].
      person: text [n], `cohort/subject`: the unit of the bootstrap.
      truth: int64 [n], position in `classes`; for "au" int8 [n, C] with 1, 0, -1 (unknown).
      predicted: int64 [n]; for "au" int8 [n, C] with 1, 0.
      probability: float64 [n, C], rounded as in the file; None where the source gave no probabilities.
    """

    task: str
    classes: tuple[str, ...]
    seed: np.ndarray
    fold: np.ndarray
    dataset: np.ndarray
    subject: np.ndarray
    clip: np.ndarray
    person: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray | None

    def __len__(self) -> int:
        return len(self.clip)

    def select(self, rows: np.ndarray) -> Predictions:
        """The predictions of the given rows (boolean mask [n] or positions)."""
        changes = {
            f.name: getattr(self, f.name)[rows]
            for f in dataclasses.fields(self)
            if f.name not in ("task", "classes") and getattr(self, f.name) is not None
        }
        return dataclasses.replace(self, **changes)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, ascending."""
        return tuple(int(s) for s in np.unique(self.seed))


def predictions_of(
    table: ClipTable,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    seed: int | np.ndarray,
    fold: np.ndarray,
    probability: np.ndarray,
    rows: np.ndarray | None = None,
) -> Predictions:
    """Predictions of clips of a table.

    Args:
      table: the clips.
      labels: int [n] positions in `classes`, or int8 [n, C] in {1, 0, -1} for action units.
      classes: names of the classes, or of the action units.
      seed: seed of the run, or one a row [m].
      fold: text [m], fold that tested the clip.
      probability: [m, C].
      rows: int [m], positions in `table` of the predicted clips; default all, in order.

    Returns:
      Sorted predictions of the m clips. The class is the argmax (the first one of a tie); an action unit is present
      where its probability, rounded as in the file, exceeds 0.5.

    Raises:
      UserError: a clip twice for one seed.
      ValueError: shapes that do not fit, probabilities that are not finite, a clip without label.
    """
    rows = np.arange(len(table)) if rows is None else np.asarray(rows)
    labels = np.asarray(labels)
    task = "emotion" if labels.ndim == 1 else "au"
    probability = np.asarray(probability, np.float64)
    if probability.shape != (len(rows), len(classes)):
        raise ValueError(f"probabilities are {probability.shape}, expected {(len(rows), len(classes))}")
    if not np.isfinite(probability).all():
        raise ValueError("a probability is not finite")
    truth = labels[rows]
    if task == "emotion":
        if len(rows) and (truth.min() < 0 or truth.max() >= len(classes)):
            raise ValueError("a predicted clip has no label in this label set")
        predicted = probability.argmax(-1)
    probability = np.round(np.clip(probability, 0, 1), DECIMALS)
    if task == "au":
        predicted = (probability > THRESHOLD).astype(np.int8)
    predictions = Predictions(
        task=task,
        classes=tuple(str(c) for c in classes),
        seed=np.broadcast_to(np.asarray(seed, np.int64), (len(rows),)),
        fold=np.asarray(fold).astype(str),
        dataset=table["dataset"].astype(str)[rows],
        subject=table["subject"].astype(str)[rows],
        clip=table["clip"].astype(str)[rows],
        person=table.person.astype(str)[rows],
        truth=truth.astype(np.int64 if task == "emotion" else np.int8),
        predicted=predicted,
        probability=probability,
    )
    return sort(predictions)


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """Joins predictions of one task (folds or seeds) and sorts them.

    Raises:
      UserError: a (seed, clip) appears twice.
      ValueError: parts of different tasks or classes.
    """
    first = parts[0]
    if any((p.task, p.classes) != (first.task, first.classes) for p in parts):
        raise ValueError("predictions of different tasks or classes cannot be joined")
    names = [f.name for f in dataclasses.fields(first) if f.name not in ("task", "classes", "probability")]
    known = None
    if all(p.probability is not None for p in parts):
        known = np.concatenate([p.probability for p in parts if p.probability is not None])
    joined = {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
    return sort(Predictions(first.task, first.classes, probability=known, **joined))


def sort(predictions: Predictions) -> Predictions:
    """Rows by (seed, dataset, subject, clip).

    Raises:
      UserError: a (seed, clip) appears twice.
    """
    p = predictions
    ordered = p.select(np.lexsort((p.clip, p.subject, p.dataset, p.seed)))
    pairs, counts = np.unique(np.stack([ordered.seed.astype(str), ordered.clip]), axis=1, return_counts=True)
    if (counts > 1).any():
        seed, clip = pairs[:, counts > 1][:, 0].tolist()
        raise UserError(f"clip {clip!r} is predicted twice for seed {seed}; each clip is scored exactly once a seed")
    return ordered


def write_predictions(path: str | pathlib.Path, predictions: Predictions) -> None:
    """Writes `predictions.csv` whole or not at all; equal predictions give equal bytes."""
    p = predictions
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = zip(*(getattr(p, key).tolist() for key in KEYS), strict=True)
    if p.task == "au":
        writer.writerow([*KEYS, *(f"{column}_{unit}" for unit in p.classes for column in ("truth", "p"))])
        if p.probability is None:
            raise ValueError("predictions of action units are written with their probabilities")
        for key, truth, probability in zip(keys, p.truth.tolist(), p.probability.tolist(), strict=True):
            cells = zip(("" if t < 0 else str(t) for t in truth), map(_format, probability), strict=True)
            writer.writerow([*key, *(cell for pair in cells for cell in pair)])
    else:
        with_p = p.probability is not None
        writer.writerow([*KEYS, "truth", "predicted", *(f"p_{c}" for c in p.classes if with_p)])
        probabilities = p.probability.tolist() if p.probability is not None else [[]] * len(p)
        for key, truth, predicted, row in zip(keys, p.truth.tolist(), p.predicted.tolist(), probabilities, strict=True):
            writer.writerow([*key, p.classes[truth], p.classes[predicted], *map(_format, row)])
    with atomic_open(path) as file:
        file.write(text.getvalue())


def _format(probability: float) -> str:
    return f"{probability:.{DECIMALS}f}"


def read_predictions(path: str | pathlib.Path, classes: Sequence[str] | None = None) -> Predictions:
    """Reads `predictions.csv` strictly.

    Args:
      path: the file.
      classes: the classes in order, for files without p_<class> columns; default: the sorted words of the file.

    Returns:
      The predictions; `person` joins datasets recorded from the same people (`datasets.person_of`).

    Raises:
      UserError: no such file, unknown or missing column, a cell that does not fit, a clip twice. The message names
        file, row (1 is the header) and column.
    """
    path = path_of(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a predictions.csv of a run")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file ({error}); expected a predictions.csv of a run") from None
    rows = [(i, row) for i, row in enumerate(csv.reader(io.StringIO(text)), start=1) if row]
    if not rows:
        raise UserError(f"{path}: the file is empty; expected a header {','.join(KEYS)},truth,predicted,p_<class>...")
    header = [cell.strip() for cell in rows[0][1]]
    rows = rows[1:]
    task, names = _parse_header(path, header)
    if not rows:
        raise UserError(f"{path}: the file has a header but no prediction")
    for i, row in rows:
        if len(row) != len(header):
            raise UserError(f"{path}, row {i}: {len(row)} cells, the header has {len(header)}")
    columns = {name: [(i, row[k].strip()) for i, row in rows] for k, name in enumerate(header)}
    keys = {name: np.array([cell for _, cell in columns[name]]) for name in KEYS if name != "seed"}
    for name in ("dataset", "subject", "clip"):
        for i, cell in columns[name]:
            if not cell:
                raise UserError(f"{path}, row {i}: {name} is empty")
    keys["seed"] = np.array([_integer(path, i, "seed", cell) for i, cell in columns["seed"]], np.int64)
    keys["person"] = np.array([person_of(d, s) for d, s in zip(keys["dataset"], keys["subject"], strict=True)])
    probability = None
    if names:
        probability = np.array([[_probability(path, i, f"p_{c}", v) for i, v in columns[f"p_{c}"]] for c in names]).T
    if task == "au":
        assert probability is not None
        truth = np.array([[_au_truth(path, i, f"truth_{u}", v) for i, v in columns[f"truth_{u}"]] for u in names]).T
        found = {"truth": truth.astype(np.int8), "predicted": (probability > THRESHOLD).astype(np.int8)}
        return _sort_file(path, Predictions(task, names, probability=probability, **keys, **found))
    if names and classes is not None and tuple(classes) != names:
        raise UserError(f"{path}: the columns p_<class> name {', '.join(names)}; expected {', '.join(classes)}")
    names = names or tuple(classes or sorted({cell for c in ("truth", "predicted") for _, cell in columns[c]}))
    position = {name: k for k, name in enumerate(names)}
    found = {}
    for column in ("truth", "predicted"):
        for i, cell in columns[column]:
            if cell not in position:
                raise UserError(f"{path}, row {i}: {column} is {cell!r}; expected one of {', '.join(names)}")
        found[column] = np.array([position[cell] for _, cell in columns[column]], np.int64)
    if probability is not None:
        for (i, _), total in zip(rows, probability.sum(1), strict=True):
            if abs(total - 1) > 1e-3:
                raise UserError(f"{path}, row {i}: the probabilities add up to {total:.4f}; expected 1")
    return _sort_file(path, Predictions(task, names, probability=probability, **keys, **found))


def _sort_file(path: pathlib.Path, predictions: Predictions) -> Predictions:
    try:
        return sort(predictions)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _parse_header(path: pathlib.Path, header: list[str]) -> tuple[str, tuple[str, ...]]:
    """The task of a file and its class (or action-unit) names."""
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise UserError(f"{path}, row 1: the column {twice!r} appears twice")
    missing = [key for key in KEYS if key not in header]
    if missing:
        raise UserError(f"{path}, row 1: no column {missing[0]!r}; expected {','.join(KEYS)},truth,predicted,...")
    rest = [name for name in header if name not in KEYS]
    task = "emotion" if "truth" in rest or "predicted" in rest else "au"
    plain = {"emotion": ("truth", "predicted"), "au": ()}[task]
    names = tuple(name.removeprefix("p_") for name in rest if name.startswith("p_"))
    expected = {*plain, *(f"p_{n}" for n in names), *(f"truth_{n}" for n in names if task == "au")}
    for name in plain:
        if name not in rest:
            raise UserError(f"{path}, row 1: no column {name!r}")
    for name in rest:
        if name not in expected:
            raise UserError(f"{path}, row 1: unknown column {name!r}; expected one of {', '.join(sorted(expected))}")
    if task == "au":
        absent = sorted(expected - set(rest))
        if absent or not names:
            wanted = absent[0] if absent else "truth"
            raise UserError(f"{path}, row 1: no column {wanted!r}; expected truth,predicted or truth_AU1,p_AU1,...")
    return task, names


def _integer(path: pathlib.Path, row: int, column: str, cell: str) -> int:
    try:
        return int(cell)
    except ValueError:
        raise UserError(f"{path}, row {row}: {column} is {cell!r}; expected a whole number") from None


def _probability(path: pathlib.Path, row: int, column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise UserError(f"{path}, row {row}: {column} is {cell!r}; expected a number from 0 to 1")
    return value


def _au_truth(path: pathlib.Path, row: int, column: str, cell: str) -> int:
    if cell not in ("", "0", "1"):
        raise UserError(f"{path}, row {row}: {column} is {cell!r}; expected 1, 0 or an empty cell (unknown)")
    return -1 if cell == "" else int(cell)


def write_metrics(path: str | pathlib.Path, metrics: Mapping[str, Any]) -> None:
    """Writes `metrics.json` (see `scores.summarise`) whole or not at all.

    Raises:
      ValueError: a number that is not finite (JSON has none).
    """
    write_json(path, metrics)


def read_metrics(path: str | pathlib.Path) -> dict[str, Any]:
    """Reads `metrics.json`.

    Raises:
      UserError: no such file, not JSON, or without the fields that every run writes.
    """
    path = path_of(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected the metrics.json of a run")
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    required = ("select", "comparable", "oracle_inputs", "n", "classes", "overall")
    missing = [key for key in required if not isinstance(metrics, dict) or key not in metrics]
    if missing:
        raise UserError(f"{path}: no field {missing[0]!r}; expected the metrics.json of a run")
    return metrics
