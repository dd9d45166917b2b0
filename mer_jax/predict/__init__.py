"""What a finished run says of recordings: probabilities over time, and intervals where it knows the neutral face."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax.analysis.networks import read_settings
from mer_jax.data import align, prepared
from mer_jax.data import source as sources
from mer_jax.data.time_scale import TimeScale
from mer_jax.errors import UserError
from mer_jax.evaluation import labels
from mer_jax.files import read_facts
from mer_jax.predict import intervals
from mer_jax.predict.ensemble import Ensemble
from mer_jax.predict.recordings import Recording
from mer_jax.predict.windows import Cutter, Landmarker, Rhythm, Window
from mer_jax.progress import Progress

NEUTRAL = "neutral"
ASSUMPTION = "probabilities assume an expression"
_COUNT_TOLERANCE = 2  # frames: containers announce a number that decoding may miss by one or two
_SPARSE = 1.5  # times as many frames a second as recorded are worth a note
STRIDES = 4  # windows that begin within the length of one


@dataclasses.dataclass(frozen=True)
class Options:
    """How recordings are looked at; None means as the run says.

    Attributes:
      window: seconds.
      stride: seconds from one window to the next.
      rate: frames a second of the windows; 0 keeps those of the recording.
      align: one of `data.align.KINDS`.
      margin: of the alignment.
      threshold: least probability of an expression in an interval.
      shortest: seconds that an interval lasts at least.
      batch: windows that are looked at in one call.
    """

    window: float | None = None
    stride: float | None = None
    rate: float | None = None
    align: str | None = None
    margin: float | None = None
    threshold: float = 0.5
    shortest: float | None = None
    batch: int = 16


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What was found in one recording, n windows.

    Attributes:
      recording: what was looked at.
      classes: C names.
      probability: float32 [n, C]; NaN where no face was found.
      frames: int [n, 2], first and last frame of each window in the recording.
      apex: int [n], frame of the recording that was taken for the apex; -1 where none is read.
      folds: whose networks looked.
      notes: what is to be known of these numbers.
      intervals: with an expression; None where the run does not know the neutral face.
      seconds: that it took, decoding included.
      decoded: frames of the recording.
    """

    recording: Recording
    classes: tuple[str, ...]
    probability: np.ndarray
    frames: np.ndarray
    apex: np.ndarray
    folds: tuple[str, ...]
    notes: tuple[str, ...]
    intervals: tuple[intervals.Interval, ...] | None
    seconds: float
    decoded: int

    @property
    def expression(self) -> np.ndarray | None:
        """Probability of an expression [n]; None where the run does not know the neutral face."""
        return None if self.intervals is None else expression(self.probability, self.classes)

    @property
    def times(self) -> np.ndarray:
        """First and last moment of each window in seconds of the recording, float64 [n, 2]."""
        return (self.frames + [0, 1]) / self.recording.fps

    @property
    def middles(self) -> np.ndarray:
        """Middle of each window in seconds [n]."""
        return np.asarray(self.times.mean(axis=1))


def expression(probability: np.ndarray, classes: Sequence[str]) -> np.ndarray | None:
    """1 - P(neutral) [n] of probabilities [n, C]; None where there is no such class."""
    return 1 - probability[:, list(classes).index(NEUTRAL)] if NEUTRAL in classes else None


def time_scale(run: Path, settings: Any) -> TimeScale | None:
    """That of the clips that a run scores: from its manifest, else from the built data; None where neither says."""
    found = read_facts(run / "manifest.json").get("time_scale")
    if found:
        return TimeScale.of_json(found)
    try:
        table = sources.open_datasets(settings.data.name.split("+"), prepared.data_dir(settings)).table
        return TimeScale.of_table(table.select(labels.apply(settings.data.labels, table).used))
    except UserError:
        return None


