"""The order of the rows of an epoch, as a function of (seed, stream, epoch, place) without replay.

Up to a million rows the order is drawn as a whole. Beyond that it is computed where it is asked for, by a
Feistel network (Luby and Rackoff 1988) over the next even number of bits, walked along its cycle until it
falls inside the rows (Black and Rogaway 2002): nothing grows with the number of rows.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

DRAWN = 1 << 20
"""Orders of up to so many rows are drawn as a whole."""

_ROUNDS = 7


class Order(Protocol):
    """Which row stands at a place of the endless sequence of epochs."""

    rows: int

    def at(self, places: Ints) -> Ints:
        """The row at each place [n]; place p belongs to epoch ``p // rows``."""
        ...


class Shuffled:
    """All rows in one random order each epoch. ``stream`` keeps the sources of a mixture apart."""

    def __init__(self, rows: int, seed: int, stream: int = 0) -> None:
        self.rows, self._seed, self._stream = rows, seed, stream
        self._drawn: dict[int, Ints] = {}

    def at(self, places: Ints) -> Ints:
        """The row at each place, as in :class:`Order`."""
        found = np.empty(len(places), np.int64)
        epochs = places // self.rows
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            found[here] = self._epoch(epoch, places[here] % self.rows)
        return found

    def _epoch(self, epoch: int, places: Ints) -> Ints:
        if self.rows > DRAWN:
            keys = words(_ROUNDS, self._seed, epoch, 0, self._stream)
            return feistel(places, self.rows, keys)
        known = self._drawn.get(epoch)
        if known is None:
            known = drawn(self.rows, self._seed, epoch, 0, self._stream)
            # A batch touches two epochs at most.
            self._drawn = {e: o for e, o in self._drawn.items() if abs(e - epoch) == 1} | {epoch: known}
        return known[places]


class Windowed:
    """Rows shuffled within groups of ``group`` windows, and the windows each epoch.

    A window is a run of rows whose tokens lie together, rows ``edges[w]`` to ``edges[w + 1]``; while a
    group is read no more than its windows need to be at hand. With one group it is a plain shuffle.
    """

    def __init__(self, edges: Ints, group: int, seed: int, stream: int = 0) -> None:
        self.rows = int(edges[-1])
        self._edges, self._group, self._seed, self._stream = edges, group, seed, stream
        self._epochs: dict[int, tuple[Ints, Ints]] = {}
        self._groups: dict[tuple[int, int], Ints] = {}

    def at(self, places: Ints) -> Ints:
        """The row at each place, as in :class:`Order`."""
        found = np.empty(len(places), np.int64)
        epochs, within = places // self.rows, places % self.rows
        for epoch in np.unique(epochs).tolist():
            here = np.flatnonzero(epochs == epoch)
            windows, ends = self._windows(epoch)
            groups = np.searchsorted(ends, within[here], side="right")
            for number in np.unique(groups).tolist():
                chosen = here[groups == number]
                first = int(ends[number - 1]) if number else 0
                found[chosen] = self._rows(epoch, number, windows)[within[chosen] - first]
        return found

    def _windows(self, epoch: int) -> tuple[Ints, Ints]:
        """The windows in the order of the epoch, and where each group ends."""
        known = self._epochs.get(epoch)
        if known is None:
            windows = drawn(len(self._edges) - 1, self._seed, epoch, 0, self._stream)
            sizes = np.diff(self._edges)[windows]
            known = windows, np.cumsum(np.add.reduceat(sizes, np.arange(0, len(sizes), self._group)))
            self._epochs = {e: o for e, o in self._epochs.items() if abs(e - epoch) == 1} | {epoch: known}
        return known

    def _rows(self, epoch: int, number: int, windows: Ints) -> Ints:
        known = self._groups.get((epoch, number))
        if known is None:
            members = windows[number * self._group : (number + 1) * self._group].tolist()
            rows = np.concatenate([np.arange(self._edges[w], self._edges[w + 1]) for w in members])
            known = rows[drawn(len(rows), self._seed, epoch, number + 1, self._stream)]
            kept = list(self._groups.items())[-1:]
            self._groups = dict(kept) | {(epoch, number): known}
        return known


def words(count: int, seed: int, epoch: int, part: int, stream: int) -> Words:
    """``count`` random words of 64 bits that belong to these four numbers alone.

    Raw bits of a counter-based generator (Philox, Salmon et al. 2011): numpy fixes this stream for all
    its versions, which it does not promise of Generator.permutation.
    """
    key = np.array([seed, epoch], np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, 0, part, stream], np.uint64)).random_raw(count)


def drawn(size: int, seed: int, epoch: int, part: int, stream: int) -> Ints:
    """A random permutation of ``size`` numbers."""
    return np.argsort(words(size, seed, epoch, part, stream), kind="stable")


def feistel(places: Ints, size: int, keys: Words) -> Ints:
    """The numbers at ``places`` of a pseudo-random permutation of 0 to ``size - 1``."""
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    found = _rounds(places.astype(np.uint64), half, keys)
    outside = np.flatnonzero(found >= size)
    while len(outside):
        found[outside] = _rounds(found[outside], half, keys)
        outside = outside[found[outside] >= size]
    return found.astype(np.int64)


def _rounds(x: Words, half: np.uint64, keys: Words) -> Words:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = x >> half, x & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right + key) & mask)
    return (left << half) | right


def _mixed(x: Words) -> Words:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
