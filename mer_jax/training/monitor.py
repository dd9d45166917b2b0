"""What a run says while it works: progress lines, `log.jsonl`, TensorBoard events; and the finiteness guard."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mer_jax.errors import NonFiniteError
from mer_jax.files import is_remote

_LOG = "log.jsonl"
_UPLOAD_SECONDS = 60.0
_FLUSH_SECONDS = 10.0


class Monitor:
    """Writes one line a look. Only the writing process creates files and prints; the others stay silent.

    Args:
      workdir: where `log.jsonl` and the TensorBoard events go. Objects of a bucket cannot be appended to: for a URL
        both are kept here and uploaded once a minute and at the end.
      writer: whether this process writes.
    """

    def __init__(self, workdir: Path, writer: bool = True) -> None:
        self._writer = writer
        self._log = None
        self._remote: Path | None = workdir if is_remote(workdir) else None
        if writer:
            # Only a writing process needs it. Not SummaryWriter: its thread dies of a full disk, and it waits for ever.
            from tensorboardX.event_file_writer import EventsWriter

            folder = Path(tempfile.mkdtemp(prefix="mer_jax_log_")) if self._remote else workdir
            path = self._path = folder / _LOG
            if self._remote and (self._remote / _LOG).exists():
                path.write_bytes((self._remote / _LOG).read_bytes())
            self._log = open(path, "a", encoding="utf-8")  # noqa: SIM115
            self._log.truncate(path.read_bytes().rfind(b"\n") + 1)  # a killed run's last line may be half a line
            self._events = EventsWriter(str(folder / "events"))
        self._printed = self._uploaded = self._flushed = 0.0

    def look(self, stage: str, seed: int, step: int, metrics: Mapping[str, float], **where: Any) -> None:
        """Records the metrics of a look; `where` adds fields such as the fold."""
        if self._log is None:
            return
        line = {"stage": stage, "seed": seed, "step": step, **where, **{k: _number(v) for k, v in metrics.items()}}
        self._log.write(json.dumps(line) + "\n")
        self._log.flush()
        prefix = "/".join([stage, f"seed{seed}", *map(str, where.values())])
        self._event(step, {f"{prefix}/{name}": float(value) for name, value in metrics.items()})
        if time.monotonic() - self._flushed >= _FLUSH_SECONDS:
            self._events.flush()
            os.fsync(self._log.fileno())  # a mounted bucket gets what is flushed to disk, or closed
            self._flushed = time.monotonic()
        if self._remote and time.monotonic() - self._uploaded >= _UPLOAD_SECONDS:
            self._events.flush()
            self._upload()

    def say(self, text: str) -> None:
        """Prints a line at once."""
        if self._writer:
            print(text, file=sys.stderr, flush=True)

    def progress(self, text: str, every: float = 2.0) -> None:
        """Prints a line of progress, at most one in `every` seconds."""
        if self._writer and time.monotonic() - self._printed >= every:
            self._printed = time.monotonic()
            self.say(text)

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._log is not None:
            self._log.close()
            self._events.close()
            if self._remote:
                self._upload()
                shutil.rmtree(self._path.parent, ignore_errors=True)

    def _event(self, step: int, scalars: Mapping[str, float]) -> None:
        """For TensorBoard."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._events.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _upload(self) -> None:
        assert self._remote is not None
        for file in self._path.parent.iterdir():
            (self._remote / file.name).write_bytes(file.read_bytes())
        self._uploaded = time.monotonic()


class Rate:
    """Rate and time left of a long loop, from what this process has done so far."""

    def __init__(self, total: int, done: int = 0) -> None:
        self._total, self._start_count, self._count = total, done, done
        self._start = time.monotonic()

    def update(self, done: int) -> None:
        """`done` units of work are finished in all."""
        self._count = done

    @property
    def per_second(self) -> float:
        """Units a second."""
        return (self._count - self._start_count) / max(time.monotonic() - self._start, 1e-9)

    @property
    def left(self) -> str:
        """Time left, as m:ss."""
        if self._count == self._start_count:
            return "?"
        return clock((self._total - self._count) / self.per_second)


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def check_finite(metrics: Mapping[str, Any], where: str) -> None:
    """Stops at the first number that is not finite.

    Raises:
      NonFiniteError: names the term and the place.
    """
    bad = {name: float(value) for name, value in metrics.items() if not math.isfinite(float(value))}
    if bad:
        # the paper's terms first: loss and gradient_norm only follow them
        names = sorted(bad, key=lambda name: (name in ("loss", "gradient_norm"), name))
        raise NonFiniteError(
            f"{', '.join(names)} became {bad[names[0]]} in {where}; the last good checkpoint is kept. "
            "Lower the learning rate, set clip_norm, or run in float32"
        )


def _number(value: Any) -> float | int | None:
    number = float(value)
    return number if math.isfinite(number) else None
