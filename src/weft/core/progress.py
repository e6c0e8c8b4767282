"""One live line on the console: what is done, how fast, how long it still takes.

On a terminal the line is rewritten in place; elsewhere (a log, CI) a plain line appears every few
seconds, so that long work is never silent. Everything goes to standard error, because standard output
belongs to results.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO


class Progress:
    """A counter with throughput and time left, used as a context manager."""

    def __init__(self, label: str, total: float | None = None, unit: str = "", stream: TextIO | None = None):
        self.label, self.total, self.unit = label, total, unit
        self.done = 0.0
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._started = time.perf_counter()
        self._shown = self._started if not self._live else 0.0
        self._interval = 0.1 if self._live else 10.0

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Count ``amount`` more units and show the line if it is time to."""
        self.done += amount
        now = time.perf_counter()
        if now - self._shown >= self._interval:
            self._shown = now
            self._write(self.line(now, note))

    def line(self, now: float, note: str = "") -> str:
        """The text of the line at the clock reading ``now`` (``time.perf_counter``)."""
        elapsed = max(now - self._started, 1e-9)
        rate = self.done / elapsed
        text = f"{self.label}: {_count(self.done)}"
        if self.total:
            left = (self.total - self.done) / rate if rate > 0 else float("inf")
            text += f"/{_count(self.total)} ({100 * self.done / self.total:.0f} %), {_clock(left)} left"
        text += f", {_count(rate)} {self.unit or 'items'}/s"
        return f"{text}, {note}" if note else text

    def say(self, text: str) -> None:
        """Print a line of its own without tearing the live one."""
        if self._live:
            self._stream.write("\r\x1b[2K")
        self._stream.write(text + "\n")
        self._stream.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._stream.write("\r\x1b[2K")
        if kind is None and self.done:
            seconds = time.perf_counter() - self._started
            self._stream.write(f"{self.label}: {_count(self.done)} {self.unit} in {_clock(seconds)}\n")
        self._stream.flush()

    def _write(self, text: str) -> None:
        self._stream.write(f"\r\x1b[2K{text}" if self._live else text + "\n")
        self._stream.flush()


def _count(value: float) -> str:
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / {'G': 1e9, 'M': 1e6, 'k': 1e3}[suffix]:.1f}{suffix}"
    # The shown digits decide, because a rate that is whole on paper is not in floating point.
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}".removesuffix(".0")


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
