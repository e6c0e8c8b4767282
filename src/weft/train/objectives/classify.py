"""One label a document: sentiment, topics, any classes.

N documents of a batch, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.data.batch import IGNORED, Batch
from weft.models.encoder import Encoder
from weft.parallel.rows import SeenRows
from weft.train.objectives.base import Kind


class Classify:
    """Cross entropy of the label of each document, in nats.

    The target of a document stands at its first token. ``weights`` fp32 [C] weigh the classes (None: all
    alike); ``smoothing`` gives that share of each target to all classes (arXiv:1512.00567), in training only.
    """

    kind: Kind = "encoder"

    def __init__(self, smoothing: float = 0.0, weights: Tensor | None = None):
        self.smoothing, self.weights = smoothing, weights
        self._right = 0

    def count(self, batch: Batch) -> int:
        """Documents with a label."""
        return batch.target_count

    def loss(self, model: Encoder, rows: SeenRows, scale: float, dtype: torch.dtype) -> Tensor:
        """fp32 scalar: ``scale`` times the summed cross entropy; matrix work in ``dtype``."""
        return self.score(model, model(rows.tokens, rows.context, dtype), rows, scale)

    def score(self, model: Encoder, hidden_BTE: Tensor, rows: SeenRows, scale: float) -> Tensor:
        """The loss from final hidden states [B, T, E]."""
        flat = rows.targets.flatten()
        first_N = (flat != IGNORED).nonzero().squeeze(1)
        if not len(first_N):
            return hidden_BTE.sum().float() * 0.0
        scores_NC = model.classify(hidden_BTE, rows.context, first_N).float()
        if not model.training:
            self._right += int((scores_NC.argmax(1) == flat[first_N]).sum())
        smoothing = self.smoothing if model.training else 0.0
        weights = None if self.weights is None else self.weights.to(scores_NC.device)
        total = F.cross_entropy(
            scores_NC, flat[first_N], weight=weights, label_smoothing=smoothing, reduction="sum"
        )
        return total * scale

    def figures(self) -> dict[str, float]:
        """Validation documents whose best label is theirs, since the last call."""
        found, self._right = self._right, 0
        return {"validation_accuracy": float(found)}
