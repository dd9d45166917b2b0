"""Progress of long work on the terminal: what, how much, at which rate, how long still."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO


class Progress:
    """One line on stderr, rewritten in place on a terminal and repeated every ten seconds in a log file.

    Used as a context manager; work that ends within the first interval prints nothing.
    """

    def __init__(self, label: str, total: int | None, unit: str, stream: TextIO | None = None) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._interval = 0.5 if self._terminal else 10.0
        self._done = 0
        self._begin = self._shown = time.monotonic()
        self._printed = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._printed:
            self._show()
            if self._terminal:
                self._stream.write("\n")

    def advance(self, n: int = 1) -> None:
        """Counts `n` more units done."""
        self._done += n
        now = time.monotonic()
        if now - self._shown >= self._interval:
            self._shown = now
            self._show()

    def line(self) -> str:
        """The line as it would be shown now."""
        rate = self._done / max(time.monotonic() - self._begin, 1e-9)
        of = f" of {self._total}" if self._total is not None else ""
        left = ""
        if self._total is not None and 0 < self._done < self._total:
            left = f", {(self._total - self._done) / rate:.0f} s left"
        return f"{self._label}: {self._done}{of} {self._unit}, {rate:.1f}/s{left}"

    def _show(self) -> None:
        self._printed = True
        self._stream.write(f"\r{self.line():<78}" if self._terminal else self.line() + "\n")
        self._stream.flush()
