"""How long a step of so many rows takes, from those that were measured. No torch here."""

from __future__ import annotations

import bisect

_GUESSED_ROWS = 32
"""Before anything is measured, so many more rows are taken to double the time of a step."""
_FADING, _OLDEST = 0.999, 5000


class StepTimes:
    """Measured seconds by rows: expected ones lie on the line through the measurements beside them."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._rows: list[int] = []
        self._faded = 0
        self._measured: dict[int, int] = {}

    def observe(self, rows: int, seconds: float) -> None:
        """Take in a step."""
        rows = _rounded(rows)
        self._measured[rows] = self._faded
        known = self._seconds.get(rows)
        if known is None:
            self._seconds[rows] = seconds
            bisect.insort(self._rows, rows)
        else:
            # Interruptions only ever lengthen a step, so what is shorter is believed sooner.
            self._seconds[rows] = known + (0.5 if seconds < known else 0.05) * (seconds - known)

    def knows(self, rows: int) -> bool:
        """Whether steps of about so many rows were measured."""
        return _rounded(rows) in self._seconds

    def fade(self) -> None:
        """Believe the measurements a little less.

        What was slow once may not be so for ever: a measurement fades until it is made again, so that one
        step in a few hundred is risked.
        """
        self._faded += 1

    def expected(self, rows: int) -> float:
        """Seconds of a step."""
        near = _rounded(rows)
        if near in self._seconds:
            return self._believed(near)
        if not self._rows:
            return 1.0 + rows / _GUESSED_ROWS
        above = bisect.bisect_right(self._rows, rows)
        left = self._rows[max(0, above - 1)]
        low = self._believed(left)
        if 0 < above < len(self._rows):
            right = self._rows[above]
            slope = (self._believed(right) - low) / (right - left)
        else:
            # Outside all that was measured: two sizes close together would tell by chance, and a step that
            # seems too long is never tried.
            first = self._rows[0]
            slope = self._believed(first) / _GUESSED_ROWS
            if left > first:
                # One that was faster with more rows was an accident.
                low = max(low, self._believed(self._rows[-2]))
                slope = min(slope, (low - self._believed(first)) / (left - first))
        return max(low + max(slope, 0.0) * (rows - left), 1e-9)

    def _believed(self, rows: int) -> float:
        # Without an end it would be zero seconds one day.
        age = min(self._faded - self._measured[rows], _OLDEST)
        return self._seconds[rows] * _FADING**age if age else self._seconds[rows]


def _rounded(rows: int) -> int:
    """To one of 8 sizes in each octave, so that few sizes are measured often."""
    step = max(1, 1 << max(0, rows.bit_length() - 4))
    return rows // step * step
