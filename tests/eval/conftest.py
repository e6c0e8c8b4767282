"""A data folder as ``weft data`` leaves it, made without the data engine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weft.core import manifest
from weft.data import shards
from weft.data.documents import COMMAND
from weft.data.schema import BYTES, DOCUMENTS, ID, LANGUAGE, SHARDS, SOURCE, SPLITS, TEXT
from weft.tokenizer import Tokenizer


def function(number: int) -> str:
    return (
        f"def f{number}(a, b={number}):\n    total = a * {number} + b\n    return total\n\n\n"
        f"class C{number}:\n    def m(self, x):\n        # 今天天气很好\n        return x + {number}\n"
    )


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Tokenizer) -> Path:
    """60 training, 3 validation and 5 test documents of Python with Chinese comments, and their shards."""
    folder = tmp_path_factory.mktemp("data")
    texts = {"train": range(60), "valid": range(60, 63), "test": range(63, 68)}
    names, sizes = [], {}
    for split in SPLITS:
        rows = [function(n) * (1 + n % 3) for n in texts[split]]
        table = pa.table(
            {
                ID: [hashlib.sha256(text.encode()).hexdigest()[:32] for text in rows],
                SOURCE: [f"{n}.py" for n in texts[split]],
                LANGUAGE: ["python"] * len(rows),
                TEXT: rows,
            }
        )
        (folder / DOCUMENTS / split).mkdir(parents=True)
        names.append(f"{split}/0.parquet")
        pq.write_table(table, folder / DOCUMENTS / names[-1])
        sizes[split] = {BYTES: sum(len(text.encode()) for text in rows)}
    record = {"command": COMMAND, "config": "", "inputs": {}, "figures": {"splits": sizes}}
    manifest.write(folder / DOCUMENTS, outputs=tuple(names), **record)
    shards.write(folder, tiny_tokenizer, folder / SHARDS)
    return folder
