"""Where an answer begins and ends in its document, or that it is not there.

B rows, T positions, N documents of a batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from weft.data.batch import Batch
from weft.data.forms.span import END, START
from weft.models.encoder import Encoder
from weft.parallel.rows import SeenRows
from weft.train.objectives.base import Kind


class Extract:
    """Cross entropy of the first and of the last token of the answer, in nats, over the tokens of a document
    (BERT, arXiv:1810.04805, section 4.2)."""

    kind: Kind = "encoder"

    def count(self, batch: Batch) -> int:
        """Documents, each of which has one answer."""
        return int(((batch.targets > 0) & (batch.targets & START > 0)).sum())

    def loss(self, model: Encoder, rows: SeenRows, scale: float, dtype: torch.dtype) -> Tensor:
        """fp32 scalar: ``scale`` times the summed loss of both ends; matrix work in ``dtype``."""
        return self.score(model, model(rows.tokens, rows.context, dtype), rows, scale)

    def score(self, model: Encoder, hidden_BTE: Tensor, rows: SeenRows, scale: float) -> Tensor:
        """The loss from final hidden states [B, T, E]."""
        B, T = rows.targets.shape
        scores_BT2 = model.logits(hidden_BTE).float()
        row = torch.arange(B, device=rows.targets.device).unsqueeze(1) * T
        document_BT = row + rows.context.start.long()
        possible = rows.targets >= 0
        document, targets, scores = document_BT[possible], rows.targets[possible], scores_BT2[possible]
        total = hidden_BTE.new_zeros((), dtype=torch.float32)
        for column, bit in enumerate((START, END)):
            whole = _log_sums(scores[:, column], document, B * T)
            hit = (targets & bit) > 0
            total = total + (whole[document[hit]] - scores[hit, column]).sum()
        return total * (0.5 * scale)


def _log_sums(scores: Tensor, document: Tensor, most: int) -> Tensor:
    """fp32 [most]: the logarithm of the summed exponentials of the scores of each document."""
    highest = scores.new_full((most,), float("-inf")).scatter_reduce(0, document, scores.detach(), "amax")
    sums = scores.new_zeros(most).index_add(0, document, (scores - highest[document]).exp())
    return highest + sums.clamp(min=float(np.finfo(np.float32).tiny)).log()
