"""The documents of a data folder on disk: ``documents/<split>/*.parquet``, read without the data engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from weft.core import manifest
from weft.core.errors import DataError
from weft.data.schema import BYTES, DOCUMENTS, TEXT

COMMAND = "documents"
_ROWS = 256


def record(data_folder: Path) -> dict[str, Any]:
    """The manifest of the documents stage; DataError when it has not finished."""
    found = manifest.read(data_folder / DOCUMENTS)
    if found is None or found.get("command") != COMMAND:
        raise DataError(f"There are no finished documents in {data_folder}; run weft data first.")
    return found


def fingerprint(data_folder: Path) -> str:
    """SHA-256 over the files of all splits: equal for equal documents."""
    outputs = json.dumps(record(data_folder)["outputs"], sort_keys=True)
    return hashlib.sha256(outputs.encode("utf-8")).hexdigest()


def byte_count(data_folder: Path, split: str) -> int:
    """UTF-8 bytes of the texts of a split."""
    return int(record(data_folder)["figures"]["splits"][split][BYTES])


def read(data_folder: Path, split: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Tables of a few hundred documents, in the order of the files, with the ``columns`` asked for.

    Raises DataError when a file is damaged.
    """
    for file in files(data_folder, split):
        yield from read_file(file, columns)


def files(data_folder: Path, split: str) -> list[Path]:
    """The Parquet files of a split, in order."""
    return sorted((data_folder / DOCUMENTS / split).glob("*.parquet"))


def read_file(file: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The same of one file."""
    try:
        with pq.ParquetFile(file) as source:
            for batch in source.iter_batches(batch_size=_ROWS, columns=list(columns)):
                yield pa.Table.from_batches([batch])
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"The documents {file} are damaged ({error}); delete {file.parent.parent} and run "
            "weft data again."
        ) from error


def texts(data_folder: Path, split: str) -> Iterator[str]:
    """The text of every document of a split."""
    for table in read(data_folder, split, [TEXT]):
        yield from table.column(TEXT).to_pylist()
