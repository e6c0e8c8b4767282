"""Supervised examples out of JSON Lines, JSON, Parquet and tab-separated files, plain or compressed.

Every record comes with where it was; a line that is broken comes with the reason, and the rest goes on.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from weft.core.errors import DataError

Record = tuple[str, Any, str | None, str | None]
"""``(where, record, reason, value)``; the record is None when a reason is given."""

SUFFIXES = (".jsonl", ".json", ".parquet", ".tsv")
_PACKED = (".gz", ".bz2", ".zst")
_BATCH = 1024


def records(files: Sequence[str | Path], fields: tuple[str, str]) -> Iterator[Record]:
    """Every record of the files (folders: all files of a known suffix below them), in sorted order.

    A line of a tab-separated file becomes a record with the two ``fields``: its columns of these names, if
    the first line names them; columns by number, from 1, where both are numbers; else its first two. Raises
    DataError for a file that is missing, of another kind or unreadable as a whole.
    """
    found = [file for given in files for file in _expand(Path(given))]
    if not found:
        raise DataError(f"There are no examples: give files that end in {', '.join(SUFFIXES)}.")
    for file in found:
        try:
            yield from _of_file(file, fields)
        except (pa.ArrowException, OSError, EOFError) as error:
            raise DataError(f"The examples {file} cannot be read: {str(error).splitlines()[0]}.") from error


def kind(file: Path) -> str | None:
    """The suffix that decides how a file is read, that of its content where it is compressed."""
    inner = Path(file.stem) if file.suffix in _PACKED else file
    return inner.suffix if inner.suffix in SUFFIXES else None


def _expand(given: Path) -> list[Path]:
    if given.is_dir():
        return sorted(file for file in given.rglob("*") if file.is_file() and kind(file))
    if not given.exists():
        raise DataError(f"There is no file {given}; check the path.")
    if kind(given) is None:
        raise DataError(f"{given} is of no known kind; give files that end in {', '.join(SUFFIXES)}.")
    return [given]


def _of_file(file: Path, fields: tuple[str, str]) -> Iterator[Record]:
    how = kind(file)
    if how == ".parquet":
        with pq.ParquetFile(file) as source:
            rows = (row for batch in source.iter_batches(_BATCH) for row in batch.to_pylist())
            yield from ((f"{file.name}#{number}", row, None, None) for number, row in enumerate(rows))
        return
    with pa.input_stream(str(file), compression="detect") as raw, io.BufferedReader(raw) as stream:
        if how == ".json":
            yield from _of_json(file.name, stream.read())
        elif how == ".jsonl":
            for number, line in enumerate(stream):
                if line.strip():
                    yield _parsed(f"{file.name}#{number}", line)
        else:
            yield from _of_table(file.name, stream, fields)


def _of_json(name: str, content: bytes) -> Iterator[Record]:
    where, value, reason, detail = _parsed(name, content)
    items = value if isinstance(value, list) else [value]
    if reason is not None:
        yield where, None, reason, detail
        return
    yield from ((f"{name}#{number}", item, None, None) for number, item in enumerate(items))


def _of_table(name: str, lines: io.BufferedReader, fields: tuple[str, str]) -> Iterator[Record]:
    places = _numbered(fields) or (0, 1)
    for number, line in enumerate(lines):
        try:
            cells = line.decode("utf-8").rstrip("\r\n").split("\t")
        except UnicodeDecodeError as error:
            yield f"{name}#{number}", None, "invalid_encoding", f"byte {error.start}"
            continue
        if number == 0 and set(fields) <= set(cells):
            places = (cells.index(fields[0]), cells.index(fields[1]))
        elif len(cells) <= max(places):
            yield f"{name}#{number}", None, "too_few_columns", str(len(cells))
        else:
            pair = {field: cells[place] for field, place in zip(fields, places, strict=True)}
            yield f"{name}#{number}", pair, None, None


def _numbered(fields: tuple[str, str]) -> tuple[int, int] | None:
    """Places of columns that are given by number."""
    numbers = [int(field) for field in fields if re.fullmatch("[1-9][0-9]?", field)]
    return (numbers[0] - 1, numbers[1] - 1) if len(numbers) == 2 else None


def _parsed(where: str, content: bytes) -> Record:
    try:
        return where, json.loads(content), None, None
    except UnicodeDecodeError as error:
        return where, None, "invalid_encoding", f"byte {error.start}"
    except (ValueError, RecursionError) as error:
        return where, None, "bad_json", str(error)[:200]
