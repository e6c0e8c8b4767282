"""Which source each sample comes from, as a closed form of the step: nothing is replayed.

Sample g goes to the source in whose part of [0, 1) the g-th number of van der Corput's sequence falls
(the bits of g mirrored behind the point); the parts are as long as the weights. The sequence is of low
discrepancy: any 2^k samples in line hold each source within one of its share, and how many of the first
n numbers lie below a bound has a closed form (Niederreiter 1992, chapter 3). So the position within a
source at any step is a difference of counts, for any number of workers and without a state.

Weights may change with the step. A linear change is a staircase of at most ``STAIRS`` steps; what was
counted before a change stays counted. S = sources, G = segments of constant weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from weft.core.errors import ConfigError, DataError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BITS = 32
"""Weights are whole multiples of 2^-32."""
STAIRS = 256
_WHOLE = 1 << BITS
_NEVER = 1 << 60
# More than any source can have given by then.
_UNLIMITED = 1 << 62


@dataclass(frozen=True)
class Point:
    """From ``step`` on (or reached there linearly) the sources have these ``weights`` [S]."""

    step: int
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Era:
    """What holds from step ``start`` on, until the next era: a mixture that was changed has several.

    ``points`` begin at step 0. ``epochs`` [S]: how often a source may be read in all, 0 without limit.
    """

    points: tuple[Point, ...]
    epochs: tuple[float, ...]
    change: Literal["linear", "step"] = "linear"
    start: int = 0


class Mixture:
    """The assignment of samples to sources with ``rows`` [S] rows each, ``batch_rows`` samples a step."""

    def __init__(self, rows: Sequence[int], eras: Sequence[Era], batch_rows: int) -> None:
        """Raises ConfigError for weights or eras that are not possible."""
        for era in eras:
            _check(era, len(rows))
        starts = [era.start for era in eras]
        if not eras or starts[0] != 0 or any(a >= b for a, b in itertools.pairwise(starts)):
            raise ConfigError(f"The eras of a mixture begin at step 0 and in rising order, not at {starts}.")
        self.rows = np.asarray(rows, np.int64)
        self.batch_rows = batch_rows
        self.samples: int | None = None
        self._build(eras)

    @property
    def steps(self) -> int | None:
        """Whole batches until the sources are used up; None when they never are."""
        return None if self.samples is None else self.samples // self.batch_rows

    def assign(self, samples: Ints) -> tuple[Ints, Ints]:
        """(source [n], how many earlier samples went to that source [n]) of the global ``samples`` [n].

        Raises DataError past the end of a mixture whose sources may not be repeated any more.
        """
        if self.samples is not None and len(samples) and int(samples.max()) >= self.samples:
            raise DataError(
                f"The mixture is used up after {self.steps} steps: no source that has a weight there may be "
                "read again; raise mixture.epochs, or train for fewer steps."
            )
        segment = np.searchsorted(self._first, samples, side="right") - 1
        bounds = self._bounds[segment]
        source = (mirrored(samples)[:, None] >= bounds[:, 1:]).sum(1)
        line = np.arange(len(samples))
        low, high = bounds[line, source], bounds[line, source + 1]
        count = counted(samples, high) - counted(samples, low)
        return source, count + self._offset[segment, source]

    def counts(self, sample: int) -> Ints:
        """How many of the first ``sample`` samples went to each source, [S]."""
        segment = int(np.searchsorted(self._first, sample, side="right")) - 1
        counts: Ints = _between(sample, self._bounds[segment]) + self._offset[segment]
        return counts

    def weights(self, step: int) -> Floats:
        """The share of each source at ``step`` [S], sources that are used up left out."""
        segment = int(np.searchsorted(self._first, step * self.batch_rows, side="right")) - 1
        shares: Floats = np.diff(self._bounds[segment]) / _WHOLE
        return shares

    def _build(self, eras: Sequence[Era]) -> None:
        """Lay the segments out; ``offset`` is what a segment adds to its count from the origin."""
        first, bounds, offset = [], [], []
        taken = np.zeros(len(self.rows), np.int64)
        for begin, end, weights, epochs in _stairs(eras):
            most = np.floor(np.where(epochs > 0, epochs * self.rows, _UNLIMITED)).astype(np.int64)
            at, stop = begin * self.batch_rows, min(end * self.batch_rows, _NEVER)
            while at < stop:
                parts = _parts(np.where(taken < most, weights, 0.0))
                if parts is None:
                    self.samples = at
                    break
                here = taken - _between(at, parts)
                first.append(at)
                bounds.append(parts)
                offset.append(here)
                at = _until_full(at, stop, parts, here, most)
                taken = _between(at, parts) + here
            if self.samples is not None:
                break
        if not first:
            raise ConfigError("The mixture has no rows at all: every source with a weight is empty.")
        self._first, self._bounds, self._offset = np.array(first), np.stack(bounds), np.stack(offset)


def temper(weights: Sequence[float], temperature: float) -> tuple[float, ...]:
    """``weights ** (1 / temperature)``, normalised: above 1 small sources are read more often.

    Arivazhagan et al. 2019 (arXiv:1907.05019), section 4.
    """
    largest = max(weights)
    raised = [(weight / largest) ** (1.0 / temperature) if weight > 0 else 0.0 for weight in weights]
    return tuple(value / sum(raised) for value in raised)


def mirrored(numbers: Ints) -> Ints:
    """The low 32 bits of each number in reverse order: van der Corput's sequence times 2^32."""
    x = numbers.astype(np.uint64) & np.uint64(_WHOLE - 1)
    for shift, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF)):
        s, m = np.uint64(shift), np.uint64(mask)
        x = ((x >> s) & m) | ((x & m) << s)
    x = (x >> np.uint64(16)) | ((x & np.uint64(0xFFFF)) << np.uint64(16))
    return x.astype(np.int64)


