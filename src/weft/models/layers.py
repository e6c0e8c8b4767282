"""The parts of a Transformer block.

Dimensions: B batch rows, T positions, E model width, H query heads, G key-value heads, D head size,
F feed-forward width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weft.models.config import DecoderConfig
from weft.models.moe import SparseFeedForward
from weft.ops.cache import AttentionContext
from weft.ops.linear import Product, linear
from weft.ops.local import local
from weft.ops.loss import summed_cross_entropy
from weft.ops.norm import rms_norm
from weft.ops.rotary import normed_rotary
from weft.ops.swiglu import swiglu


class Linear(nn.Linear):
    """A matrix whose product runs in the dtype of its input, whatever its master's dtype is."""

    product: Product = staticmethod(linear)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return self.product(x, local(self.weight), None if self.bias is None else local(self.bias))


class Output(Linear):
    """The output matrix: scores over the vocabulary, and the loss that never holds all of them at once."""

    def loss(self, hidden_BTE: Tensor, targets_BT: Tensor, scale: float) -> Tensor:
        """fp32 scalar: ``scale`` times the summed cross entropy of int64 targets [B, T] (IGNORED: none)."""
        weight = local(self.weight)
        return summed_cross_entropy(hidden_BTE.flatten(0, 1), weight, targets_BT.flatten(), scale)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation (arXiv:1910.07467) over the last dimension."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype as ``x``; computed in fp32."""
        return rms_norm(x, local(self.weight), self.eps)


class Attention(nn.Module):
    """Grouped-query attention (arXiv:2305.13245) with rotary positions and optional q/k norms."""

    def __init__(self, config: DecoderConfig, layer: int):
        super().__init__()
        width, size = config.hidden_size, config.head_dim
        self.layer, self.head_dim = layer, size
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.q = Linear(width, self.heads * size, bias=config.attention_bias)
        self.k = Linear(width, self.groups * size, bias=config.attention_bias)
        self.v = Linear(width, self.groups * size, bias=config.attention_bias)
        self.o = Linear(self.heads * size, width, bias=config.output_bias)
        self.q_norm = RMSNorm(size, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(size, config.rms_norm_eps) if config.qk_norm else None

    def forward(self, x_BTE: Tensor, cos: Tensor, sin: Tensor, context: AttentionContext) -> Tensor:
        """[B, T, E] -> [B, T, E]."""
        B, T, _ = x_BTE.shape
        q = self.q(x_BTE).view(B, T, self.heads, self.head_dim)
        k = self.k(x_BTE).view(B, T, self.groups, self.head_dim)
        v = self.v(x_BTE).view(B, T, self.groups, self.head_dim)
        q = self._place(q, self.q_norm, cos, sin)
        k = self._place(k, self.k_norm, cos, sin)
        mixed = context.attend(self.layer, q, k, v)
        out: Tensor = self.o(mixed.reshape(B, T, self.heads * self.head_dim))
        return out

    def _place(self, x: Tensor, norm: RMSNorm | None, cos: Tensor, sin: Tensor) -> Tensor:
        weight, eps = (None, 0.0) if norm is None else (local(norm.weight), norm.eps)
        return normed_rotary(x, weight, eps, cos, sin)


class FeedForward(nn.Module):
    """SwiGLU (arXiv:2002.05202): down(silu(gate(x)) * up(x))."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.gate = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_BTE: Tensor) -> Tensor:
        """[B, T, E] -> [B, T, E]."""
        out: Tensor = self.down(swiglu(self.gate(x_BTE), self.up(x_BTE)))
        return out


class Block(nn.Module):
    """Pre-norm residual block: x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: DecoderConfig, layer: int):
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config, layer)
        self.feed_forward_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.feed_forward = SparseFeedForward(config) if config.sparse(layer) else FeedForward(config)

    def forward(self, x_BTE: Tensor, cos: Tensor, sin: Tensor, context: AttentionContext) -> Tensor:
        """[B, T, E] -> [B, T, E]."""
        x_BTE = x_BTE + self.attention(self.attention_norm(x_BTE), cos, sin, context)
        return x_BTE + self.feed(x_BTE)

    def feed(self, x_BTE: Tensor) -> Tensor:
        """The second half without its residual, [B, T, E] -> [B, T, E]."""
        out: Tensor = self.feed_forward(self.feed_forward_norm(x_BTE))
        return out
