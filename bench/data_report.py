"""Time and memory of the report of a large data folder.

Makes a folder of Parquet files without the data engine: short Chinese and English texts (their content does
not matter, only the shown ones are read), row groups as ``weft data`` writes them, half as many dropped
documents as kept ones, most of them near duplicates. One thread; processor time and peak memory are printed.

    .venv/bin/python bench/data_report.py --documents 1000000
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from weft.core import manifest
from weft.data.schema import BYTES, ID, KIND, LANGUAGE, REASON, SOURCE, SPLITS, TEXT, VALUE
from weft.recipes.data_report import write_data_report

_PARTS = 20
_LINE = "春眠不觉晓，处处闻啼鸟。 The quick brown fox jumps over the lazy dog. "


def rows(random: np.random.Generator, count: int, part: int) -> dict[str, Any]:
    """Columns of ``count`` documents in fifty folders."""
    return {
        ID: sorted(random.bytes(16).hex() for _ in range(count)),
        SOURCE: [f"web/dump{number % 50}/{part}-{number}.txt" for number in range(count)],
        KIND: ["text"] * count,
        LANGUAGE: np.where(random.random(count) < 0.5, "han", "latin"),
        BYTES: random.integers(64, 100_000, count),
        TEXT: [f"{number} {_LINE * (number % 4)}" for number in range(count)],
    }


def make(folder: Path, documents: int) -> None:
    """A finished documents stage, all of it in training."""
    random = np.random.default_rng(0)
    for split in SPLITS:
        (folder / "documents" / split).mkdir(parents=True)
    (folder / "dropped").mkdir()
    size = documents // _PARTS
    for part in range(_PARTS):
        kept, dropped = rows(random, size, part), rows(random, size // 2, part)
        near = random.random(size // 2) < 0.7
        # Some documents have many duplicates, most have none.
        targets = (size * random.random(size // 2) ** 3).astype(np.int64)
        dropped[REASON] = np.where(near, "near_duplicate", "too_short")
        dropped[VALUE] = [kept[ID][target] for target in targets]
        for where, columns in ((folder / "documents" / "train", kept), (folder / "dropped", dropped)):
            file = where / f"part-{part:05d}.parquet"
            pq.write_table(pa.table(columns), file, compression="zstd", row_group_size=1024)
    figures = {"splits": {split: {"documents": 0, BYTES: 0} for split in SPLITS}}
    manifest.write(folder / "documents", command="documents", config="", inputs={}, figures=figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=1_000_000)
    documents = parser.parse_args().documents
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory() as name:
        # In a process of its own, so that making the folder does not count as memory of the report.
        if (child := os.fork()) == 0:
            make(Path(name), documents)
            os._exit(0)
        os.waitpid(child, 0)
        wall, processor = time.perf_counter(), time.process_time()
        found = write_data_report(Path(name), Path(name) / "report.html")
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
    dropped = sum(count["documents"] for count in found["dropped"].values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{found['kept']['documents']:,} kept and {dropped:,} dropped documents")
    print(f"{processor:.1f} s of processor time, {wall:.1f} s in all, {peak:.0f} MiB at most")


if __name__ == "__main__":
    main()
