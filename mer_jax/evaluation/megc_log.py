"""The submission log of MEGC 2019, so that other people's published predictions can be scored again.

A header line `database subject`, then one line `clip truth prediction` for each clip of that subject, classes as
numbers (0 negative, 1 positive, 2 surprise). Truth comes before prediction: swapping them turns recall into precision,
which is how the UAR of a well-known table came to be its mean precision.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from mer_jax.errors import UserError
from mer_jax.evaluation.datasets import person_of
from mer_jax.evaluation.results import Predictions, sort

CLASSES = ("negative", "positive", "surprise")


def read_log(path: str | pathlib.Path, classes: Sequence[str] | None = None) -> Predictions:
    """Reads a log; every line must be a header, a clip or blank.

    Args:
      path: the text file.
      classes: names of the classes 0, 1, ...; default those of MEGC 2019.

    Returns:
      Predictions without probabilities, seed 0, one fold a subject.

    Raises:
      UserError: a line that is neither, a class out of range, a clip twice; names file and line.
    """
    path = pathlib.Path(path)
    names = tuple(classes or CLASSES)
    rows: list[tuple[str, str, str, int, int]] = []
    header: tuple[str, str] | None = None
    for i, line in enumerate(_text(path).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) == 2:
            header = (words[0], words[1])
        elif len(words) == 3:
            if header is None:
                raise UserError(f"{path}, line {i}: a clip before the first header; expected `database subject`")
            truth, predicted = (_label(path, i, what, w, names) for what, w in zip(_COLUMNS, words[1:], strict=True))
            rows.append((*header, words[0], truth, predicted))
        else:
            raise UserError(
                f"{path}, line {i}: {line.strip()!r}; expected `database subject` or `clip truth prediction`"
            )
    if not rows:
        raise UserError(f"{path}: no line `clip truth prediction`")
    dataset, subject, _, truths, predictions = (np.array(column) for column in zip(*rows, strict=True))
    try:
        return sort(
            Predictions(
                task="emotion",
                classes=names,
                seed=np.zeros(len(rows), np.int64),
                fold=np.array([f"{d}-{s}" for d, s, *_ in rows]),
                dataset=dataset,
                subject=subject,
                clip=np.array([f"{d}/{s}/{c}" for d, s, c, *_ in rows]),
                person=np.array([person_of(d, s) for d, s, *_ in rows]),
                truth=truths.astype(np.int64),
                predicted=predictions.astype(np.int64),
                probability=None,
            )
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


_COLUMNS = ("truth", "prediction")


def _text(path: pathlib.Path) -> str:
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a predictions.csv or a MEGC 2019 log")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file ({error}); expected a predictions.csv or a MEGC 2019 log") from None


def _label(path: pathlib.Path, line: int, what: str, word: str, classes: Sequence[str]) -> int:
    known = ", ".join(f"{k} {name}" for k, name in enumerate(classes))
    if not word.isdecimal() or int(word) >= len(classes):
        raise UserError(f"{path}, line {line}: {what} is {word!r}; expected {known} (name the classes with --classes)")
    return int(word)


def is_log(path: str | pathlib.Path) -> bool:
    """Whether a file looks like a log: its first line that is not blank has no comma."""
    for line in _text(pathlib.Path(path)).splitlines():
        if line.strip():
            return "," not in line
    return False
