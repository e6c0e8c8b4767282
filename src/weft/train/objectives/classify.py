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
    With ``agreement`` every document is read twice in training, under two draws of dropout: the loss is the
    mean of the two, plus ``agreement`` times the mean of both divergences of one prediction from the other
    (R-Drop, arXiv:2106.14448, whose alpha is twice that, for it adds the two losses up).
    """

    kind: Kind = "encoder"

    def __init__(self, smoothing: float = 0.0, weights: Tensor | None = None, agreement: float = 0.0):
        self.smoothing, self.weights, self.agreement = smoothing, weights, agreement
        self._right = 0

    def count(self, batch: Batch) -> int:
        """Documents with a label."""
        return batch.target_count

    def loss(self, model: Encoder, rows: SeenRows, scale: float, dtype: torch.dtype) -> Tensor:
        """fp32 scalar: ``scale`` times the summed cross entropy; matrix work in ``dtype``."""
        hidden_BTE = model(rows.tokens, rows.context, dtype)
        first_N = _first(rows)
        if not (self.agreement and model.training and len(first_N)):
            return self.score(model, hidden_BTE, rows, scale)
        targets_N = rows.targets.flatten()[first_N]
        again_BTE = model(rows.tokens, rows.context, dtype)
        one_NC, other_NC = (
            model.classify(seen_BTE, rows.context, first_N).float() for seen_BTE in (hidden_BTE, again_BTE)
        )
        wrong = self._entropy(one_NC, targets_N, True) + self._entropy(other_NC, targets_N, True)
        return (wrong / 2 + self.agreement * divergence(one_NC, other_NC)) * scale

    def score(self, model: Encoder, hidden_BTE: Tensor, rows: SeenRows, scale: float) -> Tensor:
        """The loss from final hidden states [B, T, E]."""
        first_N = _first(rows)
        if not len(first_N):
            return hidden_BTE.sum().float() * 0.0
        targets_N = rows.targets.flatten()[first_N]
        scores_NC = model.classify(hidden_BTE, rows.context, first_N).float()
        if not model.training:
            self._right += int((scores_NC.argmax(1) == targets_N).sum())
        return self._entropy(scores_NC, targets_N, model.training) * scale

    def _entropy(self, scores_NC: Tensor, targets_N: Tensor, training: bool) -> Tensor:
        weights = None if self.weights is None else self.weights.to(scores_NC.device)
        smoothing = self.smoothing if training else 0.0
        return F.cross_entropy(
            scores_NC, targets_N, weight=weights, label_smoothing=smoothing, reduction="sum"
        )

    def figures(self) -> dict[str, float]:
        """Validation documents whose best label is theirs, since the last call."""
        found, self._right = self._right, 0
        return {"validation_accuracy": float(found)}


def _first(rows: SeenRows) -> Tensor:
    """Where the documents with a label begin, among all positions of the rows: int64 [N]."""
    return (rows.targets.flatten() != IGNORED).nonzero().squeeze(1)


def divergence(one_NC: Tensor, other_NC: Tensor) -> Tensor:
    """fp32 scalar in nats: the mean of KL(one || other) and KL(other || one), summed over the documents."""
    one_NC, other_NC = one_NC.log_softmax(1), other_NC.log_softmax(1)
    return ((one_NC.exp() - other_NC.exp()) * (one_NC - other_NC)).sum() / 2
