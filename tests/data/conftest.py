"""Small data folders, made without the data engine."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weft.core import manifest
from weft.data import shards
from weft.data.schema import SPLITS
from weft.tokenizer import Tokenizer, train

LINES = [
    "def area(width, height):\n    return width * height\n",
    "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。\n",
    "It was the best of times, it was the worst of times. 😀\n",
]


def make_documents(folder: Path, texts: dict[str, list[str]]) -> Path:
    """A finished documents stage with the given texts by split."""
    outputs, figures = [], {}
    for split in SPLITS:
        chosen = texts.get(split, [])
        (folder / "documents" / split).mkdir(parents=True)
        table = pa.table(
            {
                "id": [f"{number:032x}" for number in range(len(chosen))],
                "source": [f"{split}/{number}.txt" for number in range(len(chosen))],
                "kind": ["text"] * len(chosen),
                "language": pa.array(["latin"] * len(chosen), pa.string()),
                "bytes": pa.array([len(text.encode()) for text in chosen], pa.int64()),
                "text": pa.array(chosen, pa.string()),
            }
        )
        pq.write_table(table, folder / "documents" / split / "part-00000.parquet")
        outputs.append(f"{split}/part-00000.parquet")
        figures[split] = {"documents": len(chosen), "bytes": sum(len(text.encode()) for text in chosen)}
    manifest.write(
        folder / "documents",
        command="documents",
        config="",
        inputs={},
        figures={"splits": figures},
        outputs=tuple(outputs),
    )
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train(iter(LINES * 3), 384)


@pytest.fixture(scope="session")
def texts() -> dict[str, list[str]]:
    random = np.random.default_rng(7)
    made = [
        "".join(LINES[i] for i in random.integers(0, 3, size)) for size in random.integers(1, 12, 60).tolist()
    ]
    return {"train": made[:50], "valid": made[50:55], "test": [*made[55:], "x"]}


@pytest.fixture(scope="session")
def shards_folder(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, texts: dict[str, list[str]]
) -> Path:
    folder = make_documents(tmp_path_factory.mktemp("data"), texts)
    shards.write(folder, tokenizer, folder / "shards")
    return folder / "shards"


@pytest.fixture(scope="session")
def make_shards(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer
) -> Callable[[dict[str, list[str]]], Path]:
    """Makes a shards folder of the given texts by split."""

    def make(texts: dict[str, list[str]]) -> Path:
        folder = make_documents(tmp_path_factory.mktemp("made"), texts)
        shards.write(folder, tokenizer, folder / "shards")
        return folder / "shards"

    return make
