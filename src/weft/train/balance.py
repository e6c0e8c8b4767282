"""Experts kept evenly loaded without an auxiliary loss (arXiv:2408.15664; DeepSeek-V3, arXiv:2412.19437).

Each router adds a bias to the scores of its experts when it chooses, and only then. After a step the bias of
an expert that got less than the mean load goes up by ``rate``, that of one that got more goes down. No
gradient is bent, as the usual loss on the load does.

The stock architecture has no such bias. So it fades before the end of the run (``release``), while the
weights still learn, and validation is always done without it: what is measured and written is what
transformers computes. The load is that of all ranks, so that every layout takes the same decisions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from weft.models.moe import routers
from weft.train.config import BalanceSection


@dataclass(frozen=True)
class Load:
    """Rows that each expert got in a step, over all ranks: int64 [X] by the name of its router."""

    rows: dict[str, Tensor]

    @property
    def imbalance(self) -> float:
        """The worst layer's largest load over the mean load, minus 1 (MaxVio of arXiv:2408.15664)."""
        return max((self._largest(rows) for rows in self.rows.values()), default=0.0)

    @property
    def shares(self) -> dict[str, list[float]]:
        """Each expert's share of the rows of its layer."""
        return {
            name: [round(share, 4) for share in (rows / max(int(rows.sum()), 1)).tolist()]
            for name, rows in self.rows.items()
        }

    @staticmethod
    def _largest(rows: Tensor) -> float:
        return float(rows.max() * len(rows) / max(int(rows.sum()), 1)) - 1.0


class Balance:
    """Steers the routers of ``model`` over a run of ``steps``.

    ``total`` sums an int64 tensor over all ranks that route different tokens of the same layers.
    """

    def __init__(
        self,
        model: nn.Module,
        section: BalanceSection,
        steps: int,
        total: Callable[[Tensor], Tensor] = lambda load: load,
    ):
        self.routers, self.rate, self._total = routers(model), section.rate, total
        self.load = Load({})
        self.fade = round(steps * (1.0 - section.release))
        self.end = round(steps * (1.0 - section.release / 2))

    @torch.no_grad()
    def after_step(self, finished: int) -> None:
        """Move the biases after step number ``finished`` (from 1), note the load, start counting anew."""
        if not self.routers:
            return
        total = self._total(torch.stack([router.load for router in self.routers.values()]))
        for router, load in zip(self.routers.values(), total, strict=True):
            self._move(router.bias, load, finished)
            router.load.zero_()
        self.load = Load(dict(zip(self.routers, total, strict=True)))

    def drop(self) -> float:
        """Set the biases to 0, whatever they are, and return the largest."""
        largest = max((float(router.bias.abs().max()) for router in self.routers.values()), default=0.0)
        for router in self.routers.values():
            router.bias.zero_()
        return largest

    def _move(self, bias: Tensor, load: Tensor, finished: int) -> None:
        if finished <= self.fade:
            # In whole numbers: load < mean is X * load < sum.
            bias.add_((load.sum() - len(load) * load).sign(), alpha=self.rate)
        elif finished >= self.end:
            bias.zero_()
        else:
            bias.mul_((self.end - finished) / (self.end - finished + 1))
