"""JSON files: one document, or a list of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from weft.data import encoding, records
from weft.data.config import ReadConfig
from weft.data.readers.part import Part, too_large
from weft.data.readers.unpack import read_whole


def read(stream: BinaryIO, config: ReadConfig) -> Iterator[Part]:
    """The texts of an object with the text field, or of a list of such objects."""
    content, broken = read_whole(stream, config.max_document_bytes)
    if broken is not None:
        raise broken
    if len(content) > config.max_document_bytes:
        yield too_large("", len(content), config.max_document_bytes)
        return
    text, reason, value = encoding.decode(content, replace=config.invalid == "replace")
    if text is None:
        yield Part("", len(content), None, reason, value)
        return
    parsed = records.parse_document(text, config.text_field)
    for number, record in enumerate(parsed):
        name = "" if len(parsed) == 1 else f"#{number}"
        yield Part(name, len(content) // len(parsed), *record)
