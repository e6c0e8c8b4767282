"""Parallel text: two files whose lines are translations of each other (Moses, WMT, Multi30k)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from weft.core.errors import DataError
from weft.data.examples import Record
from weft.data.labelled.opened import Files, Line, lines, paths


def read(files: Files) -> Iterator[Record]:
    """``{"source", "target"}`` of each line of the two files; one with an empty side is reported.

    A lone ``\\r`` ends no line here, for it seldom stands on both sides. Raises DataError, before the first
    pair, when the files are not two or have different numbers of lines.
    """
    given = paths(files)
    if len(given) != 2:
        raise DataError(f"Parallel text is two files, source and target, not {len(given)}.")
    first, second = given
    counts = [sum(1 for _ in _lines(file)) for file in given]
    if counts[0] != counts[1]:
        raise DataError(
            f"{first} has {counts[0]:,} lines and {second} has {counts[1]:,}; "
            "give two files in which line n translates line n."
        )
    for source, target in zip(_lines(first), _lines(second), strict=True):
        yield _pair(source, target)


def _pair(source: Line, target: Line) -> Record:
    sides = {"source": source, "target": target}
    for side, line in sides.items():
        if line.flaw is not None:
            return source.where, None, "invalid_encoding", f"{side}, {line.flaw}"
    texts = {side: line.text.strip() for side, line in sides.items()}
    empty = [side for side, text in texts.items() if not text]
    if empty:
        return source.where, None, "empty", " and ".join(empty)
    return source.where, texts, None, None


def _lines(file: Path) -> Iterator[Line]:
    return lines(file, newline="\n")
