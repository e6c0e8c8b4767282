"""Texts out of JSON Lines and JSON files; broken records are reported one by one, never the whole file."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.json as pj

from weft.data import encoding

Record = tuple[str | None, str | None, str | None]
"""``(text, reason, value)``."""


@dataclass(frozen=True)
class Line:
    """A line of a file; ``content`` is None, and ``size`` what was seen of it, when it is too long."""

    offset: int
    size: int
    content: bytes | None


def read_lines(file: Path, offset: int, length: int, limit: int) -> Iterator[Line]:
    """The lines of ``file`` that begin in ``[offset, offset + length)``, so that pieces make up the file.

    No more than ``limit`` bytes of a line are held in memory.
    """
    with file.open("rb") as stream:
        yield from lines_between(stream, offset, length, limit)


def lines_between(stream: BinaryIO, offset: int, length: int | None, limit: int) -> Iterator[Line]:
    """The same of an open stream, to its end when ``length`` is None; one that cannot seek needs offset 0."""
    end = sys.maxsize if length is None else offset + length
    start = offset
    if offset:
        stream.seek(offset - 1)
        start = offset - 1 + _skip_line(stream, end - offset + 1)
    while start < end:
        content = stream.readline(limit + 1)
        if not content:
            return
        size = len(content)
        if size > limit and not content.endswith(b"\n"):
            yield Line(start, size, None)
            size += _skip_line(stream, end - start - size)
        elif content.strip():
            yield Line(start, size, content)
        start += size


def parse_lines(lines: Sequence[bytes], field: str) -> list[Record]:
    """The ``field`` of each JSON line: all at once by Arrow, one by one when any of them is broken."""
    if not lines:
        return []
    try:
        table = pj.read_json(
            io.BytesIO(b"".join(lines)),
            read_options=pj.ReadOptions(use_threads=False, block_size=max(1 << 20, 2 * max(map(len, lines)))),
            parse_options=pj.ParseOptions(
                explicit_schema=pa.schema([(field, pa.string())]), unexpected_field_behavior="ignore"
            ),
        )
        if table.num_rows == len(lines):
            return [_record(text) for text in table.column(field).to_pylist()]
    except (pa.ArrowInvalid, UnicodeDecodeError):
        pass
    return [_parse(line, field) for line in lines]


def parse_document(content: str, field: str) -> list[Record]:
    """The texts of a JSON file: an object with ``field``, or a list of such objects."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        return [(None, "bad_json", str(error)[:200])]
    items = value if isinstance(value, list) else [value]
    return [_of_item(item, field) for item in items] or [(None, "no_text", field)]


def _parse(line: bytes, field: str) -> Record:
    try:
        return _of_item(json.loads(line), field)
    except UnicodeDecodeError:
        text, reason, value = encoding.decode(line)
        return (None, reason, value) if text is None else parse_document(text, field)[0]
    except (ValueError, RecursionError) as error:
        return None, "bad_json", str(error)[:200]


def _of_item(item: Any, field: str) -> Record:
    text = item.get(field) if isinstance(item, dict) else None
    if not isinstance(text, str):
        return None, "no_text", field
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return None, "invalid_encoding", "lone surrogate"
    return text, None, None


def _record(text: str | None) -> Record:
    return (text, None, None) if text is not None else (None, "no_text", None)


def _skip_line(stream: BinaryIO, most: int) -> int:
    """Move behind the next line end, or by ``most`` bytes at least; returns how far."""
    skipped = 0
    while skipped < most:
        part = stream.readline(1 << 20)
        skipped += len(part)
        if not part or part.endswith(b"\n"):
            break
    return skipped