class Predictor:
    """A run that looks at recordings.

    Args:
      run: its workdir, or the OUT of `mer_jax.convert`.
      options: see Options.
      fold: the only fold that is used; None for all that may be.
      seed: one of the run's seeds; None for the first.
      landmarker: finds landmarks where a recording brings none.

    Raises:
      UserError: no run, a checkpoint that does not fit it, or a time scale that nothing tells.
    """

    def __init__(
        self,
        run: Path,
        options: Options = Options(),
        fold: str | None = None,
        seed: int | None = None,
        landmarker: Landmarker | None = None,
    ) -> None:
        settings = read_settings(run)
        self.options, self.ensemble = options, Ensemble(run, seed, fold)
        self.classes = self.ensemble.first.classes
        system = self.ensemble.first.system
        self.alignment = align.Alignment(
            settings.data.align if options.align is None else options.align,
            settings.data.align_margin if options.margin is None else options.margin,
        )
        self.cutter = Cutter(settings, system, self.alignment, landmarker)
        self.rhythm = _rhythm(run, settings, system, options)

    def predict(self, recording: Recording) -> Prediction:
        """Looks at a recording.

        Raises:
          UserError: it cannot be read, is too short, its frame rate is unknown, or no window of it shows a face.
        """
        began = time.monotonic()
        folds, notes = self.ensemble.allowed(recording.dataset, recording.subject)
        length = recording.length()
        found: list[np.ndarray] = []
        apex: list[int] = []
        places: list[tuple[int, int]] = []
        waiting: list[Window] = []

        def look() -> None:
            faces = [w for w in waiting if w.face]
            rows = np.full((len(waiting), len(self.classes)), np.nan, np.float32)
            peaks = np.full(len(waiting), -1)
            if faces:
                store = self.cutter.store(faces, 1 if len(places) == 1 else self.options.batch)
                which = [k for k, w in enumerate(waiting) if w.face]
                rows[which] = self.ensemble.probabilities(store, folds)[: len(faces)]
                if self.cutter.system.oracle_inputs == "boundaries+apex":
                    said = np.asarray(store.apex)[: len(faces)]
                    # as time, since the frames of a window need not be those of the recording
                    peaks[which] = [
                        w.first + round(a * recording.fps / w.rate) for w, a in zip(faces, said.tolist(), strict=True)
                    ]
            found.append(rows)
            apex.extend(peaks.tolist())
            waiting.clear()

        with Progress(f"recognising {recording.name}", length, "frames") as progress:
            seen = 0
            for window in self.cutter.windows(recording, self.rhythm):
                places.append((window.first, window.last))
                waiting.append(window)
                if len(waiting) == self.options.batch:
                    look()
                    progress.advance(window.last + 1 - seen)
                    seen = window.last + 1
            if waiting:
                look()
            decoded = self.cutter.decoded
            progress.advance(decoded - seen)
        probability = np.concatenate(found)
        known = np.isfinite(probability).all(axis=1)
        if not known.any():
            raise UserError(
                f"{recording.name}: no face found in any of {len(places)} windows; expected one. Look at the landmarks "
                "(--landmarks, --model), or choose --box or --align none"
            )
        notes = [*notes, *self._notes(recording, length, decoded, known)]
        frames = np.array(places)
        return Prediction(
            recording=recording,
            classes=self.classes,
            probability=probability,
            frames=frames,
            apex=np.array(apex),
            folds=tuple(name or "imported" for name in folds),
            notes=tuple(notes),
            intervals=self._intervals(probability, (frames + [0, 1]).mean(axis=1) / recording.fps),
            seconds=time.monotonic() - began,
            decoded=decoded,
        )

    def _notes(self, recording: Recording, length: int | None, decoded: int, known: np.ndarray) -> list[str]:
        """What is odd about a recording; `known` [n] says in which windows there was a face."""
        notes = []
        if length is not None and length - decoded > _COUNT_TOLERANCE:
            notes.append(f"{recording.path.name} breaks off: {decoded} of {length} frames can be decoded")
        if not known.all():
            notes.append(f"no face in {(~known).sum()} of {len(known)} windows: their cells are empty")
        if self.cutter.settings.data.name.startswith("synthetic_faces"):
            notes.append(
                "the run knows rendered faces alone: what it says of real ones is not known to be worth anything"
            )
        fps, rate = recording.fps, self.rhythm.rate(recording.fps)
        if rate > _SPARSE * fps:
            notes.append(
                f"{fps:g} frames a second are interpolated to the {rate:g} of training: what happens between two "
                "frames cannot be seen"
            )
        if self.cutter.alignment.kind == "none":
            notes += _shape_notes(recording, self.cutter.system.needs.size)
        return notes

    def _intervals(self, probability: np.ndarray, middles: np.ndarray) -> tuple[intervals.Interval, ...] | None:
        scores = expression(probability, self.classes)
        if scores is None:
            return None
        shortest = self.rhythm.window / 2 if self.options.shortest is None else self.options.shortest
        return tuple(intervals.find(scores, middles, self.rhythm.stride, self.options.threshold, shortest))

    def label(self, prediction: Prediction, interval: intervals.Interval) -> tuple[str, float]:
        """The expression of an interval: the largest mean probability over its windows, given that there is one."""
        first, last = interval.windows
        mean = prediction.probability[first : last + 1].mean(axis=0)
        mean[self.classes.index(NEUTRAL)] = 0
        return self.classes[int(mean.argmax())], float(mean.max() / mean.sum())


def _rhythm(run: Path, settings: Any, system: Any, options: Options) -> Rhythm:
    """Window and stride of a run.

    INFERRED: a window is as long as the median event (onset to offset) of the clips that the run scores, or as the
    median clip where the system looks at whole clips; the stride is a quarter of it. A recording may be as short as
    the shortest clips (5th percentile), an interval half as long as a window.
    """
    for name, value in (("window", options.window), ("stride", options.stride)):
        if value is not None and not value > 0:
            raise UserError(f"--{name}: found {value}; expected seconds above 0")
    scale = time_scale(run, settings)
    if scale is None and options.window is None:
        raise UserError(
            f"{run}: how long its clips last is not in manifest.json, and its data are not built here (or their frame "
            "rates are unknown); give --window in seconds, such as 0.3"
        )
    shortest, window = options.window or 0.0, options.window or 0.0
    if scale is not None:
        whole = system.oracle_inputs == "none" and settings.data.extent == "whole"
        lasting = scale.clip if whole else scale.event
        window = options.window or lasting[1]
        shortest = min(lasting[0], window)
    rates = scale.fps if scale is not None else ()
    if options.rate is not None:
        rates = (options.rate,) if options.rate > 0 else ()
    return Rhythm(window, options.stride or window / STRIDES, shortest, rates)


def _shape_notes(recording: Recording, size: int) -> list[str]:
    """What is odd about frames that are taken as face crops by a network of `size` pixels."""
    height, width = next(iter(recording.frames())).shape[:2]
    notes = []
    if max(height, width) > 1.25 * min(height, width):
        notes.append(
            f"frames of {width}x{height} pixels are taken as face crops, as the run's clips were; if the face is a "
            "part of them, give --box, or --align clip with landmarks"
        )
    if min(height, width) < size:
        notes.append(
            f"frames of {width}x{height} pixels are enlarged to the {size} of the network: details are missing"
        )
    return notes
