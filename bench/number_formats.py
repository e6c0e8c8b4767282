"""What a number format of the weights costs in quality: perplexity of one checkpoint in each of them.

    python bench/number_formats.py CHECKPOINT --data FOLDER [--split test] [--tokens 200000]

The same tokens, windows and context for all, through the same code as `weft eval`. Printed beside the
perplexity per token: its ratio to fp32's, and to bf16's.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch

from weft.checkpoint.huggingface import load_model
from weft.data.shards import open_split
from weft.engine.weights import FORMATS, for_inference
from weft.eval.metrics.bits_per_byte import document_bits


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="a folder of weft data")
    parser.add_argument("--split", default="test")
    parser.add_argument("--tokens", type=int, default=200_000, help="at most, from the start")
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    shards = open_split(given.data / "shards", given.split)
    # A long document is cut like any other: what is compared is formats, on equal text.
    ends = np.cumsum(shards.reader.lengths)
    count = max(1, int(np.searchsorted(ends, given.tokens)))
    lengths = shards.reader.lengths[:count].copy()
    lengths[-1] -= max(0, int(lengths.sum()) - given.tokens)
    tokens = shards.reader.tokens[: int(lengths.sum())]
    found: dict[str, float] = {}
    for name in given.formats.split(","):
        model = for_inference(load_model(given.checkpoint), torch.device("cpu"), name)
        context = model.config.max_position_embeddings
        bits = document_bits(model, tokens, lengths, shards.eos_id, context=context, overlap=context // 2)
        found[name] = 2 ** (bits.sum() / lengths.sum())
        beside = [f"{found[name] / found[other] - 1:+.3%} to {other}" for other in FORMATS if other in found]
        print(f"{name:<9} perplexity {found[name]:10.4f}   {', '.join(beside[:2])}", flush=True)
        assert math.isfinite(found[name])
    print(f"{lengths.sum():,} tokens of {count} documents, context {context}")
    if given.json:
        given.json.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
