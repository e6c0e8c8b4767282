"""Bits per byte of Hugging Face folders on given documents, by transformers in fp32: one judge for all.

    python evaluate.py REQUEST.json RESULT.json      (run with the Python of the Hugging Face environment)

The request: {"checkpoints": {name: folder}, "tokens": .npy of all documents one after another, "lengths":
.npy int64 of the tokens of each, "bytes": of their text, "start_id": the token before each document,
"context": T, "threads": n}. A document is its tokens and the end of text that closes it; all of them are
scored. No document sees another one. One longer than T is read in windows of T tokens that overlap by half,
and each token is scored once, in the first window that has it. The result: {name: bits per byte}.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

ROWS = 8


def windows(document: np.ndarray, start_id: int, context: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(inputs, targets) of at most ``context`` tokens; a target scored before is -100."""
    inputs = np.concatenate([[start_id], document[:-1]]).astype(np.int64)
    scored = 0
    for begin in range(0, len(document), context // 2):
        end = min(begin + context, len(document))
        targets = document[begin:end].astype(np.int64)
        targets[: scored - begin] = -100
        yield inputs[begin:end], targets
        scored = end
        if end == len(document):
            return


def batches(parts: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Windows of like length together, padded on the right, where a causal model cannot see it."""
    parts.sort(key=lambda part: len(part[0]))
    for first in range(0, len(parts), ROWS):
        group = parts[first : first + ROWS]
        width = len(group[-1][0])
        inputs = np.zeros((len(group), width), np.int64)
        targets = np.full((len(group), width), -100, np.int64)
        for row, (tokens, wanted) in enumerate(group):
            inputs[row, : len(tokens)] = tokens
            targets[row, : len(wanted)] = wanted
        yield torch.from_numpy(inputs), torch.from_numpy(targets)


@torch.inference_mode()
def bits(folder: str, parts: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Bits that the model needs for all targets."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    nats = 0.0
    for inputs, targets in batches(parts):
        logits = model(input_ids=inputs).logits.flatten(0, 1)
        nats += torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="sum").item()
    return nats / math.log(2)


def main(request_file: str, result_file: str) -> None:
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    torch.set_num_threads(request["threads"])
    tokens, lengths = np.load(request["tokens"]), np.load(request["lengths"])
    documents = np.split(tokens, np.cumsum(lengths)[:-1])
    parts = [
        part for document in documents for part in windows(document, request["start_id"], request["context"])
    ]
    assert sum(int((targets >= 0).sum()) for _, targets in parts) == len(tokens)
    result = {name: bits(folder, parts) / request["bytes"] for name, folder in request["checkpoints"].items()}
    Path(result_file).write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
