"""WARC: pages and texts of a crawl, named by the byte where their record begins."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from fastwarc.warc import ArchiveIterator, WarcRecordType

from weft.data import encoding
from weft.data.config import ReadConfig
from weft.data.readers.html import page_text
from weft.data.readers.part import Broken, Part, too_large

_TYPES = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion
_SKIP = 1 << 20
_HTML = {"text/html", "application/xhtml+xml"}


class _Counted:
    """A stream that only goes forward, as FastWARC wants it: an error inside FastWARC would abort it.

    It knows where it ended, to tell a record that was cut short, and keeps what broke it.
    """

    def __init__(self, inner: BinaryIO) -> None:
        self._inner = inner
        self.size = 0
        self.ended = False
        self.error: Broken | OSError | None = None

    def read(self, size: int = -1) -> bytes:
        """The next bytes, none at the end or where the stream is broken."""
        try:
            part = cast(io.BufferedReader, self._inner).read1(size)
        except (Broken, OSError) as error:
            self.error, part = error, b""
        self.size += len(part)
        self.ended = not part
        return part

    def seek(self, offset: int, whence: int = 0) -> int:
        """Read on to ``offset``; never back."""
        target = offset + self.size if whence == 1 else offset
        while self.size < target and self.read(min(target - self.size, _SKIP)):
            pass
        return self.size

    def tell(self) -> int:
        """Bytes read so far."""
        return self.size

    def close(self) -> None:
        """Nothing: the stream belongs to the caller."""


def read(stream: BinaryIO, config: ReadConfig) -> Iterator[Part]:
    """The text of HTML and plain text in response, resource and conversion records; others have a reason.

    Records of requests, metadata and the like hold no documents and are passed by.
    """
    counted = _Counted(stream)
    try:
        for record in ArchiveIterator(counted, record_types=_TYPES, auto_decode="all", strict_mode=False):
            part = _part(record, config)
            end = record.stream_pos + int(record.headers.get("Content-Length") or 0)
            if counted.ended and counted.size < end:
                break
            yield part
        else:
            if counted.error is None:
                return
    except OSError as error:
        raise counted.error or Broken("damaged", f"{error} before byte {counted.size}") from None
    raise counted.error or Broken("truncated", f"ends after {counted.size} bytes")


def _part(record: Any, config: ReadConfig) -> Part:
    name, limit = f"#{record.stream_pos}", config.max_document_bytes
    kind = (record.http_content_type if record.http_headers else record.headers.get("Content-Type")) or ""
    kind = kind.partition(";")[0].strip().lower()
    status = record.http_headers.status_code if record.http_headers else None
    # Read in every case: the stream must go past the body to know whether it is whole.
    content = record.reader.read(limit + 1)
    if status is not None and status != 200:
        return Part(name, len(content), None, "http_status", str(status))
    if kind not in _HTML and kind != "text/plain":
        return Part(name, len(content), None, "unsupported", kind or "no content type")
    if len(content) > limit:
        return too_large(name, len(content), limit)
    replace = config.invalid == "replace"
    if kind in _HTML:
        return Part(name, len(content), *page_text(content, record.http_charset, replace=replace))
    return Part(name, len(content), *encoding.decode(content, replace=replace))
