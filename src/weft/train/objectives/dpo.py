"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290).

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
from weft.train.objectives.frozen import Frozen, adapters, without
from weft.train.objectives.preferences import Likelihoods, Rewards, likelihoods, pairs


class DPO:
    """-log sigmoid of the difference of the rewards of both answers (equation 7).

    The reward of an answer is ``beta`` times the log of how much likelier the model finds it than
    ``reference`` does. With adapters the reference is the model without them, and no other is read.
    ``smoothing`` is the share of pairs that are taken to be the wrong way round (conservative DPO), in
    training only.
    """

    kind: Kind = "decoder"

    def __init__(self, reference: Frozen, beta: float = 0.1, smoothing: float = 0.0):
        self.reference, self.beta, self.smoothing = reference, beta, smoothing
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
        before = self._before(model, rows, hidden_BTE.dtype)
        rewards_P2 = self.beta * (likelihoods(model, hidden_BTE, rows).sums - before.sums)
        if not model.training:
            self._rewards.note(rewards_P2)
        margin_P = rewards_P2[:, 0] - rewards_P2[:, 1]
        wrong = self.smoothing if model.training else 0.0
        losses_P = -(1.0 - wrong) * F.logsigmoid(margin_P)
        if wrong:
            losses_P = losses_P - wrong * F.logsigmoid(-margin_P)
        return losses_P.sum() * scale

    @torch.no_grad()
    def _before(self, model: Decoder, rows: Rows, dtype: torch.dtype) -> Likelihoods:
        beside = adapters(model)
        if beside:
            with without(beside):
                return likelihoods(model, model(rows.tokens, rows.context, dtype), rows)
        frozen = self.reference.model(rows.tokens.device, dtype)
        return likelihoods(frozen, self.reference.hidden(rows, dtype), rows)
