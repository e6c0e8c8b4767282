"""What a key-value cache in int8 costs in quality: the loss over a text with either cache."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.core.errors import DataError
from weft.engine.blocks import BLOCK
from weft.engine.cache import pages
from weft.engine.params import SamplingParams
from weft.engine.runner import Runner
from weft.engine.scheduler import Work
from weft.engine.sequence import Sequence
from weft.engine.text import text_stream
from weft.models import Decoder
from weft.ops.paged import Pages
from weft.tokenizer import Tokenizer

CHUNK = 128
"""Tokens of a step, so that all attention reads the cache."""


@dataclass(frozen=True)
class CacheCost:
    """Over ``windows`` of the context's length, for the model's own cache and one in int8.

    ``ratio`` is that of the losses, ``interval`` half of its 95 % interval over windows (None for one);
    ``same_best`` is the share of places where the likeliest token is the same.
    """

    windows: int
    own_bits_per_token: float
    int8_bits_per_token: float
    ratio: float
    interval: float | None
    same_best: float
    own_bytes_per_token: float
    int8_bytes_per_token: float


def cache_cost(model: Decoder, tokenizer: Tokenizer, tokens: list[int]) -> Iterator[CacheCost]:
    """Compare both caches over the whole windows of ``tokens``; what is known after each.

    Raises DataError for less than two tokens.
    """
    if len(tokens) < 2:
        raise DataError("The text has fewer than two tokens; give a longer one.")
    length = min(model.config.max_position_embeddings, len(tokens))
    dtypes = (model.embedding.weight.dtype, torch.int8)
    runners = [_runner(model, length, dtype) for dtype in dtypes]
    bits: tuple[list[float], list[float]] = ([], [])
    same = 0
    for begin in range(0, len(tokens) - length + 1, length):
        window = tokens[begin : begin + length]
        best = []
        for runner, found in zip(runners, bits, strict=True):
            loss, likeliest = _read(runner, tokenizer, window)
            found.append(loss / (length - 1) / math.log(2))
            best.append(likeliest)
        same += int((best[0] == best[1]).sum())
        ratios = [quantised / own for own, quantised in zip(*bits, strict=True)]
        spread = 1.96 * statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else None
        yield CacheCost(
            windows=len(ratios),
            own_bits_per_token=statistics.mean(bits[0]),
            int8_bits_per_token=statistics.mean(bits[1]),
            ratio=statistics.mean(ratios),
            interval=spread,
            same_best=same / (len(ratios) * (length - 1)),
            own_bytes_per_token=_bytes(model, dtypes[0]),
            int8_bytes_per_token=_bytes(model, dtypes[1]),
        )


def _runner(model: Decoder, length: int, dtype: torch.dtype) -> Runner:
    return Runner(model, pages(model.config, -(-length // BLOCK), dtype, model.embedding.weight.device))


def _read(runner: Runner, tokenizer: Tokenizer, tokens: list[int]) -> tuple[float, Tensor]:
    """The sum of the losses of all tokens but the first, and the likeliest in the place of each [T - 1].

    Of the scores only those of a step are held: 20,000 of 150,000 tokens each would be 12 GB.
    """
    sequence = Sequence(tokens, SamplingParams(), seed=0, limit=1, text=text_stream(tokenizer, tokens))
    sequence.blocks = list(range(-(-len(tokens) // BLOCK)))
    loss, best = 0.0, []
    for begin in range(0, len(tokens) - 1, CHUNK):
        piece = tokens[begin : min(begin + CHUNK, len(tokens) - 1)]
        # As drafts, all rows of a chunk give their scores.
        sequence.tokens, sequence.cached = tokens[: begin + 1], begin
        scores = runner.run([Work(sequence, 1, tuple(piece[1:]))]).cpu()
        following = torch.tensor(tokens[begin + 1 : begin + 1 + len(piece)])
        loss += float(torch.nn.functional.cross_entropy(scores, following, reduction="sum"))
        best.append(scores.argmax(-1))
    return loss, torch.cat(best)


def _bytes(model: Decoder, dtype: torch.dtype) -> float:
    config = model.config
    shape = config.num_hidden_layers, config.num_key_value_heads, config.head_dim
    return Pages.block_bytes(*shape, dtype) / BLOCK
