"""WARC: pages and texts of a crawl, named by the byte where their record begins."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from fastwarc.warc import ArchiveIterator, WarcRecordType

from weft.data import encoding
from weft.data.config import ReadConfig
from weft.data.readers.html import page_text
from weft.data.readers.part import Broken, Part, too_large

_TYPES = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion
_SKIP = 1 << 20
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")
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
        for record in ArchiveIterator(counted, record_types=_TYPES, auto_decode="none", strict_mode=False):
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
    if record.http_headers:
        try:
            content = _decoded(content, {k.lower(): v for k, v in record.http_headers}, limit)
        except (zlib.error, ValueError) as error:
            return Part(name, len(content), None, "damaged", str(error))
    if len(content) > limit:
        return too_large(name, len(content), limit)
    replace = config.invalid == "replace"
    if kind in _HTML:
        return Part(name, len(content), *page_text(content, record.http_charset, replace=replace))
    return Part(name, len(content), *encoding.decode(content, replace=replace))


def _decoded(body: bytes, headers: dict[str, str], limit: int) -> bytes:
    """The body without its codings (RFC 9110, 8.4; RFC 9112, 7.1), ``limit + 1`` bytes at most.

    Not FastWARC's own: there one broken page ends the file. Crawlers often leave the headers of codings
    that they took off, so a body that does not look coded is taken as it is.
    """
    if "chunked" in headers.get("transfer-encoding", "").lower() and _SIZE.match(body):
        body = b"".join(_chunks(body))
    coding = headers.get("content-encoding", "").strip().lower()
    if coding in {"gzip", "x-gzip"} and body.startswith(b"\x1f\x8b"):
        return _inflated(body, 31, limit)
    if coding == "deflate":
        # Some servers send it with the header of zlib, some without.
        zlib_header = body[:1] == b"\x78" and int.from_bytes(body[:2], "big") % 31 == 0
        return _inflated(body, 15 if zlib_header else -15, limit)
    if coding in {"br", "zstd"}:
        raise ValueError(f"content encoding {coding} is not read")
    return body


def _inflated(body: bytes, window: int, limit: int) -> bytes:
    inflate = zlib.decompressobj(window)
    content = inflate.decompress(body, limit + 1)
    if len(content) <= limit and not inflate.eof:
        raise ValueError("the compressed body ends early")
    return content


def _chunks(body: bytes) -> Iterator[bytes]:
    at = 0
    while size := _SIZE.match(body, at):
        length = int(size[1], 16)
        if not length:
            return
        yield body[size.end() : size.end() + length]
        at = size.end() + length + len(b"\r\n")
    raise ValueError("the chunks of the body end early")