def counted(n: Ints, bound: Ints) -> Ints:
    """How many i in [0, n) have ``mirrored(i) < bound``, where 0 <= bound <= 2^32; both [...].

    [0, bound) is cut into dyadic intervals, one for each bit of the bound; i falls into one of length
    2^-k exactly when its low k bits have one value r, which ceil((n - r) / 2^k) numbers below n do.
    """
    total = np.where(bound >> BITS == 1, n, 0)
    low = np.zeros_like(total)
    for k in range(1, BITS + 1):
        bit = (bound >> (BITS - k)) & 1
        total += bit * ((n - low + (1 << k) - 1) >> k)
        low |= bit << (k - 1)
    return total


def _between(n: int, bounds: Ints) -> Ints:
    """How many of the first ``n`` numbers lie in each part, [S]."""
    return np.diff(counted(np.full(len(bounds), n), bounds))


def _parts(weights: Floats) -> Ints | None:
    """Bounds [S + 1] of the parts in units of 2^-32; None when no source has a weight."""
    total = np.cumsum(weights)
    if total[-1] <= 0:
        return None
    return np.concatenate([np.zeros(1, np.int64), np.rint(total / total[-1] * _WHOLE).astype(np.int64)])


def _until_full(at: int, stop: int, parts: Ints, offset: Ints, most: Ints) -> int:
    """The first sample after ``at`` before which a source reached ``most``, or ``stop``."""
    limit = np.where(np.diff(parts) > 0, most, _UNLIMITED)
    if (_between(stop, parts) + offset < limit).all():
        return stop
    low, high = at, stop
    while low < high:
        middle = (low + high) // 2
        if (_between(middle, parts) + offset >= limit).any():
            high = middle
        else:
            low = middle + 1
    return low


def _stairs(eras: Sequence[Era]) -> Iterator[tuple[int, int, Floats, Floats]]:
    """(first step, step after the last, weights, epochs) in line, weights not yet normalised to parts."""
    ends = [era.start for era in eras[1:]] + [_NEVER]
    for era, end in zip(eras, ends, strict=True):
        epochs = np.asarray(era.epochs, np.float64)
        for first, last, weights in _era_stairs(era):
            begin, stop = max(first, era.start), min(last, end)
            if begin < stop:
                yield begin, stop, weights, epochs


def _era_stairs(era: Era) -> Iterator[tuple[int, int, Floats]]:
    shares = [np.asarray(point.weights, np.float64) for point in era.points]
    shares = [share / share.sum() for share in shares]
    for index, point in enumerate(era.points[:-1]):
        length = era.points[index + 1].step - point.step
        stairs = min(STAIRS, length) if era.change == "linear" else 1
        edges = [point.step + length * i // stairs for i in range(stairs + 1)]
        for i, (first, last) in enumerate(itertools.pairwise(edges)):
            way = (i + 0.5) / stairs if era.change == "linear" else 0.0
            yield first, last, (1 - way) * shares[index] + way * shares[index + 1]
    yield era.points[-1].step, _NEVER, shares[-1]


def _check(era: Era, sources: int) -> None:
    steps = [point.step for point in era.points]
    if not steps or steps[0] != 0 or any(a >= b for a, b in itertools.pairwise(steps)):
        raise ConfigError(f"The points of a mixture begin at step 0 and in rising order, not at {steps}.")
    for values in (era.epochs, *(point.weights for point in era.points)):
        sound = all(0 <= value < float("inf") for value in values)
        if len(values) != sources or not sound:
            raise ConfigError(
                f"A mixture of {sources} sources needs as many weights and epochs from 0, not {list(values)}."
            )
    for point in era.points:
        if sum(point.weights) <= 0:
            raise ConfigError(f"The weights of the mixture at step {point.step} are all 0; give one more.")
