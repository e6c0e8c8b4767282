"""What recurrent networks and CNNs have in common: embeddings below, a linear classifier on top.

The interface is that of :class:`weft.models.encoder.Encoder`, so one trainer, one checkpoint and one reader
serve both, and the comparison with a Transformer is fair. Dimensions: B batch rows, T positions, E model
width, N documents, C classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from weft.models.baseline_config import BaselineConfig
from weft.models.heads import CRF, MaskedOutput, PredictionHead, pool
from weft.models.layers import Linear
from weft.models.predicate import Predicate, find
from weft.ops.bigrams import bigrams
from weft.ops.both_ways import BothWays
from weft.ops.dropout import dropout
from weft.ops.loss import IGNORED

_EPS = 1e-5


class Baseline(nn.Module):
    """A body between embeddings and classifier; see :class:`weft.models.recurrent.Recurrent` and
    :class:`weft.models.convolution.Convolutional`."""

    kind: Literal["encoder"] = "encoder"

    def __init__(self, config: BaselineConfig):
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.embedding = nn.Embedding(config.vocab_size, size)
        # A row has two halves: for the second token of a pair, and for its first.
        buckets = config.bigram_buckets
        self.bigrams = nn.Embedding(buckets, 2 * config.bigram_size) if buckets else None
        if config.head == "masked":
            self.head = PredictionHead(size, _EPS, dense_bias=False, norm_bias=False)
            self.output = MaskedOutput(size, config.vocab_size)
            self.output.weight = self.embedding.weight
        else:
            self.classifier = Linear(size, len(config.labels))
        self.crf = CRF(len(config.labels)) if config.crf else None
        self.predicate = Predicate(config.input_size, size) if config.predicate_markers else None

    def body(self, x_BTE: Tensor, context: BothWays) -> Tensor:
        """[B, T, E] -> [B, T, E]: each position sees its own document and no other."""
        raise NotImplementedError

    def reset_buffers(self) -> None:
        """What is not in a checkpoint."""

    @property
    def number_format(self) -> str:
        """Name of the number format of the embeddings, such as "bfloat16"."""
        return str(self.embedding.weight.dtype).removeprefix("torch.")

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw fresh weights: what a matrix gives has the spread of what it is given (LeCun et al. 1998)."""
        for name, parameter in self.named_parameters():
            if name == "head.norm.weight":
                parameter.fill_(1.0)
            elif name.startswith("crf.") or parameter.ndim < 2:
                parameter.zero_()
            elif name.startswith(("embedding.", "bigrams.")):
                parameter.normal_(0.0, self.config.initializer_range, generator=generator)
            else:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
        if self.predicate is not None:
            self.predicate.silence()

    def forward(self, tokens_BT: Tensor, context: BothWays, dtype: torch.dtype | None = None) -> Tensor:
        """int64 [B, T] -> hidden states [B, T, E] before the classifier; matrices work in ``dtype``."""
        x_BTE = self.vectors(tokens_BT, context, dtype)
        if self.predicate is None:
            return self.body(x_BTE, context)
        assert self.config.predicate_markers is not None
        place = find(tokens_BT, context, self.config.predicate_markers)
        hidden_BTE = self.body(self.predicate.below(x_BTE, place), context)
        return self.predicate.above(hidden_BTE, place)

    def vectors(self, tokens_BT: Tensor, context: BothWays, dtype: torch.dtype | None) -> Tensor:
        """[B, T, input] in ``dtype``: what the layers read of each token."""
        x_BTE = self.embedding(tokens_BT)
        if self.bigrams is not None:
            x_BTE = torch.cat([x_BTE, self._pairs(tokens_BT, context)], dim=-1)
        return self._dropped(x_BTE.to(dtype or self.embedding.weight.dtype))

    def _pairs(self, tokens_BT: Tensor, context: BothWays) -> Tensor:
        """[B, T, 2 * bigram_size]: the pair with the token before, and the pair with the token after."""
        assert self.bigrams is not None
        before, after = bigrams(tokens_BT, context, self.config.bigram_buckets, self.config.vocab_size)
        size = self.config.bigram_size
        return torch.cat([self.bigrams(before)[..., :size], self.bigrams(after)[..., size:]], dim=-1)

    def masked_loss(self, hidden_BTE: Tensor, targets_BT: Tensor, scale: float) -> Tensor:
        """fp32 scalar: ``scale`` times the summed cross entropy of the hidden tokens; a masked head."""
        kept = targets_BT != IGNORED
        return self.output.loss(self.head(hidden_BTE[kept]), targets_BT[kept], scale)

    def logits(self, hidden_BTE: Tensor) -> Tensor:
        """[B, T, C]: scores of each token; [B, T, V] of a masked head."""
        if self.config.head == "masked":
            found: Tensor = self.output(self.head(hidden_BTE))
            return found
        scores: Tensor = self.classifier(self._dropped(hidden_BTE))
        return scores

    def classify(self, hidden_BTE: Tensor, context: BothWays, first_N: Tensor) -> Tensor:
        """[N, C]: scores of each document; ``first_N`` as in :func:`weft.models.heads.pool`."""
        pooled = pool(hidden_BTE, context.start, context.end, first_N, self.config.classifier_pooling)
        scores: Tensor = self.classifier(self._dropped(pooled))
        return scores

    def _dropped(self, x: Tensor) -> Tensor:
        return dropout(x, self.config.dropout, self.training)
