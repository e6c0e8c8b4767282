"""ZIP and tar: members as streams. Nothing is ever written to disk, and no member reaches outside."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

from weft.data import encoding
from weft.data.config import ReadConfig
from weft.data.readers.part import Broken
from weft.data.readers.unpack import Meter, metered

_UTF8_NAME = 0x800
_ENCRYPTED = 0x1
# tarfile loses what it read in the call that fails.
_TAR_CALL = 1 << 14


@dataclass(frozen=True)
class Member:
    """A file in an archive: an open ``stream``, or the ``reason`` why it is not read."""

    name: str
    size: int
    stream: BinaryIO | None
    reason: str | None = None
    value: str | None = None


def zip_members(stream: BinaryIO, config: ReadConfig) -> Iterator[Member]:
    """The members of a ZIP file, in the order of its directory; ``stream`` must be able to seek.

    Raises Broken where the archive is damaged or unpacks to too much.
    """
    size = stream.seek(0, 2)
    try:
        archive = zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise Broken("damaged", str(error)) from None
    whole = Meter(config.max_archive_bytes, config.max_ratio, lambda: size)
    with archive:
        for entry in archive.infolist():
            name = _zip_name(entry)
            mode = entry.external_attr >> 16
            if entry.is_dir():
                continue
            reason, value = _refusal(name)
            if stat.S_ISLNK(mode):
                reason, value = "link", name
            elif entry.flag_bits & _ENCRYPTED:
                reason, value = "encrypted", "it needs a password"
            if reason is not None:
                yield Member(name, entry.file_size, None, reason, value)
                continue
            packed = max(1, entry.compress_size)
            own = Meter(config.max_member_bytes, config.max_ratio, lambda packed=packed: packed)  # type: ignore[misc]
            try:
                member = archive.open(entry)
            except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
                yield Member(name, entry.file_size, None, "damaged", str(error)[:200])
                continue
            with member:
                yield Member(name, entry.file_size, metered(member, (own, whole)))


def tar_members(stream: BinaryIO, config: ReadConfig) -> Iterator[Member]:
    """The members of a tar file, read in one go from the start; each must be read before the next.

    Raises Broken where the archive is damaged or ends early.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as archive:
            for entry in archive:
                # Else a list of all members grows with the archive.
                archive.members = []  # type: ignore[attr-defined]
                if entry.isdir():
                    continue
                name = _printable(entry.name)
                reason, value = _refusal(name)
                if entry.issym() or entry.islnk():
                    reason, value = "link", f"to {_printable(entry.linkname)}"
                elif not entry.isfile():
                    reason, value = "unreadable", "not a regular file"
                if reason is not None:
                    yield Member(name, entry.size, None, reason, value)
                    continue
                own = Meter(config.max_member_bytes, config.max_ratio, None)
                with cast(BinaryIO, archive.extractfile(entry)) as member:
                    yield Member(name, entry.size, metered(member, (own,), _TAR_CALL))
    except tarfile.TarError as error:
        short = "unexpected end" in str(error) or "truncated" in str(error)
        raise Broken("truncated" if short else "damaged", str(error)) from None


class _Header(tarfile.TarInfo):
    """A header that says when it is damaged or missing: tarfile takes that for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Header:
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            kind = type(error).__name__
            if kind == "EOFHeaderError":
                raise
            short = "unexpected end of data" if kind == "EmptyHeaderError" else str(error)
            raise tarfile.ReadError(f"{short} at byte {archive.offset}") from None


def _refusal(name: str) -> tuple[str | None, str | None]:
    """The reason not to read a member whose name would lead out of a folder it were unpacked in."""
    plain = name.replace("\\", "/")
    if plain.startswith("/") or plain[1:2] == ":" or ".." in plain.split("/"):
        return "unsafe_path", name
    return None, None


def _zip_name(entry: zipfile.ZipInfo) -> str:
    """The name; where it is not said to be UTF-8 it may be GBK, which zipfile takes for code page 437."""
    if entry.flag_bits & _UTF8_NAME or entry.filename.isascii():
        return _printable(entry.filename)
    try:
        raw = entry.filename.encode("cp437")
    except UnicodeEncodeError:
        return _printable(entry.filename)
    return encoding.decode(raw)[0] or _printable(entry.filename)


def _printable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
