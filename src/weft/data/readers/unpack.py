"""Compressed streams, with limits on what a small file may unpack to."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import pyarrow as pa

from weft.data import kinds
from weft.data.config import ReadConfig
from weft.data.readers.part import Broken

_BUFFER = 1 << 18
# Arrow loses what it unpacked in the call that fails, so its calls are small.
_CALL = {kinds.ZSTD: 1 << 13}
_RATIO_FROM = 16 << 20


class Meter:
    """Counts unpacked bytes; raises Broken (``zip_bomb``) beyond ``most``, or ``ratio`` times ``packed()``.

    The ratio is looked at after 16 MiB: below, a file of one repeated line is no danger.
    """

    def __init__(self, most: int, ratio: int, packed: Callable[[], int] | None) -> None:
        self.size = 0
        self._most, self._ratio, self._packed = most, ratio, packed

    def add(self, count: int) -> None:
        """Count ``count`` more bytes."""
        self.size += count
        if self.size > self._most:
            raise Broken("zip_bomb", f"unpacks to more than {self._most} bytes")
        if self._packed and self.size > _RATIO_FROM and self.size > self._ratio * max(1, self._packed()):
            raise Broken("zip_bomb", f"unpacks to more than {self._ratio} times its size")


class Unpacked(io.RawIOBase):
    """The bytes of ``inner``, metered; what decompressors raise becomes Broken. It cannot be rewound."""

    def __init__(self, inner: Any, meters: tuple[Meter, ...], call: int = _BUFFER) -> None:
        self._inner, self._meters, self._call = inner, meters, call
        self._size = 0

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` as far as one call of the decompressor does."""
        part = self._part(min(len(buffer), self._call))
        for meter in self._meters:
            meter.add(len(part))
        self._size += len(part)
        buffer[: len(part)] = part
        return len(part)

    def _part(self, count: int) -> bytes:
        try:
            return cast(bytes, self._inner.read1(count))
        except EOFError:
            raise Broken("truncated", f"ends after {self._size} bytes") from None
        except RuntimeError as error:
            # zipfile has no class of its own for a missing password.
            raise Broken("encrypted", str(error)) from None
        except (zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            # Arrow and tarfile tell the two apart by their words only.
            if any(word in str(error).lower() for word in ("truncated", "unexpected end")):
                raise Broken("truncated", f"ends after {self._size} bytes") from None
            raise Broken("damaged", f"{error} after {self._size} bytes") from None


def unpack(stream: BinaryIO, how: str, config: ReadConfig, most: int) -> BinaryIO:
    """The unpacked bytes of ``stream``, compressed with ``how`` (``kinds.GZIP``, ...), ``most`` at most.

    Reading raises Broken: ``truncated``, ``damaged`` or ``zip_bomb``.
    """
    meter = Meter(most, config.max_ratio, stream.tell)
    return metered(_decompressor(stream, how), (meter,), _CALL.get(how, _BUFFER))


def metered(inner: Any, meters: tuple[Meter, ...], call: int = _BUFFER) -> BinaryIO:
    """A buffered stream over ``inner`` that counts what is read and raises Broken."""
    return cast(BinaryIO, io.BufferedReader(Unpacked(inner, meters, call), _BUFFER))


def read_whole(stream: BinaryIO, limit: int) -> tuple[bytes, Broken | None]:
    """Up to ``limit + 1`` bytes, and what broke the stream after them."""
    parts: list[bytes] = []
    left = limit + 1
    try:
        while left > 0 and (part := cast(io.BufferedReader, stream).read1(min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
    except Broken as broken:
        return b"".join(parts), broken
    return b"".join(parts), None


def _decompressor(stream: BinaryIO, how: str) -> Any:
    if how == kinds.GZIP:
        return gzip.GzipFile(fileobj=stream)
    if how == kinds.BZIP2:
        return bz2.BZ2File(stream)
    if how == kinds.XZ:
        return lzma.LZMAFile(stream)
    return pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd")
