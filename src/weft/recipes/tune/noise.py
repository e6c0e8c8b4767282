"""The critical batch size, from the noise of gradients (McCandlish et al., arXiv:1812.06162).

With b and B targets behind a small and a large gradient, |G|^2 = (B |G_B|^2 - b |G_b|^2) / (B - b) and
tr(S) = (|G_b|^2 - |G_B|^2) / (1/b - 1/B); their ratio tr(S) / |G|^2 is the number of targets at which the
noise of a batch is as large as the gradient. Below it twice the batch saves almost half of the steps, above
it almost none. Both are averaged over steps before they are divided (appendix A.1 there). The theory is of
plain gradient descent; under Adam or Muon the number is a guide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from weft.parallel import gradients
from weft.parallel.model import ParallelModel
from weft.recipes.tune.workbench import Workbench
from weft.train import dial
from weft.train.objectives.base import AnyBatch
from weft.train.schedule import factor

DECAY = 0.9
"""Of the running averages of both estimates."""


@dataclass(frozen=True)
class Noise:
    """``steps`` and the noise scale in targets after each (NaN where the estimate is not positive)."""

    steps: tuple[int, ...]
    scales: tuple[float, ...]

    @property
    def last(self) -> float:
        """The newest sound estimate; NaN without one."""
        return next((scale for scale in reversed(self.scales) if math.isfinite(scale)), math.nan)


def noise_scale(bench: Workbench, steps: int, say: Callable[[str], None]) -> Noise:
    """Train ``steps`` steps of 8 micro-batches and measure the noise on the way."""
    length = bench.length
    micro = max(1, 512 // length)
    model = bench.model()
    rate = bench.run.optimizer.learning_rate or dial.learning_rate(model.config.hidden_size)
    step = bench.step(model, rate)
    signal, variance = 0.0, 0.0
    found: list[float] = []
    for index in range(steps):
        batches = bench.batches(index, 8 * micro, micro)
        small, large, b, B = gradient_norms(bench, model, batches)
        signal = DECAY * signal + (1 - DECAY) * (B * large - b * small) / (B - b)
        variance = DECAY * variance + (1 - DECAY) * (small - large) / (1 / b - 1 / B)
        found.append(variance / signal if signal > 0 and variance > 0 else math.nan)
        step.model.clip(bench.run.train.clip)
        step.optimizer.step(factor(index, steps * 10, bench.run.optimizer))
        if (index + 1) % max(1, steps // 5) == 0:
            say(f"  step {index + 1}: noise scale {found[-1]:,.0f} targets")
    return Noise(tuple(range(1, steps + 1)), tuple(found))


def gradient_norms(
    bench: Workbench, model: ParallelModel, batches: list[AnyBatch]
) -> tuple[float, float, float, float]:
    """Mean squared norm of the micro-batches' gradients, that of all together, and the targets of each.

    Leaves the gradient of all together, the mean over its targets, in the model.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = [torch.zeros_like(p) for p in parameters]
    counts = [max(1, batch.target_count) for batch in batches]
    squares = []
    for batch, count in zip(batches, counts, strict=True):
        model.accumulate(bench.objective, [batch], 1.0 / count, bench.arithmetic.dtype)
        squares.append(gradients.norm(parameters, model.mesh) ** 2)
        for whole, parameter in zip(total, parameters, strict=True):
            assert parameter.grad is not None
            whole.add_(parameter.grad, alpha=count / sum(counts))
            parameter.grad = None
    for whole, parameter in zip(total, parameters, strict=True):
        parameter.grad = whole
    large = gradients.norm(parameters, model.mesh) ** 2
    return sum(squares) / len(squares), large, sum(counts) / len(counts), float(sum(counts))


def batch_tokens(scale: float, length: int) -> int:
    """The batch in positions nearest to a noise scale: whole rows, a power of two of them."""
    rows = 2 ** max(0, round(math.log2(max(scale, 1.0) / length)))
    return int(rows) * length
