"""The stream of pre-training pairs: the global batch of a step is a pure function of (seed, step).

Macro-expression sets do not fit on a device, so they stream through Grain. The position of the stream is the step
number, which is all that a checkpoint has to hold: nothing depends on the number of threads or processes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np

from mer_jax.data import sampling
from mer_jax.data.pairs import COUNTERS, PairSampler, PairSettings, Source
from mer_jax.errors import UserError

_TALLY = "tally"  # counters of a batch on their way through the threads; taken out at delivery
_FOREVER = 2**40


class PairStream:
    """Batches of frame pairs by step.

    Example n of the run (n = step * batch + slot) belongs to epoch n // clips: every epoch visits every allowed clip
    once, in an order shuffled for that epoch, one pair a visit. All randomness of an example comes from (seed, epoch,
    n); process p holds the p-th of `process_count` equal slices of a batch and reads nothing else.

    Args:
      source: the clips, a `data.source.ClipSource`.
      rows: rows of `source.table` that may be read (positions, or a boolean mask [n]).
      settings: see PairSettings.
      seed: of the run.
      batch: pairs a step over all processes.
      process_index: which slice this process holds.
      process_count: number of slices.
      size: height and width of the frames.
      channels: 3 (colour) or 1 (grey).
      labels: int [n], class of each row of `source.table`; -1 for all where not given.

    Attributes:
      rows: the rows that are visited, ascending.
      skipped: names of allowed clips that are too short, or too coarse in time, for any pair.
      counters: what happened so far to the pairs that this process delivered, by name (see pairs.COUNTERS).

    Raises:
      UserError: no usable clip, an unknown frame rate, frames that are flow and not images, or a batch that does not
        divide among the processes.
    """

    def __init__(
        self,
        source: Source,
        rows: np.ndarray,
        settings: PairSettings,
        seed: int,
        batch: int,
        process_index: int = 0,
        process_count: int = 1,
        *,
        size: int,
        channels: int = 3,
        labels: np.ndarray | None = None,
    ) -> None:
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else np.unique(rows).astype(int)
        names = source.table["clip"]
        sampling.require_fps("the pair sampler", names[rows], source.table["fps"][rows])
        flow = rows[source.table["modality"][rows] == "flow_strain"]
        if len(flow):
            raise UserError(
                f"pre-training pairs: clip {str(names[flow[0]])!r} holds flow_strain frames; expected images "
                "(rgb, grey, nir). Leave such datasets out of pre-training"
            )
        if batch < 1 or batch % process_count:
            raise UserError(
                f"pre-training batch: found {batch} pairs for {process_count} processes; expected a multiple of the "
                "number of processes. Change the batch size"
            )
        self.sampler = PairSampler(source, settings, size, channels)
        usable = self.sampler.usable()[rows]
        self.rows, self.skipped = rows[usable], tuple(str(name) for name in names[rows[~usable]])
        if not len(self.rows):
            raise UserError(
                f"pre-training pairs: found none in {len(rows)} clips that are {settings.dt_ms[0]:g} to "
                f"{settings.dt_ms[1]:g} ms apart within {settings.extent}; expected at least one clip that holds such "
                "a pair. Check which clips are allowed, their frame rates, and dt_ms"
            )
        self.settings, self.seed, self.batch = settings, seed, batch
        self._slots = range(process_index * batch // process_count, (process_index + 1) * batch // process_count)
        self._labels = np.full(len(names), -1) if labels is None else np.asarray(labels)
        self._order = functools.lru_cache(maxsize=4)(self._shuffled)
        self.counters = dict.fromkeys(COUNTERS, 0)

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """This process's slice of the batch of a step, prepared now.

        Returns:
          With b = batch / process_count: `first`, `second` (and `before` for the task `forecast`) uint8
          [b, size, size, C], bytes rather than floats since the way to the device is the narrow one; `weight` float32
          [b], 0 where a clip was given up, else 1; `label`, `example` (n), `epoch` int32 [b].
        """
        return self._deliver(self._prepare(step))

    def iterate(self, start: int = 0, stop: int | None = None) -> PairIterator:
        """Batches of the steps start, start + 1, ... with `settings.threads` threads working ahead."""
        return PairIterator(self, start, _FOREVER if stop is None else stop)

    def clip_of(self, example: int) -> tuple[int, int]:
        """(epoch, row of the source's table) of a global example number."""
        epoch, position = divmod(example, len(self.rows))
        return epoch, int(self.rows[self._order(epoch)[position]])

    def _shuffled(self, epoch: int) -> np.ndarray:
        # sorting plain uniform draws: NumPy keeps those stable between versions, but not its own shuffle
        return self._generator(epoch).random(len(self.rows)).argsort(kind="stable")

    def _generator(self, *path: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, *path])))

    def _prepare(self, step: int) -> dict[str, np.ndarray]:
        names = ("before", "first", "second") if self.settings.task == "forecast" else ("first", "second")
        columns: dict[str, list[Any]] = {name: [] for name in (*names, "label", "weight", "example", "epoch", _TALLY)}
        for slot in self._slots:
            example = step * self.batch + slot
            epoch, row = self.clip_of(example)
            pair = self.sampler.sample(row, self._generator(epoch, example))
            values = (*pair.frames, self._labels[row], pair.accepted, example, epoch, pair.counts)
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
        types: Mapping[str, Any] = {"weight": np.float32, "label": np.int32, "example": np.int32, "epoch": np.int32}
        return {name: np.array(column, types.get(name)) for name, column in columns.items()}

    def _deliver(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        # counted here and not while preparing: batches prepared ahead but never used do not count
        tally = batch.pop(_TALLY).sum(axis=0)
        for name, count in zip(COUNTERS, tally, strict=True):
            self.counters[name] += int(count)
        return batch


class PairIterator:
    """Batches in order of the steps, prepared ahead by Grain's threads; `close` (or `with`) ends them."""

    def __init__(self, stream: PairStream, start: int, stop: int) -> None:
        import grain  # only pre-training streams need it

        self._stream = stream
        threads = stream.settings.threads
        options = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=stream.settings.prefetch if threads else 0
        )
        # a batch is one element, so that its content cannot depend on which thread makes it
        steps = grain.MapDataset.range(start, stop).map(stream._prepare)
        self._batches: Any = iter(steps.to_iter_dataset(options))

    def __iter__(self) -> PairIterator:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if self._batches is None:
            raise StopIteration
        return self._stream._deliver(next(self._batches))

    def close(self) -> None:
        """Ends the threads; what they prepared ahead is dropped."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def __enter__(self) -> PairIterator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
