"""What a reader gives: one document, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from weft.data import kinds
from weft.data.config import ReadConfig


class Part(NamedTuple):
    """A document of a file. Exactly one of ``text`` and ``reason`` is None."""

    name: str
    """What follows the file's own name: empty for the file itself, ``#n`` for a record, ``#member``."""
    size: int
    """Bytes of the document as it was stored."""
    text: str | None
    reason: str | None = None
    value: str | None = None
    kind: str = kinds.TEXT
    language: str | None = None


class Broken(Exception):
    """A file that cannot be read further; the parts given before it stand.

    Never leaves the readers: it becomes a part with ``reason`` and ``value``.
    """

    def __init__(self, reason: str, value: str) -> None:
        super().__init__(f"{reason}: {value}")
        self.reason = reason
        self.value = value[:200]


Reader = Callable[[BinaryIO, ReadConfig], Iterator[Part]]
"""Reads an open stream, which may be impossible to rewind; raises Broken or OSError where it ends early."""


def too_large(name: str, size: int, limit: int) -> Part:
    """The part of a document of more than ``limit`` bytes, of which ``size`` were seen."""
    return Part(name, size, None, "too_large", f"over {limit}")
