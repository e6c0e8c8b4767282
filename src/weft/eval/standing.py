"""Figures of a model and of baselines on the same items, with intervals and paired comparisons.

A figure is a function of sums over items: of hits, of n-grams, of bins. So one bootstrap (Efron 1979; paired
as in Koehn 2004) serves all of them: every draw takes the same items, with replacement, for every system.

N items, K columns of a measure, D draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError
from weft.eval.compare import Comparison, Estimate

Floats = npt.NDArray[np.float64]
Unit = Literal["share", "points", "plain"]

MODEL = "model"
"""The system that the others are baselines of."""

_BLOCK = 64
"""Draws that are weighed at once."""


@dataclass(frozen=True)
class Measure:
    """A figure of one system: ``of`` turns sums float64 [D, K] of ``columns`` [N, K] into float64 [D].

    ``unit``: a share from 0 to 1, points from 0 to 100, or a plain number. ``lower``: less is better.
    """

    name: str
    columns: Floats
    of: Callable[[Floats], Floats]
    unit: Unit = "share"
    lower: bool = False


def mean(name: str, values: Floats, unit: Unit = "share") -> Measure:
    """The mean of ``values`` float64 [N]."""
    return quotient(name, values, np.ones(len(values)), unit)


def quotient(name: str, amounts: Floats, sizes: Floats, unit: Unit = "share") -> Measure:
    """``sum(amounts) / sum(sizes)``, both float64 [N]; 0 of nothing is 0."""
    return Measure(name, np.stack([amounts, sizes], axis=1), _quotient, unit)


def standing(
    systems: Mapping[str, Sequence[Measure]], *, seed: int = 0, draws: int = 2000
) -> list[dict[str, Any]]:
    """Each figure of the :data:`MODEL`, and beside it those of the baselines that have it.

    A row has ``name``, ``unit``, ``lower``, ``model`` and ``baselines`` (estimates with 95 % intervals), and,
    where there is a baseline, ``best_baseline`` and ``model_minus_best``, the paired comparison with it.
    DataError without items, or for systems of other items.
    """
    measures = {(system, one.name): one for system, found in systems.items() for one in found}
    drawn = _drawn(list(measures.values()), seed, draws)
    values = dict(zip(measures, drawn, strict=True))
    rows = []
    for one in systems[MODEL]:
        rivals = {name: values[name, one.name] for name in systems if (name, one.name) in values}
        rows.append(_row(one, rivals.pop(MODEL), rivals))
    return rows


def _row(one: Measure, model: Floats, rivals: Mapping[str, Floats]) -> dict[str, Any]:
    """A figure; the first of the values of each system is that of all items, the others are draws."""
    row: dict[str, Any] = {"name": one.name, "unit": one.unit, "lower": one.lower}
    row |= {"model": asdict(_estimate(model))}
    row["baselines"] = {name: asdict(_estimate(found)) for name, found in rivals.items()}
    if rivals:
        best = (min if one.lower else max)(rivals, key=lambda name: float(rivals[name][0]))
        difference = model - rivals[best]
        compared = Comparison(_estimate(difference), float((difference[1:] < 0).mean()))
        row |= {"best_baseline": best, "model_minus_best": asdict(compared)}
    return row


def _estimate(values: Floats) -> Estimate:
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return Estimate(float(values[0]), float(low), float(high))


def _drawn(measures: Sequence[Measure], seed: int, draws: int) -> list[Floats]:
    """float64 [1 + D] of each measure: of all items, then of each draw of them."""
    items = {len(one.columns) for one in measures}
    if len(items) != 1 or not min(items):
        raise DataError("Figures stand beside each other on the same items, at least one; give equal lists.")
    table = np.concatenate([one.columns for one in measures], axis=1)
    sums = np.concatenate([table.sum(axis=0, keepdims=True), _sums(table, seed, draws)])
    ends = np.cumsum([one.columns.shape[1] for one in measures])
    return [
        one.of(sums[:, stop - one.columns.shape[1] : stop]) for one, stop in zip(measures, ends, strict=True)
    ]


def _sums(table: Floats, seed: int, draws: int) -> Floats:
    """float64 [D, columns]: sums over N items drawn with replacement."""
    generator = np.random.default_rng(seed)
    size, found = len(table), np.empty((draws, table.shape[1]))
    for first in range(0, draws, _BLOCK):
        block = min(_BLOCK, draws - first)
        # How often each item is drawn; multiplying is faster than gathering.
        times = np.stack(
            [np.bincount(generator.integers(0, size, size), minlength=size) for _ in range(block)]
        )
        found[first : first + block] = times.astype(np.float64) @ table
    return found


def _quotient(sums: Floats) -> Floats:
    found: Floats = sums[:, 0] / np.where(sums[:, 1] > 0, sums[:, 1], 1.0)
    return found
