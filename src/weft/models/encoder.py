"""The encoder: token embeddings, blocks that look both ways, a final norm, and a head.

It knows no device and no mask: a :class:`~weft.ops.both_ways.BothWays` says what each position sees.
Dimensions: B batch rows, T positions, E model width, H heads, D head size, F feed-forward width, N documents,
C classes, V vocabulary.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.models.encoder_config import EncoderConfig
from weft.models.heads import CRF, MaskedOutput, Norm, PredictionHead, pool
from weft.models.layers import Linear
from weft.ops.both_ways import BothWays
from weft.ops.dropout import dropout
from weft.ops.loss import IGNORED
from weft.ops.rope import inverse_frequencies, rotation
from weft.ops.rotary import normed_rotary

Angles = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Multi-head attention with rotary positions and one matrix for queries, keys and values."""

    def __init__(self, config: EncoderConfig, layer: int):
        super().__init__()
        self.reach, self.heads, self.head_dim = (
            config.reach(layer),
            config.num_attention_heads,
            config.head_dim,
        )
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size, bias=config.attention_bias)
        self.o = Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)

    def forward(self, x_BTE: Tensor, angles: Angles, context: BothWays) -> Tensor:
        """[B, T, E] -> [B, T, E]."""
        B, T, _ = x_BTE.shape
        q, k, v = self.qkv(x_BTE).view(B, T, 3, self.heads, self.head_dim).unbind(2)
        q, k = (normed_rotary(x, None, 0.0, *angles) for x in (q, k))
        out: Tensor = self.o(context.attend(q, k, v, self.reach).reshape(B, T, -1))
        return out


class FeedForward(nn.Module):
    """GeGLU (arXiv:2002.05202): down(gelu(x W) * x V), W and V in one matrix."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.gate_up = Linear(config.hidden_size, 2 * config.intermediate_size, bias=config.mlp_bias)
        self.down = Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.dropout = config.dropout

    def forward(self, x_BTE: Tensor) -> Tensor:
        """[B, T, E] -> [B, T, E]."""
        gate, up = self.gate_up(x_BTE).chunk(2, dim=-1)
        out: Tensor = self.down(dropout(F.gelu(gate) * up, self.dropout, self.training))
        return out


class Block(nn.Module):
    """Pre-norm residual block; the first one has no norm before attention, as the embeddings have theirs."""

    def __init__(self, config: EncoderConfig, layer: int):
        super().__init__()
        size, eps, bias = config.hidden_size, config.norm_eps, config.norm_bias
        self.attention_norm = Norm(size, eps, bias=bias) if layer else None
        self.attention = Attention(config, layer)
        self.feed_forward_norm = Norm(size, eps, bias=bias)
        self.feed_forward = FeedForward(config)
        self.dropout = config.dropout

    def forward(self, x_BTE: Tensor, angles: Angles, context: BothWays) -> Tensor:
        """[B, T, E] -> [B, T, E]."""
        normed = x_BTE if self.attention_norm is None else self.attention_norm(x_BTE)
        mixed = self.attention(normed, angles, context)
        x_BTE = x_BTE + dropout(mixed, self.dropout, self.training)
        out: Tensor = x_BTE + self.feed_forward(self.feed_forward_norm(x_BTE))
        return out


class Encoder(nn.Module):
    """A ModernBERT with the head that its architecture names.

    The output of a masked language model is ``output``, that of every other head ``classifier``.
    """

    global_frequencies: Tensor
    local_frequencies: Tensor
    kind: Literal["encoder"] = "encoder"

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        size, eps, bias = config.hidden_size, config.norm_eps, config.norm_bias
        self.embedding = nn.Embedding(config.vocab_size, size)
        self.embedding_norm = Norm(size, eps, bias=bias)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = Norm(size, eps, bias=bias)
        self.head = PredictionHead(size, eps, dense_bias=config.classifier_bias, norm_bias=bias)
        if config.head == "masked":
            self.output = MaskedOutput(size, config.vocab_size, bias=config.decoder_bias)
            self.output.weight = self.embedding.weight
        else:
            self.classifier = Linear(size, len(config.labels))
        self.crf = CRF(len(config.labels)) if config.crf else None
        self.reset_buffers()

    def reset_buffers(self) -> None:
        """What follows from the configuration: the rotary frequencies of both kinds of layers, [D/2]."""
        config = self.config
        for name, theta in (("global", config.global_rope_theta), ("local", config.local_rope_theta)):
            frequencies = inverse_frequencies(config.head_dim, theta)
            self.register_buffer(f"{name}_frequencies", frequencies, persistent=False)

    @property
    def number_format(self) -> str:
        """Name of the number format of the matrices, such as "bfloat16"."""
        return str(self.embedding.weight.dtype).removeprefix("torch.")

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw fresh weights: normal, and matrices that write to the residual stream start at zero."""
        for name, parameter in self.named_parameters():
            if name.startswith("crf."):
                parameter.zero_()
            elif parameter.ndim < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            elif name.endswith(("attention.o.weight", "feed_forward.down.weight")):
                parameter.zero_()
            else:
                parameter.normal_(0.0, self.config.initializer_range, generator=generator)

    def forward(self, tokens_BT: Tensor, context: BothWays, dtype: torch.dtype | None = None) -> Tensor:
        """int64 [B, T] -> hidden states [B, T, E] before the head; matrices work in ``dtype``."""
        x_BTE = self.embedding(tokens_BT).to(dtype or self.embedding.weight.dtype)
        x_BTE = dropout(self.embedding_norm(x_BTE), self.config.dropout, self.training)
        positions = context.positions()
        wide, near = (rotation(positions, f) for f in (self.global_frequencies, self.local_frequencies))
        for layer, block in enumerate(self.blocks):
            x_BTE = block(x_BTE, wide if self.config.reach(layer) is None else near, context)
        normed: Tensor = self.norm(x_BTE)
        return normed

    def masked_loss(self, hidden_BTE: Tensor, targets_BT: Tensor, scale: float) -> Tensor:
        """fp32 scalar: ``scale`` times the summed cross entropy of the hidden tokens; a masked head."""
        kept = targets_BT != IGNORED
        return self.output.loss(self.head(hidden_BTE[kept]), targets_BT[kept], scale)

    def logits(self, hidden_BTE: Tensor) -> Tensor:
        """[B, T, V] of a masked head, [B, T, C] of a token or span head (start and end)."""
        top = self.output if self.config.head == "masked" else self.classifier
        scores: Tensor = top(self._dropped(self.head(hidden_BTE)))
        return scores

    def classify(self, hidden_BTE: Tensor, context: BothWays, first_N: Tensor) -> Tensor:
        """[N, C]: scores of each document; ``first_N`` as in :func:`weft.models.heads.pool`."""
        pooled = pool(hidden_BTE, context.start, context.end, first_N, self.config.classifier_pooling)
        scores: Tensor = self.classifier(self._dropped(self.head(pooled)))
        return scores

    def _dropped(self, x: Tensor) -> Tensor:
        return dropout(x, self.config.dropout, self.training)
