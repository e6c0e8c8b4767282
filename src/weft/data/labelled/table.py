"""Tables whose first line names the columns: CSV (RFC 4180) and tab-separated text.

In CSV a cell in quotes may hold commas, line ends and doubled quotes; in TSV a quote is a character like any
other, as GLUE and the Chinese sets have it.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from weft.core.errors import DataError
from weft.data.examples import Record
from weft.data.labelled.opened import Files, Line, flaw, lines, paths

Row = tuple[str, list[str], str | None]
"""``(where, cells, what is wrong with it as CSV)``."""


def read_csv(files: Files) -> Iterator[Record]:
    """A dictionary of each row of CSV; after a quote that is not closed reading goes on in the next line."""
    for file in paths(files):
        yield from _records(file, _quoted(lines(file)))


def read_tsv(files: Files) -> Iterator[Record]:
    """A dictionary of each line of tab-separated text."""
    for file in paths(files):
        yield from _records(file, ((line.where, line.text.split("\t"), None) for line in lines(file)))


def _records(file: Path, rows: Iterator[Row]) -> Iterator[Record]:
    filled = (row for row in rows if row[2] is not None or len(row[1]) > 1 or "".join(row[1]).strip())
    header = next(filled, None)
    if header is None:
        raise DataError(f"The table {file} is empty; its first line names the columns.")
    names = _names(file, header)
    for where, cells, wrong in filled:
        if wrong is not None:
            yield where, None, "bad_csv", wrong
        elif (broken := flaw("\n".join(cells))) is not None:
            yield where, None, "invalid_encoding", broken
        elif len(cells) != len(names):
            reason = "too_few_columns" if len(cells) < len(names) else "too_many_columns"
            yield where, None, reason, str(len(cells))
        else:
            yield where, dict(zip(names, cells, strict=True)), None, None


def _names(file: Path, header: Row) -> list[str]:
    names = [name.strip() for name in header[1]]
    wrong = header[2]
    if wrong is None and flaw("".join(names)) is not None:
        wrong = "it is not UTF-8"
    if wrong is None and len(set(names)) < len(names):
        wrong = f"it names {next(name for name in names if names.count(name) > 1)!r} twice"
    if wrong is not None:
        raise DataError(f"The first line of the table {file} does not name its columns: {wrong}.")
    return names


def _quoted(source: Iterator[Line]) -> Iterator[Row]:
    waiting: deque[Line] = deque()
    taken: list[Line] = []

    def feed() -> Iterator[str]:
        while line := (waiting.popleft() if waiting else next(source, None)):
            taken.append(line)
            yield line.text + "\n"

    while True:
        taken.clear()
        try:
            cells = next(csv.reader(feed(), strict=True), None)
        except csv.Error as error:
            yield taken[0].where, [], str(error)
            waiting.extendleft(reversed(taken[1:]))
            continue
        if cells is None:
            return
        yield taken[0].where, cells, None
