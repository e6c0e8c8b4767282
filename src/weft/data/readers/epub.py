"""EPUB: the chapters of a book, in the order of its spine, as one document."""

from __future__ import annotations

import io
import posixpath
import zipfile
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import unquote
from xml.etree import ElementTree

from weft.data.config import ReadConfig
from weft.data.readers.html import page_text
from weft.data.readers.part import Broken, Part, too_large
from weft.data.readers.unpack import Meter, metered, read_whole

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_PAGES = {"application/xhtml+xml", "text/html"}


def read(stream: BinaryIO, config: ReadConfig) -> Iterator[Part]:
    """The text of the book; raises Broken where it is damaged or encrypted (fonts may be)."""
    content, broken = read_whole(stream, config.max_document_bytes)
    if broken is not None:
        raise broken
    if len(content) > config.max_document_bytes:
        yield too_large("", len(content), config.max_document_bytes)
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as book:
            yield Part("", len(content), *_text(_Book(book, len(content), config), config))
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError, NotImplementedError) as error:
        raise Broken("damaged", str(error)) from None


class _Book:
    """The files of a book, which together unpack to ``max_document_bytes`` at most."""

    def __init__(self, book: zipfile.ZipFile, size: int, config: ReadConfig) -> None:
        self._book = book
        self._limit = config.max_document_bytes
        self._meter = Meter(self._limit, config.max_ratio, lambda: size)

    def names(self) -> list[str]:
        """The files in the book."""
        return self._book.namelist()

    def content(self, name: str) -> bytes:
        """The bytes of a file; raises KeyError or Broken."""
        with self._book.open(name) as member:
            content, broken = read_whole(metered(member, (self._meter,)), self._limit)
        if broken is not None:
            raise broken
        return content


def _text(book: _Book, config: ReadConfig) -> tuple[str | None, str | None, str | None]:
    if _ENCRYPTION in book.names():
        locked = {
            unquote(node.get("URI", ""))
            for node in ElementTree.fromstring(book.content(_ENCRYPTION)).iter()
            if _local(node) == "CipherReference"
        }
    else:
        locked = set()
    chapters = []
    for name in _spine(book):
        if name in locked:
            raise Broken("encrypted", name)
        text, reason, value = page_text(
            book.content(name), "utf-8", replace=config.invalid == "replace", main=False
        )
        if text is None:
            return None, reason, value
        chapters.append(text.strip())
    return "\n\n".join(chapter for chapter in chapters if chapter), None, None


def _spine(book: _Book) -> list[str]:
    """The names of the chapters' files, in reading order."""
    container = ElementTree.fromstring(book.content(_CONTAINER))
    package = next((node.get("full-path", "") for node in container.iter() if _local(node) == "rootfile"), "")
    folder = posixpath.dirname(package)
    items: dict[str, str] = {}
    order: list[str] = []
    for node in ElementTree.fromstring(book.content(package)).iter():
        if _local(node) == "item" and node.get("media-type") in _PAGES:
            items[node.get("id", "")] = posixpath.normpath(
                posixpath.join(folder, unquote(node.get("href", "").partition("#")[0]))
            )
        elif _local(node) == "itemref":
            order.append(node.get("idref", ""))
    return [items[name] for name in order if name in items]


def _local(node: ElementTree.Element) -> str:
    return node.tag.rpartition("}")[2]
