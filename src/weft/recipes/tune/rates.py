"""The learning rate: a range test, then short whole runs at the rates around what it shows.

A range test (arXiv:1506.01186) raises the rate each step until the loss blows up. The steepest fall and
the lowest point say about where a good rate is, not which it is: that is decided by short runs with the
run's own schedule, each from the same weights, by validation loss. With ``width`` all of it happens on a
narrow model, and muP carries the rate over (:mod:`weft.train.transfer`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from weft.core.errors import TrainingError
from weft.recipes.tune.workbench import Workbench
from weft.train.schedule import factor

LOW, HIGH = 1e-5, 1.0
BLOWN = 1.5
"""A smoothed loss so many times its lowest ends the range test."""
SMOOTH = 0.85


@dataclass(frozen=True)
class RangeTest:
    """Rates, the loss at each, and its running average."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smooth: tuple[float, ...]

    @property
    def lowest(self) -> float:
        """The rate with the lowest smoothed loss."""
        return self.rates[min(range(len(self.rates)), key=self.smooth.__getitem__)]


@dataclass(frozen=True)
class RateChoice:
    """The range test, validation losses of the short runs by rate, the chosen rate and their length."""

    test: RangeTest
    runs: dict[float, float]
    chosen: float
    steps: int
    width: int


def range_test(
    bench: Workbench, steps: int, batch_rows: int, micro_rows: int, width: int | None
) -> RangeTest:
    """Raise the rate from 1e-5 to 1 over ``steps`` steps, geometrically; a loss that blows up ends it."""
    step = bench.step(bench.model(width), HIGH)
    rates: list[float] = []
    losses: list[float] = []
    smooth: list[float] = []
    for index in range(steps):
        rate = LOW * (HIGH / LOW) ** (index / max(1, steps - 1))
        try:
            loss = step.run(bench.batches(index, batch_rows, micro_rows), rate / HIGH).loss
        except TrainingError:
            break
        rates.append(rate)
        losses.append(loss)
        before = smooth[-1] if smooth else loss
        smooth.append(SMOOTH * before + (1 - SMOOTH) * loss)
        if smooth[-1] > BLOWN * min(smooth):
            break
    if not rates:
        raise TrainingError("The loss was not finite at any learning rate; look at the data and the model.")
    return RangeTest(tuple(rates), tuple(losses), tuple(smooth))


def best_rate(
    bench: Workbench,
    say: Callable[[str], None],
    *,
    test_steps: int = 100,
    run_steps: int = 60,
    batch_rows: int,
    micro_rows: int,
    width: int | None = None,
    validate_rows: int = 64,
) -> RateChoice:
    """Range test, then runs at 1/8, 1/4, 1/2 and 1 times the rate of the lowest loss, on until one is inside.

    The best of the runs is chosen; when it is at an end of those tried, the next rate beyond is tried too.
    """
    test = range_test(bench, test_steps, batch_rows, micro_rows, width)
    say(f"  range test: lowest smoothed loss at {test.lowest:.2g}, {len(test.rates)} rates")
    runs: dict[float, float] = {}

    def run(rate: float) -> None:
        runs[rate] = _short_run(bench, rate, run_steps, batch_rows, micro_rows, width, validate_rows)
        say(f"  {rate:.2g}: validation loss {runs[rate]:.4f} after {run_steps} steps")

    for share in (8, 4, 2, 1):
        run(_round(test.lowest / share))
    for _ in range(3):
        best = min(runs, key=runs.__getitem__)
        if best == min(runs):
            run(_round(best / 2))
        elif best == max(runs):
            run(_round(best * 2))
        else:
            break
    best = min(runs, key=runs.__getitem__)
    shape = bench.model(width).config
    return RateChoice(test, dict(sorted(runs.items())), best, run_steps, shape.hidden_size)


def _short_run(
    bench: Workbench,
    rate: float,
    steps: int,
    batch_rows: int,
    micro_rows: int,
    width: int | None,
    validate_rows: int,
) -> float:
    """Validation loss after a whole run of ``steps`` steps; infinite when it blows up."""
    model = bench.model(width)
    step = bench.step(model, rate)
    schedule = dataclasses.replace(bench.run.optimizer, warmup_steps=max(1, steps // 20))
    for index in range(steps):
        try:
            step.run(bench.batches(index, batch_rows, micro_rows), factor(index, steps, schedule))
        except TrainingError:
            return math.inf
    return bench.validate(model, validate_rows)


def _round(rate: float) -> float:
    """Two digits say what was measured."""
    return float(f"{rate:.2g}")
