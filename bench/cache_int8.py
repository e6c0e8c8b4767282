"""What an int8 key-value cache costs: the loss of a checkpoint over a text with either cache.

    python bench/cache_int8.py CHECKPOINT TEXT [--dtype bfloat16] [--tokens 20000] [--json FILE]

Every window of the context's length is fed in chunks of 128 tokens through the engine's runner, so that all
attention reads the cache. Printed are bits per token, their ratio with a 95 % interval over windows, how
often the likeliest token is the same, and the bytes of the cache for each token.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import weft
from weft.engine import SamplingParams
from weft.engine.blocks import BLOCK
from weft.engine.cache import pages
from weft.engine.runner import Runner
from weft.engine.scheduler import Work
from weft.engine.sequence import Sequence
from weft.engine.text import text_stream
from weft.models import Decoder
from weft.ops.paged import Pages
from weft.tokenizer import Tokenizer

CHUNK = 128


def scores_of(runner: Runner, tokenizer: Tokenizer, tokens: list[int]) -> Tensor:
    """Scores after every token but the last, fp32 [T - 1, V]."""
    sequence = Sequence(tokens, SamplingParams(), seed=0, limit=1, text=text_stream(tokenizer, tokens))
    sequence.blocks = list(range(-(-len(tokens) // BLOCK)))
    parts = []
    for begin in range(0, len(tokens) - 1, CHUNK):
        piece = tokens[begin : min(begin + CHUNK, len(tokens) - 1)]
        # As drafts, all rows of a chunk give their scores.
        sequence.tokens, sequence.cached = tokens[: begin + 1], begin
        parts.append(runner.run([Work(sequence, 1, tuple(piece[1:]))]))
    return torch.cat(parts)


def compare(model: Decoder, tokenizer: Tokenizer, tokens: list[int]) -> dict[str, Any]:
    """Both caches over all whole windows of ``tokens``."""
    config, weight = model.config, model.embedding.weight
    length = min(config.max_position_embeddings, len(tokens))
    blocks = -(-length // BLOCK)
    runners = {
        name: Runner(model, pages(config, blocks, dtype, weight.device))
        for name, dtype in (("own", weight.dtype), ("int8", torch.int8))
    }
    bits: dict[str, list[float]] = {"own": [], "int8": []}
    same, seen = 0, 0
    for begin in range(0, len(tokens) - length + 1, length):
        window = tokens[begin : begin + length]
        best = []
        for name, runner in runners.items():
            scores = scores_of(runner, tokenizer, window)
            loss = torch.nn.functional.cross_entropy(scores, torch.tensor(window[1:]))
            bits[name].append(float(loss) / math.log(2))
            best.append(scores.argmax(-1))
        same, seen = same + int((best[0] == best[1]).sum()), seen + len(best[0])
    ratios = [b / a for a, b in zip(bits["own"], bits["int8"], strict=True)]
    spread = 1.96 * statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else math.nan
    sizes = {
        name: Pages.block_bytes(
            config.num_hidden_layers, config.num_key_value_heads, config.head_dim, runner.pages.dtype
        )
        / BLOCK
        for name, runner in runners.items()
    }
    return {
        "windows": len(ratios),
        "bits_per_token": {name: statistics.mean(values) for name, values in bits.items()},
        "ratio": statistics.mean(ratios),
        "ratio_95": spread,
        "same_best_token": same / seen,
        "cache_bytes_per_token": sizes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--dtype")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    loaded = weft.load(given.checkpoint, given.dtype, "cpu")
    tokens = loaded.tokenizer.encode(given.text.read_text(encoding="utf-8"))[: given.tokens]
    record = compare(loaded.llm.runner.model, loaded.tokenizer, tokens)
    print(json.dumps(record, indent=2))
    if given.json:
        given.json.write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
