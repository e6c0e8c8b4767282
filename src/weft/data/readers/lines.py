"""JSON Lines: one record a line, named by the byte where it begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from weft.data import records
from weft.data.config import ReadConfig
from weft.data.readers.part import Broken, Part, too_large
from weft.data.records import Line

_GROUP_BYTES = 4 << 20
_GROUP_LINES = 10_000


def read(stream: BinaryIO, config: ReadConfig) -> Iterator[Part]:
    """Every record of the stream."""
    yield from read_piece(stream, 0, None, config)


def read_piece(stream: BinaryIO, offset: int, length: int | None, config: ReadConfig) -> Iterator[Part]:
    """The records of the lines that begin in ``[offset, offset + length)``; None reads to the end."""
    limit = config.max_document_bytes
    for group, broken in _groups(records.lines_between(stream, offset, length, limit)):
        contents = [line.content for line in group if line.content is not None]
        parsed = iter(records.parse_lines(contents, config.text_field))
        for line in group:
            name = f"#{line.offset}"
            if line.content is None:
                yield too_large(name, line.size, limit)
            else:
                yield Part(name, line.size, *next(parsed))
        if broken is not None:
            raise broken


def _groups(lines: Iterable[Line]) -> Iterator[tuple[list[Line], Broken | None]]:
    """Lines of about 4 MiB together, and with the last of them what broke the stream."""
    group: list[Line] = []
    size = 0
    try:
        for line in lines:
            group.append(line)
            size += line.size
            if size >= _GROUP_BYTES or len(group) >= _GROUP_LINES:
                yield group, None
                group, size = [], 0
    except Broken as broken:
        yield group, broken
        return
    yield group, None
