"""Learning-rate schedules as a factor of the peak rate, a pure function of the step."""

from __future__ import annotations

import math

from weft.train.config import OptimizerSection


def factor(step: int, steps: int, config: OptimizerSection) -> float:
    """The factor for step ``step`` (from 0) of ``steps``.

    All schedules warm up linearly. ``wsd`` stays at the peak and falls linearly over the last
    ``decay_share`` of the steps (MiniCPM, arXiv:2404.06395); ``cosine`` falls along half a cosine
    (arXiv:1608.03983); both end at ``final_share``.
    """
    warmup = config.warmup_steps or 0
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "cosine":
        progress = (step - warmup) / max(steps - warmup, 1)
        return config.final_share + (1 - config.final_share) * (1 + math.cos(math.pi * progress)) / 2
    decay = max(round(steps * config.decay_share), 1)
    left = min((steps - step) / decay, 1.0)
    return config.final_share + (1 - config.final_share) * left
