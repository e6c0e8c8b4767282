"""Texts of given files, one by one: evaluation items, and good and bad examples for the classifier."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from weft.core.errors import DataError
from weft.data.nested import strings

_RECORDS = (".jsonl", ".ndjson")
_SUFFIXES = (*_RECORDS, ".parquet", ".txt", ".md")


@dataclass(frozen=True)
class Sample:
    """A text, the name of its file, and which item of it (from 0) it belongs to."""

    set: str
    item: int
    text: str


def read_samples(path: Path, fields: Sequence[str] = (), *, by_line: bool = False) -> Iterator[Sample]:
    """The texts of a file, or of all files of a folder in the order of their names.

    Of a record (``.jsonl``, ``.parquet``) each string is a text of its own, however deep it lies; ``fields``
    keeps only those of the fields named. A plain file is one text, or one a line. Raises DataError for a
    missing, unknown or broken file.
    """
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.suffix in _SUFFIXES and file.is_file()]
    else:
        files = [path]
    if not files or not files[0].exists():
        raise DataError(
            f"There are no samples at {path}; give .jsonl, .parquet or .txt files or their folder."
        )
    for file in files:
        for item, record in enumerate(_records(file, by_line)):
            chosen = record
            if fields and isinstance(record, dict):
                chosen = {name: value for name, value in record.items() if name in fields}
            yield from (Sample(file.name, item, text) for text in strings(chosen) if text.strip())


def _records(file: Path, by_line: bool) -> Iterator[Any]:
    try:
        if file.suffix == ".parquet":
            with pq.ParquetFile(file) as source:
                for batch in source.iter_batches(batch_size=1024):
                    yield from batch.to_pylist()
        elif file.suffix in _RECORDS:
            with file.open(encoding="utf-8") as stream:
                yield from (json.loads(line) for line in stream if line.strip())
        elif by_line:
            yield from file.read_text(encoding="utf-8").splitlines()
        else:
            yield file.read_text(encoding="utf-8")
    except (ValueError, OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"The samples in {file} cannot be read ({error}); repair the file or leave it out."
        ) from error
