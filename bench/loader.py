"""Resuming: from a new process to the first batch, at any step and any number of workers.

    python bench/loader.py [--documents 1000000] [--folder FOLDER] [--json FILE]

Makes shards of random tokens (lengths lognormal, about 1,100 tokens a document), lets one loader pack them
once, and then starts a Python process for each step and share of a batch: it opens the shards, checks that
they are the ones that were hashed, and gathers its rows. Seconds are wall time within that process, imports
left out, with the processor time of both beside them; memory is the growth of its resident set. All shares
of a batch must make the batch of one process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from weft.core import manifest
from weft.data.batch import Batch
from weft.data.encode import SIDECAR
from weft.data.indexed import write_index
from weft.data.loader import Loader, share

_LENGTH, _ROWS = 2048, 32


def make(folder: Path, documents: int) -> int:
    """Shards of ``documents`` random documents in ``folder``; returns their tokens."""
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(6.5, 1.0, documents), 8, 200_000).astype(np.int64)
    with (folder / "train.bin").open("wb") as stream:
        for part in np.array_split(lengths, max(1, documents // 10_000)):
            tokens = generator.integers(1, 32_000, int(part.sum()), np.uint16)
            tokens[np.cumsum(part) - 1] = 0
            stream.write(tokens.tobytes())
    write_index(folder / "train.idx", lengths, np.uint16)
    names = pa.array([f"{number:032x}" for number in range(documents)])
    counts, sizes = pa.array(lengths.astype(np.int32)), pa.array(lengths)
    languages = pa.array(["en"] * documents)
    pq.write_table(pa.table([names, names, languages, counts, sizes], SIDECAR), folder / "train.parquet")
    total = int(lengths.sum())
    figures = {"documents": documents, "tokens": total, "bytes": total}
    manifest.write(
        folder,
        command="shards",
        config="",
        inputs={"tokenizer": "none"},
        figures={"vocab_size": 32_000, "eos_id": 0, "token_type": "uint16", "train": figures},
        outputs=("train.bin", "train.idx", "train.parquet"),
    )
    return total


def digest(batches: list[Batch]) -> str:
    """One hash of the rows of some parts of a batch."""
    found = hashlib.sha256()
    for name in ("tokens", "targets", "document_start"):
        found.update(np.concatenate([getattr(batch, name) for batch in batches]).tobytes())
    return found.hexdigest()


def resume(folder: Path, step: int, rank: int, world: int) -> dict[str, float]:
    """Seconds and bytes of opening and reading a share of one batch, in a process of its own."""
    command = [sys.executable, __file__, "--resume", str(folder), str(step), str(rank), str(world)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def resumed(folder: Path, step: int, rank: int, world: int) -> None:
    before, used, began = resident(), time.process_time(), time.perf_counter()
    loader = Loader(folder, "train", _LENGTH, _ROWS, 0)
    opened = time.perf_counter()
    share(loader, step, rank, world)
    done = time.perf_counter()
    used = time.process_time() - used
    found = {"open": opened - began, "batch": done - opened, "used": used, "memory": resident() - before}
    print(json.dumps(found))


def resident() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) << 10


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the shards go; by default a temporary one")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--resume", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.resume:
        resumed(Path(given.resume[0]), *map(int, given.resume[1:]))
        return 0
    with tempfile.TemporaryDirectory(prefix="weft-bench-", dir=given.folder) as temporary:
        folder = Path(temporary)
        tokens = make(folder, given.documents)
        began = time.perf_counter()
        loader = Loader(folder, "train", _LENGTH, _ROWS, 0)
        print(f"{given.documents:,} documents, {tokens:,} tokens; the first opening, which hashes and packs")
        print(f"them once: {time.perf_counter() - began:.1f} s; {loader.rows:,} rows of {_LENGTH}")
        padding = 1 - loader.tokens_per_epoch / (loader.rows * _LENGTH)
        print(f"padding {100 * padding:.4f} %")
        rows = []
        for step in (0, 1_000, 1_000_000):
            whole = digest([loader.batch(step)])
            for world in (1, 2, 8):
                if digest([share(loader, step, rank, world) for rank in range(world)]) != whole:
                    sys.exit(f"Step {step:,} read by {world} is another batch.")
                found = resume(folder, step, world - 1, world)
                rows.append({"step": step, "world": world, **found})
                print(
                    f"step {step:9,}, process {world - 1} of {world}: opened in {found['open']:.3f} s, rows "
                    f"in {found['batch']:.3f} s, {found['used']:.3f} s of processor time, "
                    f"{found['memory'] / 1e6:.0f} MB more memory"
                )
    if given.json:
        record = {"documents": given.documents, "tokens": tokens, "padding": padding, "resumed": rows}
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
