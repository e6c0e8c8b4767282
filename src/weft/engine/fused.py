"""A dense decoder in its form for GPUs: fewer and larger products, and one kernel for what lies between them.

Dimensions: N rows, E model width, H query heads, G key-value heads, D head size, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.core.errors import UsageError
from weft.models import Decoder, DecoderConfig
from weft.models.layers import Block, FeedForward
from weft.models.moe import SparseFeedForward
from weft.ops.cache import AttentionContext
from weft.ops.compiled import Compiled
from weft.ops.norm import rms_norm
from weft.ops.rope import rotation
from weft.ops.rotary import normed_rotary
from weft.ops.scaled import MULTIPLE, Float8, Int8, joined
from weft.ops.swiglu import swiglu

_Layer = Callable[[Items[Tensor], Items[Tensor | None]], nn.Module]
"""``(weights, biases)`` to one layer, the matrices one below the other."""


class Joined(nn.Module):
    """Matrices one below the other as one layer, in the dtype that they have."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weights: Items[Tensor], biases: Items[Tensor | None]):
        super().__init__()
        self.register_buffer("weight", torch.cat([weight.detach() for weight in weights]))
        self.register_buffer("bias", joined(weights, biases))

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N]."""
        return F.linear(x, self.weight, self.bias)


class FusedBlock(nn.Module):
    """A block around its attention, which belongs to the context: what comes before it, and what after."""

    attention_norm: Tensor
    feed_norm: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None

    def __init__(self, block: Block, layer: _Layer, eps: float):
        super().__init__()
        attention, feed = block.attention, block.feed_forward
        assert isinstance(feed, FeedForward)
        parts = (attention.q, attention.k, attention.v)
        self.qkv = layer([part.weight for part in parts], [part.bias for part in parts])
        self.o = layer([attention.o.weight], [attention.o.bias])
        self.gate_up = layer([feed.gate.weight, feed.up.weight], [None, None])
        self.down = layer([feed.down.weight], [None])
        self.heads, self.groups, self.head_dim = attention.heads, attention.groups, attention.head_dim
        self.eps = eps
        for name, norm in (
            ("attention_norm", block.attention_norm),
            ("feed_norm", block.feed_forward_norm),
            ("q_norm", attention.q_norm),
            ("k_norm", attention.k_norm),
        ):
            self.register_buffer(name, None if norm is None else norm.weight.detach().float())

    def before(self, x_NE: Tensor, cos_ND: Tensor, sin_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [N, H, D], keys and values [N, G, D]; ``cos`` and ``sin`` are fp32 [N, D / 2]."""
        mixed = self.qkv(rms_norm(x_NE, self.attention_norm, self.eps)).unflatten(-1, (-1, self.head_dim))
        q, k, v = mixed.split((self.heads, self.groups, self.groups), dim=1)
        q = normed_rotary(q.unsqueeze(0), self.q_norm, self.eps, cos_ND, sin_ND).squeeze(0)
        k = normed_rotary(k.unsqueeze(0), self.k_norm, self.eps, cos_ND, sin_ND).squeeze(0)
        return q, k, v

    def after(self, x_NE: Tensor, mixed_NHD: Tensor) -> Tensor:
        """[N, E]: the residual stream after the block."""
        x_NE = x_NE + self.o(mixed_NHD.flatten(1))
        gate, up = self.gate_up(rms_norm(x_NE, self.feed_norm, self.eps)).chunk(2, dim=-1)
        out: Tensor = x_NE + self.down(swiglu(gate, up))
        return out


class FusedDecoder(Decoder):
    """A decoder without experts whose blocks are :class:`FusedBlock`; it computes and is not trained.

    ``weights`` is "float32" or "bfloat16", or "fp8" or "int8" for matrices in that form, but for those whose
    sizes are no multiples of 16. All else, the rows and the cache have the dtype of the model, which lies on
    the device already (:func:`weft.engine.runner.prepare`) and loses its blocks.
    """

    def __init__(self, model: Decoder, weights: str):
        nn.Module.__init__(self)
        self.config, self._weights = model.config, weights
        layer = {"fp8": _scaled(Float8), "int8": _scaled(Int8)}.get(weights, Joined)
        self.embedding = model.embedding
        self.register_buffer("inverse_frequencies", model.inverse_frequencies, persistent=False)
        self.register_buffer("final_norm", model.norm.weight.detach().float())
        tied = model.config.tie_word_embeddings and layer is Joined
        self.scores = None if tied else layer([model.output.weight], [None])
        self.blocks = nn.ModuleList()
        eps = model.config.rms_norm_eps
        for place, block in enumerate(model.blocks):
            self.blocks.append(FusedBlock(block, layer, eps))  # type: ignore[arg-type]
            # One block at a time is there twice, or a large model would not fit.
            model.blocks[place] = nn.Identity()
        self._before = Compiled(FusedBlock.before, dynamic=True)
        self._after = Compiled(FusedBlock.after, dynamic=True)

    final_norm: Tensor

    def shortened(self, config: DecoderConfig) -> FusedDecoder:
        """The first of its blocks, as many as ``config`` has; weights are shared."""
        short = FusedDecoder.__new__(FusedDecoder)
        nn.Module.__init__(short)
        short.config, short._weights = config, self._weights
        short.embedding, short.scores = self.embedding, self.scores
        short.register_buffer("inverse_frequencies", self.inverse_frequencies, persistent=False)
        short.register_buffer("final_norm", self.final_norm)
        short.blocks = self.blocks[: config.num_hidden_layers]
        short._before, short._after = self._before, self._after
        return short

    @property
    def number_format(self) -> str:
        """The name of ``weights``."""
        return self._weights

    def forward(
        self, tokens_BT: Tensor, context: AttentionContext, dtype: torch.dtype | None = None
    ) -> Tensor:
        """int64 or int32 [B, T] -> final hidden states [B, T, E]. UsageError for a ``dtype``: it is fixed."""
        if dtype is not None:
            raise UsageError("The dtype of fused weights is fixed; load the model anew with another.")
        B, T = tokens_BT.shape
        x_NE = F.embedding(tokens_BT.reshape(-1), self.embedding.weight)
        cos, sin = (
            angle.expand(B, T, -1).reshape(B * T, -1)
            for angle in rotation(context.positions(tokens_BT), self.inverse_frequencies)
        )
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, FusedBlock)
            q, k, v = (x.view(B, T, *x.shape[1:]) for x in self._before(block, x_NE, cos, sin))
            x_NE = self._after(block, x_NE, context.attend(layer, q, k, v).flatten(0, 1))
        return rms_norm(x_NE, self.final_norm, self.config.rms_norm_eps).view(B, T, -1)

    def logits(self, hidden_BTE: Tensor) -> Tensor:
        """Scores over the vocabulary, [..., V], in the dtype of ``hidden``."""
        if self.scores is None:
            return F.linear(hidden_BTE, self.embedding.weight)
        found: Tensor = self.scores(hidden_BTE)
        return found


def dense(model: Decoder) -> bool:
    """Whether no block has experts."""
    return not any(isinstance(module, SparseFeedForward) for module in model.modules())


def _scaled(kind: type[Float8 | Int8]) -> _Layer:
    def layer(weights: Items[Tensor], biases: Items[Tensor | None]) -> nn.Module:
        rows, width = sum(map(len, weights)), weights[0].shape[1]
        fits = rows % MULTIPLE == 0 and width % MULTIPLE == 0
        return kind(weights, biases) if fits else Joined(weights, biases)

    return layer
