"""A target text from a source text: translation, summaries, spans that were cut out."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.data.batch import IGNORED, PairBatch
from weft.models.encdec import EncoderDecoder
from weft.parallel.rows import PairRows
from weft.train.objectives.base import Kind


class Translate:
    """Cross entropy of the target's tokens given the source, in nats.

    ``smoothing`` gives that share of each target to the whole vocabulary (arXiv:1512.00567), in training
    only: what validation prints is the plain cross entropy.
    """

    kind: Kind = "encdec"

    def __init__(self, smoothing: float = 0.0):
        self.smoothing = smoothing

    def count(self, batch: PairBatch) -> int:
        """Tokens of the targets."""
        return batch.target_count

    def loss(self, model: EncoderDecoder, rows: PairRows, scale: float, dtype: torch.dtype) -> Tensor:
        """fp32 scalar: ``scale`` times the summed cross entropy; matrix work in ``dtype``."""
        return self.score(model, model(rows.pairs, dtype), rows, scale)

    def score(self, model: EncoderDecoder, hidden_BTE: Tensor, rows: PairRows, scale: float) -> Tensor:
        """The loss from the decoder's final hidden states [B, T, E]."""
        found = model.output.loss(hidden_BTE, rows.targets, scale)
        if not self.smoothing or not model.training:
            return found
        # With logits z the smoothed loss is the plain one and smoothing * (z of the target - mean of z).
        kept = rows.targets != IGNORED
        weight_VE = model.output.weight
        apart_NE = weight_VE[rows.targets[kept]].float() - weight_VE.float().mean(0)
        return found + (hidden_BTE[kept].float() * apart_NE).sum() * (self.smoothing * scale)
