"""A short measurement of this machine's training speed at a few sizes, from which any size is foretold."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass

import torch

from weft.checkpoint.kinds import KINDS, Config
from weft.parallel.model import ParallelModel
from weft.train.config import OptimizerSection
from weft.train.objectives.base import AnyBatch, Objective
from weft.train.optim import Optimizer


@dataclass(frozen=True)
class Measurement:
    """One size: model width, parameters, FLOP/s of forward and backward, seconds of an update."""

    width: int
    parameters: int
    rate: float
    update_seconds: float


@dataclass(frozen=True)
class Speed:
    """What was measured, smallest size first, and how long that took."""

    measurements: tuple[Measurement, ...]
    seconds: float

    def step_seconds(self, config: Config, tokens: int, context: int) -> float:
        """Foretold seconds of a step of ``tokens`` positions: log-log interpolation between sizes."""
        points = self.measurements
        rate = _interpolate([(m.width, m.rate) for m in points], config.hidden_size)
        update = _interpolate([(m.parameters, m.update_seconds) for m in points], config.parameters)
        return tokens * config.flops_per_token(context) / rate + update


def measure(
    configs: list[Config],
    batch: AnyBatch,
    objective: Objective,
    optimizer: OptimizerSection,
    dtype: torch.dtype,
    device: torch.device,
    limit: float,
) -> Speed:
    """Time the sizes in turn, smallest first, as long as ``limit`` seconds allow (at least one).

    A size is left out when the one before foretells that it would not fit into what is left.
    """
    started = time.perf_counter()
    points: list[Measurement] = []
    for config in configs:
        left = limit - (time.perf_counter() - started)
        if points:
            last = points[-1]
            work = batch.tokens.size * config.flops_per_token(batch.tokens.shape[1])
            foretold = 2 * work / last.rate + 2 * last.update_seconds * config.parameters / last.parameters
            if 1.5 * foretold > left:
                break
        points.append(_time_size(config, batch, objective, optimizer, dtype, device))
    return Speed(tuple(points), time.perf_counter() - started)


def _time_size(
    config: Config,
    batch: AnyBatch,
    objective: Objective,
    section: OptimizerSection,
    dtype: torch.dtype,
    device: torch.device,
) -> Measurement:
    with torch.device(device):
        model = KINDS[config.architecture].build(config)
    model.initialise(torch.Generator(device).manual_seed(0))
    optimizer = Optimizer(model, section, 1e-6)
    rows = ParallelModel.alone(model).rows(batch)
    work, update = math.inf, math.inf
    # The first round warms caches and the allocator up; the best of the rest is the machine's speed.
    for _ in range(3):
        begun = time.perf_counter()
        objective.loss(model, rows, 1.0 / max(objective.count(batch), 1), dtype).backward()  # type: ignore[no-untyped-call]
        _wait(device)
        between = time.perf_counter()
        optimizer.step(1.0)
        _wait(device)
        work = min(work, between - begun)
        update = min(update, time.perf_counter() - between)
    flops = batch.tokens.size * config.flops_per_token(batch.tokens.shape[1])
    return Measurement(config.hidden_size, config.parameters, flops / work, update)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _interpolate(points: list[tuple[int, float]], x: int) -> float:
    """Log-log through the two nearest points, continued beyond the ends; a single point is a constant."""
    if len(points) == 1:
        return points[0][1]
    pairs = list(itertools.pairwise(points))
    (x0, y0), (x1, y1) = next((pair for pair in pairs if x <= pair[1][0]), pairs[-1])
    slope = math.log(y1 / y0) / math.log(x1 / x0)
    return float(y0 * (x / x0) ** slope)
