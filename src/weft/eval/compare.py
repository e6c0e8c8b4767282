"""Intervals and comparisons by bootstrap over documents (Koehn 2004 for the paired form).

Documents, not tokens, are drawn: the tokens of one document are not independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """``difference`` = first minus second, with its interval; ``first_lower``: share of draws below 0."""

    difference: Estimate
    first_lower: float


def ratio(amounts: Floats, sizes: Floats, *, seed: int = 0, draws: int = 2000) -> Estimate:
    """``sum(amounts) / sum(sizes)`` over documents: bits and bytes give bits per byte.

    Raises DataError without documents or with sizes that sum to nothing.
    """
    _check(amounts, sizes)
    drawn = _draw((amounts, sizes), seed, draws)
    return _estimate(float(amounts.sum() / sizes.sum()), drawn[0] / drawn[1])


def paired(first: Floats, second: Floats, sizes: Floats, *, seed: int = 0, draws: int = 2000) -> Comparison:
    """Compare two systems on the same documents: every draw takes the same documents for both."""
    _check(first, sizes)
    _check(second, sizes)
    a, b, size = _draw((first, second, sizes), seed, draws)
    differences = (a - b) / size
    value = float((first.sum() - second.sum()) / sizes.sum())
    return Comparison(_estimate(value, differences), float((differences < 0).mean()))


def wilson(successes: int, trials: int, z: float = 1.959964) -> Estimate:
    """A share and Wilson's 95 % score interval (1927), sound for few trials and shares near 0 and 1."""
    if trials < 1:
        raise DataError("A share of no trials is not defined; give at least one.")
    share = successes / trials
    scale = 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Estimate(share, max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share)))


def _draw(columns: tuple[Floats, ...], seed: int, draws: int) -> Floats:
    """float64 [columns, draws]: sums of each column over documents drawn with replacement."""
    generator = np.random.default_rng(seed)
    table = np.stack(columns)
    sums = np.empty((len(columns), draws))
    for draw in range(draws):
        sums[:, draw] = table[:, generator.integers(0, table.shape[1], table.shape[1])].sum(axis=1)
    return sums


def _estimate(value: float, drawn: Floats) -> Estimate:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def _check(amounts: Floats, sizes: Floats) -> None:
    if not len(amounts) or len(amounts) != len(sizes) or not (sizes > 0).all():
        raise DataError("A comparison needs the same documents for both sides, and none of them empty.")
