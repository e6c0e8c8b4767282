"""Odds ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691).

B rows, T positions, E model width, P pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.data.batch import Batch
from weft.models import Decoder
from weft.parallel.rows import Rows
from weft.train.objectives.base import Kind
from weft.train.objectives.preferences import Rewards, likelihoods, pairs

_SUREST = -1e-6
"""The highest log probability of a token whose odds are told apart from certainty."""


class ORPO:
    """Cross entropy of the chosen answer by the token, and ``beta`` times -log sigmoid of the log odds ratio
    of chosen to rejected (equations 6 to 8). No reference is needed.

    The odds are those of the answers' probabilities by the token. In validation the reward of an answer is
    ``beta`` times its log probability by the token.
    """

    kind: Kind = "decoder"

    def __init__(self, beta: float = 0.1):
        self.beta = beta
        self._rewards = Rewards()

    def count(self, batch: Batch) -> int:
        """Pairs."""
        return pairs(batch)

    def figures(self) -> dict[str, float]:
        """See :class:`weft.train.objectives.preferences.Rewards`."""
        return self._rewards.take()

    def loss(self, model: Decoder, rows: Rows, scale: float, dtype: torch.dtype) -> Tensor:
        """fp32 scalar: ``scale`` times the summed loss of the pairs; matrix work in ``dtype``."""
        return self.score(model, model(rows.tokens, rows.context, dtype), rows, scale)

    def score(self, model: Decoder, hidden_BTE: Tensor, rows: Rows, scale: float) -> Tensor:
        """The loss from final hidden states [B, T, E]."""
        means_P2 = likelihoods(model, hidden_BTE, rows).means
        if not model.training:
            self._rewards.note(self.beta * means_P2)
        odds_P2 = log_odds(means_P2)
        apart_P = F.logsigmoid(odds_P2[:, 0] - odds_P2[:, 1])
        return -(means_P2[:, 0] + self.beta * apart_P).sum() * scale


def log_odds(logs: Tensor) -> Tensor:
    """log(p / (1 - p)) from log p."""
    return logs - torch.log(-torch.expm1(logs.clamp(max=_SUREST)))
