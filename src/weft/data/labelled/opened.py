"""Files of labelled data as bytes and lines, plain or compressed (``.zst``, ``.gz``, ``.bz2``).

A line ends with ``\\n``, ``\\r\\n`` or ``\\r``, also mixed, and a byte order mark is no text. Bytes that are
no text stay in the line as lone surrogates (PEP 383), so that one bad line does not end the file.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from weft.core.errors import DataError, UsageError

Files = str | Path | Sequence[str | Path]
_SURROGATE = re.compile("[\ud800-\udfff]")


class Line(NamedTuple):
    """``where`` counts from 0; ``text`` has no line end; ``flaw``: where it is not text, if anywhere."""

    where: str
    text: str
    flaw: str | None


def paths(files: Files) -> list[Path]:
    """The files as given. Raises DataError when there is none, or one is missing or a folder."""
    found = [Path(file) for file in ([files] if isinstance(files, str | Path) else files)]
    if not found:
        raise DataError("There are no files of labelled data; give at least one.")
    for file in found:
        if file.is_dir():
            raise DataError(f"{file} is a folder; give the files in it that are to be read.")
        if not file.exists():
            raise DataError(f"There is no file {file}; check the path.")
    return found


@contextlib.contextmanager
def opened(file: Path) -> Iterator[io.BufferedReader]:
    """The content, decompressed as the suffix says. Raises DataError when it cannot be read."""
    try:
        with pa.input_stream(str(file), compression="detect") as raw, io.BufferedReader(raw) as stream:
            yield stream
    except (pa.ArrowException, OSError, EOFError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"The labelled data {file} cannot be read: {reason}.") from error


def lines(file: Path, encoding: str = "utf-8", newline: str | None = None) -> Iterator[Line]:
    """Every line; with ``newline="\\n"`` a lone ``\\r`` is part of it."""
    with opened(file) as stream:
        try:
            name = codecs.lookup(encoding).name
            text = io.TextIOWrapper(
                stream, "utf-8-sig" if name == "utf-8" else name, "surrogateescape", newline
            )
        except LookupError as error:
            raise UsageError(f"There is no encoding named {encoding!r}; use utf-8 or latin-1.") from error
        with text:
            for number, line in enumerate(text):
                bare = line.removesuffix("\n").removesuffix("\r")
                yield Line(f"{file.name}#{number}", bare, flaw(bare, name))


def blocks(file: Path) -> Iterator[list[Line]]:
    """Runs of lines between blank ones."""
    block: list[Line] = []
    for line in lines(file):
        if line.text.strip(" \t"):
            block.append(line)
        elif block:
            yield block
            block = []
    if block:
        yield block


def flaw(text: str, encoding: str = "utf-8") -> str | None:
    """``byte N`` where ``text`` is not text."""
    if text.isascii() or not (found := _SURROGATE.search(text)):
        return None
    return f"byte {len(text[: found.start()].encode(encoding, 'surrogateescape'))}"


def spelled(value: Any) -> str:
    """The beginning of a value, for a report; what is not text is escaped."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except RecursionError:
        text = type(value).__name__
    return text[:200].encode("utf-8", "backslashreplace").decode("utf-8")
