"""Vectors for retrieval: a query lies nearer to its own positive than to those of the other queries.

B rows, T positions, E model width, P pairs of a micro-batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.data.batch import IGNORED, Batch
from weft.models.encoder import Encoder
from weft.models.heads import pool
from weft.parallel.rows import SeenRows
from weft.train.objectives.base import Kind


class Contrastive:
    """InfoNCE (van den Oord et al. 2018, arXiv:1807.03748) with the other pairs of the micro-batch as
    negatives (Henderson et al. 2017, arXiv:1705.00652), in nats.

    Vectors are mean hidden states of length 1, as :meth:`weft.engine.reader.Reader.vectors` has them; their
    products divided by ``temperature`` are the scores. The loss of a pair is the mean of two cross entropies:
    of its positive among all positives, and of its query among all queries. Pairs that share a text are no
    negatives of each other. A pair that is alone in its micro-batch has the loss 0 and teaches nothing.
    Ranks do not see each other's pairs: validation is easier the more data ranks share its rows.
    """

    kind: Kind = "encoder"

    def __init__(self, temperature: float = 0.05):
        self.temperature = temperature
        self._right = 0

    def count(self, batch: Batch) -> int:
        """Pairs."""
        return batch.target_count // 2

    def loss(self, model: Encoder, rows: SeenRows, scale: float, dtype: torch.dtype) -> Tensor:
        """fp32 scalar: ``scale`` times the summed loss of the pairs; matrix work in ``dtype``."""
        return self.score(model, model(rows.tokens, rows.context, dtype), rows, scale)

    def score(self, model: Encoder, hidden_BTE: Tensor, rows: SeenRows, scale: float) -> Tensor:
        """The loss from final hidden states [B, T, E]."""
        flat = rows.targets.flatten()
        first = (flat != IGNORED).nonzero().squeeze(1)
        if not len(first):
            return hidden_BTE.sum().float() * 0.0
        pooled = pool(hidden_BTE.float(), rows.context.start, rows.context.end, first, "mean")
        query_PE, positive_PE = F.normalize(pooled, dim=1).view(-1, 2, pooled.shape[1]).unbind(1)
        scores_PP = query_PE @ positive_PE.T / self.temperature
        scores_PP = scores_PP.masked_fill(shared(flat[first].view(-1, 2)), float("-inf"))
        own_P = torch.arange(len(scores_PP), device=scores_PP.device)
        if not model.training:
            self._right += int((scores_PP.argmax(1) == own_P).sum())
        both = (F.cross_entropy(scores, own_P, reduction="sum") for scores in (scores_PP, scores_PP.T))
        return sum(both, hidden_BTE.new_zeros((), dtype=torch.float32)) * (0.5 * scale)

    def figures(self) -> dict[str, float]:
        """Validation queries whose own positive is the nearest of the micro-batch, since the last call."""
        found, self._right = self._right, 0
        return {"validation_accuracy": float(found)}


def shared(texts_P2: Tensor) -> Tensor:
    """bool [P, P]: different pairs with an equal query or an equal positive, from the numbers of texts."""
    same = (texts_P2.unsqueeze(0) == texts_P2.unsqueeze(1)).any(2)
    return same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
