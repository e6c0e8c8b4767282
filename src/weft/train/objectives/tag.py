"""One label a token: named entities, semantic roles, any spans written as BIO.

B rows, T positions, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.data.batch import IGNORED, Batch
from weft.models.encoder import Encoder
from weft.parallel.rows import SeenRows
from weft.train.objectives.base import Kind


class Tag:
    """Cross entropy of the label of each token in nats, or the likelihood of whole sequences of labels where
    the model has a CRF."""

    kind: Kind = "encoder"

    def __init__(self, smoothing: float = 0.0):
        self.smoothing = smoothing
        self._right = 0

    def count(self, batch: Batch) -> int:
        """Tokens with a label."""
        return batch.target_count

    def loss(self, model: Encoder, rows: SeenRows, scale: float, dtype: torch.dtype) -> Tensor:
        """fp32 scalar: ``scale`` times the summed loss; matrix work in ``dtype``."""
        return self.score(model, model(rows.tokens, rows.context, dtype), rows, scale)

    def score(self, model: Encoder, hidden_BTE: Tensor, rows: SeenRows, scale: float) -> Tensor:
        """The loss from final hidden states [B, T, E]."""
        kept = rows.targets != IGNORED
        scores_BTC = model.logits(hidden_BTE).float()
        if not model.training:
            self._right += int((scores_BTC[kept].argmax(-1) == rows.targets[kept]).sum())
        if model.crf is not None:
            return model.crf.loss(scores_BTC, rows.targets, rows.context.start) * scale
        smoothing = self.smoothing if model.training else 0.0
        total = F.cross_entropy(
            scores_BTC[kept], rows.targets[kept], label_smoothing=smoothing, reduction="sum"
        )
        return total * scale

    def figures(self) -> dict[str, float]:
        """Validation tokens whose own best class is theirs, since the last call."""
        found, self._right = self._right, 0
        return {"validation_accuracy": float(found)}
