"""What the objectives of preferences have in common: the probability of whole answers.

B rows, T positions, E model width, N targets of a batch, P pairs of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from weft.data.batch import IGNORED, Batch
from weft.models import Decoder
from weft.ops.likelihood import log_probabilities
from weft.ops.local import local
from weft.parallel.rows import Rows
from weft.train.objectives.frozen import packed


@dataclass(frozen=True)
class Likelihoods:
    """Log probabilities in nats and tokens of the answers, fp32 [P, 2] each: chosen, rejected."""

    sums: Tensor
    tokens: Tensor

    @property
    def means(self) -> Tensor:
        """fp32 [P, 2]: by the token."""
        return self.sums / self.tokens


def likelihoods(model: Decoder, hidden_BTE: Tensor, rows: Rows) -> Likelihoods:
    """Of each pair in packed rows, from the final hidden states."""
    B, T = rows.targets.shape
    kept_BT = rows.targets != IGNORED
    line = torch.arange(B, device=kept_BT.device).unsqueeze(1) * T
    document_N = (line + packed(rows).document_start.long())[kept_BT]
    logs_N = log_probabilities(hidden_BTE[kept_BT], local(model.output.weight), rows.targets[kept_BT])
    found, number_N, tokens = torch.unique_consecutive(document_N, return_inverse=True, return_counts=True)
    # Differences of long sums are what counts, and on a GPU the order of the sum is not fixed.
    sums = logs_N.new_zeros(len(found), dtype=torch.float64).index_add(0, number_N, logs_N.double())
    return Likelihoods(sums.float().view(-1, 2), tokens.float().view(-1, 2))


def pairs(batch: Batch) -> int:
    """Pairs of a batch of packed rows: half of its documents with targets."""
    kept = batch.targets != IGNORED
    rows = np.arange(len(kept))[:, None] * kept.shape[1]
    return len(np.unique((rows + batch.document_start)[kept])) // 2


class Rewards:
    """How far validation tells the chosen answers from the rejected ones.

    ``reward_accuracy``: share of the pairs whose chosen answer has the larger reward, equal ones counting
    half. ``reward_margin``: the rewards' mean difference, ``reward_chosen`` and ``reward_rejected`` their
    means.
    """

    NAMES = ("reward_accuracy", "reward_margin", "reward_chosen", "reward_rejected")

    def __init__(self) -> None:
        self._sums = [0.0] * 4

    def note(self, rewards_P2: Tensor) -> None:
        """The rewards of both answers of each pair."""
        chosen, rejected = rewards_P2.double().unbind(1)
        margin = chosen - rejected
        right = (margin.sign() + 1.0) / 2.0
        found = torch.stack([right.sum(), margin.sum(), chosen.sum(), rejected.sum()]).tolist()
        self._sums = [before + more for before, more in zip(self._sums, found, strict=True)]

    def take(self) -> dict[str, float]:
        """The sums since the last call."""
        sums, self._sums = self._sums, [0.0] * 4
        return dict(zip(self.NAMES, sums, strict=True))
