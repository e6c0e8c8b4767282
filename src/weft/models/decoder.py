"""The decoder: token embeddings, a stack of blocks, a final norm, an output matrix.

It knows no device, no mask and no cache: an :class:`~weft.ops.cache.AttentionContext` says what each
position sees. Dimensions as in :mod:`weft.models.layers`; V is the vocabulary size.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from weft.models.config import DecoderConfig
from weft.models.layers import Block, Output, RMSNorm
from weft.ops.cache import AttentionContext
from weft.ops.rope import inverse_frequencies, rotation, scale_llama3


def rope_frequencies(config: DecoderConfig) -> Tensor:
    """fp32 [D/2]: the angle each pair of dimensions turns per position, stretched as configured."""
    frequencies = inverse_frequencies(config.head_dim, config.rope_theta)
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    if scaling.rope_type == "linear":
        return frequencies / scaling.factor
    return scale_llama3(
        frequencies,
        scaling.factor,
        scaling.low_freq_factor,
        scaling.high_freq_factor,
        scaling.original_max_position_embeddings,
    )


def through(
    blocks: Iterable[nn.Module],
    x_BTE: Tensor,
    tokens_BT: Tensor,
    inverse_frequencies: Tensor,
    context: AttentionContext,
) -> Tensor:
    """[B, T, E] -> [B, T, E]: the blocks in turn, at the positions that the tokens have."""
    cos, sin = rotation(context.positions(tokens_BT), inverse_frequencies)
    for block in blocks:
        x_BTE = block(x_BTE, cos, sin, context)
    return x_BTE


class Decoder(nn.Module):
    """A causal language model of the Llama, Qwen2, Qwen3, Qwen3-MoE or Mistral shape."""

    inverse_frequencies: Tensor

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.output = Output(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.output.weight = self.embedding.weight
        self.reset_buffers()

    def reset_buffers(self) -> None:
        """What follows from the configuration: the rotary frequencies."""
        self.register_buffer("inverse_frequencies", rope_frequencies(self.config), persistent=False)

    @property
    def number_format(self) -> str:
        """Name of the number format of the matrices, such as "bfloat16"."""
        return str(self.embedding.weight.dtype).removeprefix("torch.")

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw fresh weights: normal, and matrices that write to the residual stream start at zero.

        Zero output projections make every block the identity at step 0, which lets the same learning
        rate serve any depth (the reason is that of muP and of Fixup, arXiv:1901.09321).
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            elif name.endswith(
                ("attention.o.weight", "feed_forward.down.weight", "feed_forward.experts.down")
            ):
                parameter.zero_()
            else:
                parameter.normal_(0.0, self.config.initializer_range, generator=generator)

    def forward(
        self, tokens_BT: Tensor, context: AttentionContext, dtype: torch.dtype | None = None
    ) -> Tensor:
        """int64 [B, T] -> final hidden states [B, T, E]; matrices work in ``dtype`` (by default theirs)."""
        x_BTE = self.embedding(tokens_BT).to(dtype or self.embedding.weight.dtype)
        x_BTE = through(self.blocks, x_BTE, tokens_BT, self.inverse_frequencies, context)
        normed: Tensor = self.norm(x_BTE)
        return normed

    def logits(self, hidden_BTE: Tensor) -> Tensor:
        """Scores over the vocabulary, [B, T, V], in the dtype of ``hidden``."""
        scores: Tensor = self.output(hidden_BTE)
        return scores
