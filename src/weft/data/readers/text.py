"""Plain text and code: one file, one document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from weft.data import encoding
from weft.data.config import ReadConfig
from weft.data.readers.part import Part, too_large
from weft.data.readers.unpack import read_whole


def read(stream: BinaryIO, config: ReadConfig) -> Iterator[Part]:
    """The text of the stream; of one that breaks off, the whole lines before the break."""
    content, broken = read_whole(stream, config.max_document_bytes)
    if len(content) > config.max_document_bytes:
        yield too_large("", len(content), config.max_document_bytes)
        return
    if broken is not None:
        content = content[: content.rfind(b"\n") + 1]
    if content or broken is None:
        yield Part("", len(content), *encoding.decode(content, replace=config.invalid == "replace"))
    if broken is not None:
        raise broken
