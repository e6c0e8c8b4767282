"""Standard input as a source: kept in a temporary file, because the engine reads files, and twice."""

from __future__ import annotations

import atexit
import hashlib
import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

from weft.core.errors import DataError
from weft.core.files import disk_errors
from weft.data import kinds
from weft.data.config import ReadConfig
from weft.data.readers.unpack import read_whole, unpack

NAME = "-"
_HEAD = 1 << 16
_COMPRESSED = {
    b"\x1f\x8b": kinds.GZIP,
    b"\x28\xb5\x2f\xfd": kinds.ZSTD,
    b"BZh": kinds.BZIP2,
    b"\xfd7zXZ\x00": kinds.XZ,
}
_SUFFIXES = {kinds.GZIP: ".gz", kinds.ZSTD: ".zst", kinds.BZIP2: ".bz2", kinds.XZ: ".xz"}
_FORMATS = {b"PK\x03\x04": ".zip", b"PAR1": ".parquet", b"%PDF-": ".pdf", b"WARC/": ".warc"}


def spool(stream: BinaryIO | None = None) -> tuple[Path, int]:
    """Copy standard input (or ``stream``) to a file that goes when Python ends.

    Returns the file, whose suffix says what its first bytes look like (JSON Lines, a compressed or other
    known format, else text), and a number made of its content. Raises DataError when nothing comes in.
    """
    stream = sys.stdin.buffer if stream is None else stream
    folder = Path(tempfile.mkdtemp(prefix="weft-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    digest = hashlib.sha256()
    part = folder / "part"
    with disk_errors(part), part.open("wb") as out:
        head = stream.read(_HEAD)
        block = head
        while block:
            digest.update(block)
            out.write(block)
            block = stream.read(1 << 20)
    if not head:
        raise DataError("Nothing came in on standard input; give a file or folder instead of -.")
    return part.rename(folder / f"stdin{_suffix(head)}"), int.from_bytes(digest.digest()[:7])


def _suffix(head: bytes) -> str:
    how = next((how for magic, how in _COMPRESSED.items() if head.startswith(magic)), None)
    if how is None:
        return _inner_suffix(head)
    # The head of what is inside; that it breaks off is no news.
    inner, _ = read_whole(unpack(io.BytesIO(head), how, ReadConfig(), sys.maxsize), _HEAD)
    return _inner_suffix(inner) + _SUFFIXES[how]


def _inner_suffix(head: bytes) -> str:
    for magic, suffix in _FORMATS.items():
        if head.startswith(magic):
            return suffix
    if head[257:262] == b"ustar":
        return ".tar"
    return ".jsonl" if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") else ".txt"
