"""Every document in a file of any kind: compression off, archive opened, the format's reader applied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import BinaryIO

from weft.data import kinds
from weft.data.config import ReadConfig
from weft.data.readers import archive, epub, html, json, lines, parquet, pdf, table, text, warc
from weft.data.readers.archive import Member
from weft.data.readers.part import Broken, Part, Reader
from weft.data.readers.unpack import unpack

READERS: Mapping[str, Reader] = {
    kinds.TEXT: text.read,
    kinds.CODE: text.read,
    kinds.LINES: lines.read,
    kinds.JSON: json.read,
    kinds.CSV: table.read_csv,
    kinds.TSV: table.read_tsv,
    kinds.PARQUET: parquet.read,
    kinds.HTML: html.read,
    kinds.WARC: warc.read,
    kinds.EPUB: epub.read,
    kinds.PDF: pdf.read,
}
"""The reader of each kind of file that is no archive."""

_REST = "#rest"


def documents(
    stream: BinaryIO, path: PurePath, kind: str, language: str | None, config: ReadConfig
) -> Iterator[Part]:
    """Every document of an open file, a part each; names are unique within the file.

    What cannot be read, from the file itself to one record of a member, is a part with a reason; where a
    file breaks off, the parts before stand and one named ``#rest`` says why. OSError of the operating
    system passes through.
    """
    how = kinds.compression(path)
    given = False
    try:
        if how is not None:
            most = config.max_archive_bytes if kind in kinds.ARCHIVES else config.max_member_bytes
            stream = unpack(stream, how, config, most)
        parts = _members(stream, kind, config) if kind in kinds.ARCHIVES else READERS[kind](stream, config)
        for part in parts:
            given = True
            yield part._replace(kind=kind, language=language) if kind == kinds.CODE else part
    except Broken as broken:
        yield Part(_REST if given else "", 0, None, broken.reason, broken.value)
        return
    if not given and kind in kinds.ARCHIVES:
        yield Part("", 0, None, "empty", "no files in the archive")


def _members(stream: BinaryIO, kind: str, config: ReadConfig) -> Iterator[Part]:
    open_archive = archive.zip_members if kind == kinds.ZIP else archive.tar_members
    seen: dict[str, int] = {}
    for member in open_archive(stream, config):
        path = PurePath(member.name)
        if any(name.startswith(".") or name in config.exclude for name in path.parts if name != ".."):
            # As in folders: hidden files, and what __MACOSX and the like hold, are not documents.
            continue
        number = seen[member.name] = seen.get(member.name, 0) + 1
        label = f"#{member.name}" + (f"~{number}" if number > 1 else "")
        for part in _member(member, path, config):
            yield part._replace(name=label + part.name)


def _member(member: Member, path: PurePath, config: ReadConfig) -> Iterator[Part]:
    kind, language, reason = kinds.classify(path)
    value: str | None = path.suffix or None
    if member.reason is not None:
        reason, value = member.reason, member.value
    elif kind in kinds.ARCHIVES:
        reason = "nested_archive"
    elif reason is None and config.suffixes and not path.name.endswith(config.suffixes):
        reason = "other_suffix"
    if reason is not None or member.stream is None or kind is None:
        yield Part("", member.size, None, reason, value or path.name)
        return
    if kind in kinds.WHOLE and member.size > config.max_document_bytes and not kinds.compression(path):
        yield Part("", member.size, None, "too_large", str(member.size))
        return
    yield from documents(member.stream, path, kind, language, config)
