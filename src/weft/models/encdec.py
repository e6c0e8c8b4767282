"""The encoder-decoder: an encoder that looks both ways, a decoder that looks back and at the source.

Dimensions: B batch rows, S source positions, T target positions, E model width, H heads, D head size, F
feed-forward width, V vocabulary, N sequences that are being written, or rows of a step (tokens of any
sequences), L places of a cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from weft.models.encdec_config import EncoderDecoderConfig
from weft.models.layers import Linear, Output, RMSNorm
from weft.ops.cache import ReadingContext, WritingContext
from weft.ops.dropout import dropout
from weft.ops.geglu import geglu
from weft.ops.relative import biased_attention, buckets

HIDDEN = float("-inf")


@dataclass(frozen=True)
class Pairs:
    """A :class:`weft.data.batch.PairBatch` as tensors, without its targets: what a decoder is asked with."""

    source: Tensor
    source_pair: Tensor
    tokens: Tensor
    document_start: Tensor
    target_pair: Tensor


class Attention(nn.Module):
    """Multi-head attention without biases; queries from one sequence, keys and values from another or it."""

    def __init__(self, config: EncoderDecoderConfig):
        super().__init__()
        self.heads, inside = config.num_heads, config.num_heads * config.d_kv
        self.q = Linear(config.d_model, inside, bias=False)
        self.k = Linear(config.d_model, inside, bias=False)
        self.v = Linear(config.d_model, inside, bias=False)
        self.o = Linear(inside, config.d_model, bias=False)

    def split(self, x: Tensor) -> Tensor:
        """[B, S, H * D] -> [B, H, S, D]."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def keys(self, x_BUE: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, U, D]."""
        return self.split(self.k(x_BUE)), self.split(self.v(x_BUE))

    def mix(self, x_BSE: Tensor, keys: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        """[B, S, E] -> [B, S, E] over ``keys``; ``bias`` as in :func:`weft.ops.relative.biased_attention`."""
        mixed = biased_attention(self.split(self.q(x_BSE)), *keys, bias)
        out: Tensor = self.o(mixed.transpose(1, 2).flatten(2))
        return out

    def rows(self, x_NE: Tensor, matrix: Linear) -> Tensor:
        """[N, H, D]: the product of rows with ``matrix``, which is q, k or v."""
        made: Tensor = matrix(x_NE)
        return made.view(len(x_NE), self.heads, -1)


class FeedForward(nn.Module):
    """GEGLU (arXiv:2002.05202): down(gelu(gate(x)) * up(x)), with the tanh form of GELU."""

    def __init__(self, config: EncoderDecoderConfig):
        super().__init__()
        self.gate = Linear(config.d_model, config.d_ff, bias=False)
        self.up = Linear(config.d_model, config.d_ff, bias=False)
        self.down = Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = config.dropout_rate

    def forward(self, x_BTE: Tensor) -> Tensor:
        """[B, T, E] -> [B, T, E]."""
        inner = geglu(self.gate(x_BTE), self.up(x_BTE))
        out: Tensor = self.down(dropout(inner, self.dropout, self.training))
        return out


class Block(nn.Module):
    """Pre-norm residual block; a decoder's attends to the source before the feed-forward."""

    def __init__(self, config: EncoderDecoderConfig, *, decoder: bool):
        super().__init__()
        size, eps = config.d_model, config.layer_norm_epsilon
        self.attention_norm = RMSNorm(size, eps)
        self.attention = Attention(config)
        self.cross_norm = RMSNorm(size, eps) if decoder else None
        self.cross = Attention(config) if decoder else None
        self.feed_forward_norm = RMSNorm(size, eps)
        self.feed_forward = FeedForward(config)
        self.dropout = config.dropout_rate

    def forward(
        self,
        x_BTE: Tensor,
        bias: Tensor,
        source: tuple[Tensor, Tensor] | None = None,
        cross_bias: Tensor | None = None,
        past: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """[B, T, E] -> [B, T, E]; ``source`` and ``past``: keys and values, of what was written too."""
        normed = self.attention_norm(x_BTE)
        keys = self.attention.keys(normed) if past is None else past
        x_BTE = x_BTE + self._dropped(self.attention.mix(normed, keys, bias))
        if self.cross is not None and self.cross_norm is not None:
            assert source is not None and cross_bias is not None
            x_BTE = x_BTE + self._dropped(self.cross.mix(self.cross_norm(x_BTE), source, cross_bias))
        return x_BTE + self._dropped(self.feed_forward(self.feed_forward_norm(x_BTE)))

    def source(self, encoded_BSE: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, S, D] of the source, for a decoder's block."""
        assert self.cross is not None
        return self.cross.keys(encoded_BSE)

    def rows(
        self,
        x_NE: Tensor,
        layer: int,
        context: ReadingContext | WritingContext,
        source: WritingContext | None,
    ) -> Tensor:
        """[N, E] -> [N, E]: flat rows whose attention ``context`` makes; ``source`` for a decoder's block."""
        normed, own = self.attention_norm(x_NE), self.attention
        q, k, v = (own.rows(normed, matrix) for matrix in (own.q, own.k, own.v))
        x_NE = x_NE + own.o(context.attend(layer, q, k, v).flatten(1))
        if self.cross is not None and self.cross_norm is not None:
            assert source is not None
            q = self.cross.rows(self.cross_norm(x_NE), self.cross.q)
            x_NE = x_NE + self.cross.o(source.attend_source(layer, q).flatten(1))
        out: Tensor = x_NE + self.feed_forward(self.feed_forward_norm(x_NE))
        return out

    def _dropped(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


class Stack(nn.Module):
    """Blocks that share one table of relative positions, and a final norm."""

    def __init__(self, config: EncoderDecoderConfig, *, decoder: bool):
        super().__init__()
        self.config, self.decoder = config, decoder
        self.relative = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)
        layers = config.num_decoder_layers if decoder else config.num_layers
        self.blocks = nn.ModuleList(Block(config, decoder=decoder) for _ in range(layers))
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    @property
    def layers(self) -> list[Block]:
        """The blocks in turn."""
        return [block for block in self.blocks if isinstance(block, Block)]

    def bias(self, query_S: Tensor, key_U: Tensor) -> Tensor:
        """fp32 [1, H, S, U] for int64 positions."""
        config = self.config
        count, farthest = config.relative_attention_num_buckets, config.relative_attention_max_distance
        found = buckets(query_S, key_U, count, farthest, both_ways=not self.decoder)
        bias: Tensor = self.relative(found)
        return bias.permute(2, 0, 1).unsqueeze(0).float()

    def distances(self) -> Tensor:
        """fp32 [H, 2 R + 1]: the bias of each distance, key minus query, from -R to R; farther it stays."""
        farthest = self.config.relative_attention_max_distance
        keys = torch.arange(2 * farthest + 1, device=self.relative.weight.device)
        return self.bias(keys[farthest : farthest + 1], keys)[0, :, 0]


class EncoderDecoder(nn.Module):
    """A T5 v1.1. :meth:`forward` trains it; :meth:`begin` and :meth:`step` write with it, all at one place.

    :meth:`read` and :meth:`write` take rows of sequences at any places, for the engine.
    """

    kind: Literal["encdec"] = "encdec"

    def __init__(self, config: EncoderDecoderConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config, decoder=False)
        self.decoder = Stack(config, decoder=True)
        self.output = Output(config.d_model, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.output.weight = self.embedding.weight

    def reset_buffers(self) -> None:
        """What follows from the configuration: nothing, as positions are looked up among the weights."""

    @property
    def number_format(self) -> str:
        """Name of the number format of the matrices, such as "bfloat16"."""
        return str(self.embedding.weight.dtype).removeprefix("torch.")

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw fresh weights: normal, by one over the root of the inputs; q also holds the scores' scale.

        Matrices that write to the residual stream start at zero, as in the other families.
        """
        config, factor = self.config, self.config.initializer_factor
        wide = factor * config.d_model**-0.5
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0)
            elif name.endswith(("o.weight", "down.weight")):
                parameter.zero_()
            elif name == "embedding.weight" and not config.tie_word_embeddings:
                parameter.normal_(0.0, factor, generator=generator)
            elif name.endswith(".q.weight"):
                parameter.normal_(0.0, wide * config.d_kv**-0.5, generator=generator)
            else:
                parameter.normal_(0.0, wide, generator=generator)

    def forward(self, pairs: Pairs, dtype: torch.dtype | None = None) -> Tensor:
        """The decoder's final hidden states [B, T, E], ready for ``output``; matrices work in ``dtype``."""
        encoded = self.encode(pairs.source, pairs.source_pair, dtype)
        x_BTE = self._embed(pairs.tokens, dtype)
        T = pairs.tokens.shape[1]
        index = torch.arange(T, device=pairs.tokens.device)
        unseen = (index > index[:, None]) | (index < pairs.document_start.unsqueeze(-1))
        bias = self.decoder.bias(index, index).masked_fill(unseen.unsqueeze(1), HIDDEN).to(x_BTE.dtype)
        # What pads sees everything: no row of scores may be empty.
        other = (pairs.target_pair.unsqueeze(-1) != pairs.source_pair.unsqueeze(1)) & (
            pairs.target_pair.unsqueeze(-1) >= 0
        )
        cross = x_BTE.new_zeros(other.unsqueeze(1).shape).masked_fill(other.unsqueeze(1), HIDDEN)
        for block in self.decoder.layers:
            x_BTE = block(x_BTE, bias, block.source(encoded), cross)
        return self._finished(x_BTE)

    def encode(self, source_BS: Tensor, pair_BS: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """[B, S, E]: the source read; positions see each other where ``pair`` int [B, S] is equal."""
        x_BSE = self._embed(source_BS, dtype)
        index = torch.arange(source_BS.shape[1], device=source_BS.device)
        apart = (pair_BS.unsqueeze(-1) != pair_BS.unsqueeze(1)).unsqueeze(1)
        bias = self.encoder.bias(index, index).masked_fill(apart, HIDDEN).to(x_BSE.dtype)
        for block in self.encoder.blocks:
            x_BSE = block(x_BSE, bias)
        out: Tensor = dropout(self.encoder.norm(x_BSE), self.config.dropout_rate, self.training)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., E] -> [..., V]."""
        scores: Tensor = self.output(hidden)
        return scores

    def begin(self, source_NS: Tensor, lengths_N: Tensor, most: int) -> Writing:
        """Read sources (int64 [N, S], padded behind ``lengths``) to write up to ``most`` tokens for each."""
        padding = torch.arange(source_NS.shape[1], device=source_NS.device) >= lengths_N.unsqueeze(-1)
        encoded = self.encode(source_NS, -padding.long())
        cross = encoded.new_zeros(len(source_NS), 1, 1, source_NS.shape[1])
        cross = cross.masked_fill(padding[:, None, None], HIDDEN)
        sources = [block.source(encoded) for block in self.decoder.layers]
        shape = (len(source_NS), self.config.num_heads, most, self.config.d_kv)
        past = [(encoded.new_empty(shape), encoded.new_empty(shape)) for _ in self.decoder.blocks]
        index = torch.arange(most, device=source_NS.device)
        return Writing(sources, cross, past, self.decoder.bias(index, index).to(encoded.dtype))

    def step(self, tokens_N: Tensor, writing: Writing) -> Tensor:
        """fp32 [N, V]: scores of the next token after one more token of each sequence (int64 [N])."""
        place = writing.length
        x_NTE = self._embed(tokens_N.unsqueeze(1), writing.cross.dtype)
        bias = writing.bias[:, :, place : place + 1, : place + 1]
        for block, source, (keys, values) in zip(
            self.decoder.layers, writing.sources, writing.past, strict=True
        ):
            k, v = block.attention.keys(block.attention_norm(x_NTE))
            keys[:, :, place], values[:, :, place] = k[:, :, 0], v[:, :, 0]
            seen = keys[:, :, : place + 1], values[:, :, : place + 1]
            x_NTE = block(x_NTE, bias, source, writing.cross, seen)
        writing.length += 1
        return self.logits(self._finished(x_NTE)[:, 0]).float()

    def read(self, tokens_N: Tensor, context: ReadingContext) -> None:
        """Read sources, int64 [N]; ``context`` keeps what the decoder sees of them."""
        x_NE = self._embed(tokens_N, None)
        for layer, block in enumerate(self.encoder.layers):
            x_NE = block.rows(x_NE, layer, context, None)
        x_NE = self.encoder.norm(x_NE)
        for layer, block in enumerate(self.decoder.layers):
            assert block.cross is not None
            context.keep(layer, *(block.cross.rows(x_NE, m) for m in (block.cross.k, block.cross.v)))

    def write(self, tokens_N: Tensor, context: WritingContext) -> Tensor:
        """[N, E]: the final hidden states after tokens, int64 [N], ready for :meth:`logits`."""
        x_NE = self._embed(tokens_N, None)
        for layer, block in enumerate(self.decoder.layers):
            x_NE = block.rows(x_NE, layer, context, context)
        return self._finished(x_NE)

    def _embed(self, tokens: Tensor, dtype: torch.dtype | None) -> Tensor:
        x = self.embedding(tokens).to(dtype or self.embedding.weight.dtype)
        return dropout(x, self.config.dropout_rate, self.training)

    def _finished(self, x_BTE: Tensor) -> Tensor:
        x_BTE = dropout(self.decoder.norm(x_BTE), self.config.dropout_rate, self.training)
        return x_BTE * self.config.d_model**-0.5 if self.config.tie_word_embeddings else x_BTE


@dataclass
class Writing:
    """What a step needs of N sequences: keys and values [N, H, S or L, D], and biases."""

    sources: list[tuple[Tensor, Tensor]]
    cross: Tensor
    past: list[tuple[Tensor, Tensor]]
    bias: Tensor
    length: int = 0

    def reorder(self, index_N: Tensor) -> None:
        """Sequence n becomes a copy of what was ``index[n]``; sequences may be dropped and doubled."""
        for layer, (keys, values) in enumerate(self.past):
            self.past[layer] = keys[index_N], values[index_N]

    def choose(self, index_N: Tensor) -> None:
        """As :meth:`reorder`, for sequences whose sources differ."""
        self.reorder(index_N)
        self.sources = [(keys[index_N], values[index_N]) for keys, values in self.sources]
        self.cross = self.cross[index_N]
