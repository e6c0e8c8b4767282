"""Encoding: Weft's path, parity check included, against `tokenizers`, on one core; the ids are compared.

    python bench/encode.py en.jsonl zh.jsonl --tokenizer FOLDER [--json FILE]

Both encode the same documents (field ``text`` of JSON Lines, or whole text files) in the same process and in
the same chunks, pinned to one core, turn and turn about. A rate is UTF-8 bytes by wall time. For comparison
the same is done with a fast encoder that is switched off, which is the fallback.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tokenizers

from weft.tokenizer import Tokenizer

_CHUNK_BYTES = 4 << 20


def use_one_core() -> None:
    """Pin this process to a core; both libraries start their threads, now one each, when first asked."""
    os.environ["RAYON_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])


def chunks(file: Path) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    with file.open(encoding="utf-8") as lines:
        for line in lines if file.suffix == ".jsonl" else [lines.read()]:
            chunk.append(json.loads(line)["text"] if file.suffix == ".jsonl" else line)
            size += len(chunk[-1].encode())
            if size >= _CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk


def measure(file: Path, ours: Tokenizer, theirs: tokenizers.Tokenizer) -> dict[str, float]:
    """Seconds of each for a file, its bytes and tokens; exits when an id differs."""
    found = {"bytes": 0, "tokens": 0, "weft": 0.0, "fallback": 0.0, "tokenizers": 0.0}
    for texts in chunks(file):
        found["bytes"] += sum(len(text.encode()) for text in texts)
        began = time.perf_counter()
        ids, ends = ours.encode_flat(texts)
        fast = time.perf_counter()
        plain, _ = ours.encode_flat(texts, fast=False)
        fallback = time.perf_counter()
        encoded = theirs.encode_batch_fast(texts, add_special_tokens=False)
        done = time.perf_counter()
        expected = np.concatenate([np.asarray(one.ids, np.uint32) for one in encoded])
        lengths = np.asarray([len(one.ids) for one in encoded])
        if not (np.array_equal(ids, expected) and np.array_equal(plain, expected)):
            sys.exit(f"The ids of a chunk of {file} differ.")
        if not np.array_equal(np.diff(ends, prepend=0), lengths):
            sys.exit(f"The documents of a chunk of {file} end at different tokens.")
        found["tokens"] += len(expected)
        found["weft"] += fast - began
        found["fallback"] += fallback - fast
        found["tokenizers"] += done - fallback
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder with a tokenizer.json")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    use_one_core()
    ours = Tokenizer.load(given.tokenizer)
    theirs = tokenizers.Tokenizer.from_file(str(given.tokenizer / "tokenizer.json"))
    # Text that spells a special token is text, for both.
    theirs.encode_special_tokens = True
    print(f"vocabulary {ours.vocab_size:,}; MB/s on one core; fast encoder: {ours.fast_encoder is not None}")
    print(f"{'file':24}{'MB':>8}{'tokens':>13}{'Weft':>8}{'fallback':>10}{'tokenizers':>12}{'ratio':>8}")
    rows = {}
    for file in given.files:
        rows[file.name] = measure(file, ours, theirs)
    rows["all"] = {key: sum(row[key] for row in rows.values()) for key in next(iter(rows.values()))}
    for name, row in rows.items():
        rates = [row["bytes"] / 1e6 / row[key] for key in ("weft", "fallback", "tokenizers")]
        print(
            f"{name:24}{row['bytes'] / 1e6:8.1f}{row['tokens']:13,}{rates[0]:8.1f}{rates[1]:10.1f}"
            f"{rates[2]:12.1f}{rates[0] / rates[2]:8.1f}"
        )
    print("all ids are equal")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
