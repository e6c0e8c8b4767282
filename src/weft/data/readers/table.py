"""CSV and TSV: one record a row, the text in the column that the header names so."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO, Literal

from weft.data import encoding
from weft.data.config import ReadConfig
from weft.data.readers.part import Broken, Part, too_large

_HEAD = 1 << 16
_DELIMITERS = (",", ";", "\t", "|")
_RECOVERIES = 1000

Quoting = Literal[0, 3]
"""``csv.QUOTE_MINIMAL`` or ``csv.QUOTE_NONE``."""


def read_csv(stream: BinaryIO, config: ReadConfig) -> Iterator[Part]:
    """Rows of RFC 4180; where the header needs it the delimiter is ``;``, tab or ``|`` instead."""
    return _read(stream, config, _DELIMITERS, csv.QUOTE_MINIMAL)


def read_tsv(stream: BinaryIO, config: ReadConfig) -> Iterator[Part]:
    """Rows of text/tab-separated-values, where a quotation mark is a character like any other."""
    return _read(stream, config, ("\t",), csv.QUOTE_NONE)


class _LongLine(csv.Error):
    """A line longer than a document may be, of which only the beginning is in memory."""


class _Lines:
    """Lines of text for the csv module, which remembers those of the record it is in.

    ``record`` holds them so that, when a quotation mark is never closed, the lines behind it can be read
    again as records of their own.
    """

    def __init__(self, stream: io.TextIOWrapper, limit: int) -> None:
        self._stream, self._limit = stream, limit
        self._again: Iterator[str] = iter(())
        self.record: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._again, "") or self._stream.readline(self._limit + 1)
        if not line:
            raise StopIteration
        self.record.append(line)
        if len(line) > self._limit:
            while line and not line.endswith("\n"):
                line = self._stream.readline(1 << 20)
            raise _LongLine("line over the limit")
        return line

    def put_back(self) -> None:
        """Give the lines of the record but its first once more."""
        self._again = chain(self.record[1:], self._again)


def _read(
    stream: BinaryIO, config: ReadConfig, delimiters: tuple[str, ...], quoting: Quoting
) -> Iterator[Part]:
    head = _peek(stream)
    name = encoding.detect(head)
    if name is None:
        _, reason, value = encoding.decode(head)
        raise Broken(reason or "invalid_encoding", value or "of no known encoding")
    limit = config.max_document_bytes
    # A limit of the whole process, the same for every file of a run.
    csv.field_size_limit(limit)
    # Characters that cannot be decoded are found again as lone surrogates, row by row.
    text = io.TextIOWrapper(stream, encoding=name, errors="surrogateescape", newline="")
    try:
        yield from _parts(_Lines(text, limit), config, delimiters, quoting)
    finally:
        # Closing is for the one who opened it.
        with contextlib.suppress(ValueError):
            text.detach()


def _parts(
    lines: _Lines, config: ReadConfig, delimiters: tuple[str, ...], quoting: Quoting
) -> Iterator[Part]:
    header = next(lines, "").removeprefix("\ufeff")
    delimiter, columns = _header(header, delimiters, quoting, config.text_field)
    if config.text_field not in columns:
        raise Broken("no_text", f"columns are {', '.join(columns)}")
    index, replace = columns.index(config.text_field), config.invalid == "replace"
    for number, (row, size, problem) in enumerate(_rows(lines, delimiter, quoting)):
        place = f"#{number}"
        if row is None and "limit" in problem:
            yield too_large(place, size, config.max_document_bytes)
        elif row is None:
            yield Part(place, size, None, "bad_csv", problem)
        elif len(row) == len(columns):
            yield _part(place, row[index], size, replace)
        elif row:
            found = f"{len(row)} columns instead of {len(columns)}"
            yield Part(place, size, None, "bad_csv", found)


def _rows(lines: _Lines, delimiter: str, quoting: Quoting) -> Iterator[tuple[list[str] | None, int, str]]:
    """``(row, characters, problem)``, row None when there is a problem; after one the next line is tried."""
    left = _RECOVERIES
    while True:
        reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
        try:
            while True:
                lines.record.clear()
                row = next(reader)
                yield row, sum(map(len, lines.record)), ""
        except StopIteration:
            return
        except csv.Error as error:
            if left and len(lines.record) > 1 and not isinstance(error, _LongLine):
                left -= 1
                lines.put_back()
                yield None, len(lines.record[0]), str(error)
            else:
                yield None, sum(map(len, lines.record)), str(error)


def _part(name: str, text: str, characters: int, replace: bool) -> Part:
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        if not replace:
            return Part(name, characters, None, "invalid_encoding", f"character {error.start}")
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        size = len(text.encode("utf-8"))
    return Part(name, size, text)


def _header(line: str, delimiters: tuple[str, ...], quoting: Quoting, field: str) -> tuple[str, list[str]]:
    """The first delimiter under which the header has the field; else the first of all."""
    found = [(mark, next(csv.reader([line], delimiter=mark, quoting=quoting), [])) for mark in delimiters]
    found = [(mark, [column.strip() for column in columns]) for mark, columns in found]
    return next((pair for pair in found if field in pair[1]), found[0])


def _peek(stream: BinaryIO) -> bytes:
    """The head of the stream, which stays to be read."""
    assert isinstance(stream, io.BufferedReader)
    return stream.peek(_HEAD)
