"""Texts out of JSON Lines and JSON files; broken records are reported one by one, never the whole file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.json as pj

from weft.data import encoding

Record = tuple[str | None, str | None, str | None]
"""``(text, reason, value)``."""
_LINE_FEED, _BRACE = b"\n{"


@dataclass(frozen=True)
class Line:
    """A line of a file; ``content`` is None, and ``size`` what was seen of it, when it is too long."""

    offset: int
    size: int
    content: bytes | None


@dataclass(frozen=True)
class Lines:
    """Good lines of a file: where each begins [N], its bytes [N], its text (strings [N], null without)."""

    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    texts: pa.Array


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
        texts = _column(b"".join(lines), field)
        if len(texts) == len(lines):
            return [_record(text, field) for text in texts.to_pylist()]
    except (pa.ArrowInvalid, UnicodeDecodeError):
        pass
    return [_parse(line, field) for line in lines]


def parse_piece(stream: BinaryIO, offset: int, length: int, limit: int, field: str) -> Lines | None:
    """The lines that begin in ``[offset, offset + length)`` parsed as one column, or None where they need a
    look one by one: a blank or broken line, one of over ``limit`` bytes, a field that is no text."""
    body, begin = _piece(stream, offset, length, limit)
    content = np.frombuffer(body, np.uint8)
    ends = np.flatnonzero(content == _LINE_FEED) + 1
    if not len(ends) or ends[-1] < len(body):
        ends = np.append(ends, len(body))
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    sizes = ends - starts
    if not len(body) or sizes.max() > limit or (content[starts] != _BRACE).any():
        return None
    try:
        texts = _column(body, field)
        texts.validate(full=True)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return None
    return Lines(starts + begin, sizes, texts) if len(texts) == len(starts) else None


def _piece(stream: BinaryIO, offset: int, length: int, limit: int) -> tuple[memoryview, int]:
    """The lines that begin in ``[offset, offset + length)``, and where the first of them begins."""
    stream.seek(offset + length - 1)
    end = offset + length - 1 + len(stream.readline(limit + 1))
    # A line begins at the offset where the byte before it ends one.
    before = min(offset, 1)
    stream.seek(offset - before)
    content = stream.read(end - offset + before)
    start = content.find(b"\n", 0, length) + 1 if before else 0
    if before and not start:
        return memoryview(b""), offset
    return memoryview(content)[start:], offset - before + start


def _column(content: bytes | memoryview, field: str) -> pa.Array:
    """The ``field`` of each line as string array [lines]; ArrowInvalid where Arrow cannot read one."""
    table = pj.read_json(
        pa.BufferReader(content),
        read_options=pj.ReadOptions(use_threads=False, block_size=max(1 << 20, len(content) + 1)),
        parse_options=pj.ParseOptions(
            explicit_schema=pa.schema([(field, pa.string())]), unexpected_field_behavior="ignore"
        ),
    )
    return table.column(field).combine_chunks()


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


def _record(text: str | None, field: str) -> Record:
    return (text, None, None) if text is not None else (None, "no_text", field)


def _skip_line(stream: BinaryIO, most: int) -> int:
    """Move behind the next line end, or by ``most`` bytes at least; returns how far."""
    skipped = 0
    while skipped < most:
        part = stream.readline(1 << 20)
        skipped += len(part)
        if not part or part.endswith(b"\n"):
            break
    return skipped
