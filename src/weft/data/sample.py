"""A few rows drawn from a stream of any length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from weft.data.parts import Group, Place


class Sample:
    """``size`` rows drawn uniformly and without repetition; equal streams and seeds give equal rows.

    Every row draws a number and the smallest numbers stay (a reservoir; Li 1994, "Reservoir-sampling
    algorithms of time complexity O(n(1 + log(N/n)))", section 2), so memory is ``size`` rows.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        # Raw bits of a counter-based generator: numpy fixes this stream for all its versions.
        self._bits = np.random.Philox(key=np.array([seed, 0], np.uint64))
        self._drawn: list[tuple[int, Place]] = []

    def add(self, group: Group, rows: npt.NDArray[np.int64]) -> None:
        """Offer the ``rows`` [N] of ``group``."""
        draws = self._bits.random_raw(len(rows))
        if self._drawn and len(self._drawn) == self.size:
            below = draws < np.uint64(self._drawn[-1][0])
            draws, rows = draws[below], rows[below]
        best = np.argsort(draws, kind="stable")[: self.size]
        self._drawn += [(int(draws[i]), group.place(int(rows[i]))) for i in best]
        self._drawn = sorted(self._drawn)[: self.size]

    @property
    def places(self) -> Sequence[Place]:
        """Where the drawn rows lie, in the order of their draws."""
        return [place for _, place in self._drawn]
