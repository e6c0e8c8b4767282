"""Documents of files, and the passages that they are cut into: whole sentences that overlap."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import pyarrow as pa

from weft.core.errors import DataError, UsageError
from weft.data import kinds, records, sources
from weft.data.config import ReadConfig
from weft.data.encoding import decode
from weft.data.readers.part import Broken
from weft.data.readers.unpack import read_whole, unpack

SIZE, OVERLAP = 240, 40
"""Words of a passage and of what it shares with the one before; each Han character counts as a word."""

_WORD = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af]|[^\\W_\u3400-\u4dbf\u4e00-\u9fff]+")
_END = re.compile(
    r"(?P<dot>[.!?]+[\"'”’)\]]*(?=\s))|[。！？；…]+[”’」』）】]*"
    # Blank lines, headings and items of lists, and lines of Chinese, which nobody wraps.
    r"|\n(?=[ \t]*\n)|\n(?=[ \t]*(?:#|[-*>|] |\d+[.)] ))|(?<=[\u3400-\u9fff，、：])\n|(?m:^#{1,6} .*$)"
)
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Za-z]|al|approx|ca|cf|dr|eg|e\.g|fig|figs|i\.e|ie|mr|mrs|ms|no|prof|ref|refs|st|vs))\.$",
    re.I,
)
_HEADING = re.compile(r"(?m)^#{1,6} .*$")


@dataclass(frozen=True)
class Document:
    """A text with its name and title."""

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class Passage:
    """``document.text[start:end]``, which is ``text``."""

    document: str
    title: str
    start: int
    end: int
    text: str


@dataclass
class Skipped:
    """What was not read: a count for each reason."""

    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, reason: str) -> None:
        """Count one more."""
        self.reasons[reason] = self.reasons.get(reason, 0) + 1


def find_files(paths: Sequence[str | Path], skipped: Skipped) -> list[sources.Found]:
    """Text files, Markdown and JSON Lines, plain or compressed (.gz, .zst, .bz2, .xz), below ``paths``.

    Other files are counted in ``skipped``. Raises DataError where there is no file at all.
    """
    listing = []
    for found in sources.find(paths, ReadConfig()):
        if found.reason is not None or found.kind not in (kinds.TEXT, kinds.LINES):
            skipped.add(found.reason or "other_format")
        else:
            listing.append(found)
    return listing


def read_documents(listing: Sequence[sources.Found], skipped: Skipped) -> Iterator[Document]:
    """The documents of files.

    A text file is one document, named by its place below the folder that was given; a line of JSON is one,
    with ``text``, and if it has them ``title`` and ``_id`` or ``id``. Broken files and lines are counted in
    ``skipped``. Raises DataError for two documents of one name.
    """
    seen: set[str] = set()
    for found in listing:
        for document in _of_file(found, ReadConfig(), skipped):
            if document.id in seen:
                raise DataError(
                    f"Two documents are called {document.id!r}, the second in {found.path}; give each an "
                    "_id of its own, so that citations are clear."
                )
            seen.add(document.id)
            yield document


def sentences(text: str) -> list[tuple[int, int]]:
    """Where sentences lie, [start, end) without the space around them; Chinese and English."""
    found = []
    start = 0
    for match in [*_END.finditer(text), None]:
        if match is not None and match["dot"] and not _ends(text, match):
            continue
        end = len(text) if match is None else match.end()
        piece = text[start:end]
        if piece.strip():
            found.append((start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())))
        start = end
    return found


def cut(document: Document, size: int = SIZE, overlap: int = OVERLAP) -> list[Passage]:
    """The passages of ``document``: whole sentences of at most ``size`` words in all.

    A passage begins with the last sentences of the one before, ``overlap`` words of them at most. A sentence
    of more than ``size`` words is cut between words. Raises UsageError for impossible sizes.
    """
    if size < 1 or not 0 <= overlap < size:
        raise UsageError(f"Passages of {size} words that share {overlap} are not possible; share fewer.")
    pieces = [piece for span in sentences(document.text) for piece in _short(document.text, span, size)]
    sizes = [len(_WORD.findall(document.text, *piece)) for piece in pieces]
    found = []
    first = 0
    while first < len(pieces):
        last, words = first, sizes[first]
        while last + 1 < len(pieces) and words + sizes[last + 1] <= size:
            last += 1
            words += sizes[last]
        start, end = pieces[first][0], pieces[last][1]
        found.append(Passage(document.id, document.title, start, end, document.text[start:end]))
        if last + 1 == len(pieces):
            break
        first = _back(sizes, first, last + 1, min(overlap, size - sizes[last + 1]))
    return found


def _back(sizes: Sequence[int], first: int, following: int, overlap: int) -> int:
    """The first piece of the next passage: as many before ``following`` as ``overlap`` words allow."""
    begin, words = following, 0
    while begin - 1 > first and words + sizes[begin - 1] <= overlap:
        begin -= 1
        words += sizes[begin]
    return begin


def _ends(text: str, match: re.Match[str]) -> bool:
    """Whether a full stop ends a sentence: no abbreviation, and nothing lowercase goes on behind it."""
    behind = text[match.end() : match.end() + 40].lstrip()
    if behind[:1].islower():
        return False
    return match["dot"] != "." or not _ABBREVIATION.search(text, max(0, match.end() - 12), match.end())


def _short(text: str, span: tuple[int, int], size: int) -> Iterator[tuple[int, int]]:
    """``span`` itself, or parts of it of at most ``size`` words."""
    words = list(_WORD.finditer(text, *span))
    start = span[0]
    for number in range(size, len(words), size):
        end = words[number].start()
        yield start, start + len(text[start:end].rstrip())
        start = end
    yield start, span[1]


def _of_file(found: sources.Found, config: ReadConfig, skipped: Skipped) -> Iterator[Document]:
    try:
        with Path(found.path).open("rb") as stream:
            how = kinds.compression(PurePosixPath(found.path))
            plain = unpack(stream, how, config, config.max_member_bytes) if how else stream
            if found.kind == kinds.LINES:
                yield from _of_lines(plain, found.source, config, skipped)
            else:
                yield from _of_text(plain, found.source, config, skipped)
    except (Broken, OSError) as error:
        skipped.add(error.reason if isinstance(error, Broken) else "unreadable")


def _of_text(stream: BinaryIO, name: str, config: ReadConfig, skipped: Skipped) -> Iterator[Document]:
    content, broken = read_whole(stream, config.max_document_bytes)
    if broken is not None or len(content) > config.max_document_bytes:
        skipped.add(broken.reason if broken else "too_large")
        return
    text, reason, _ = decode(content)
    if text is None or not text.strip():
        skipped.add(reason or "empty")
        return
    plain_name = PurePosixPath(kinds.uncompressed_name(name))
    heading = _HEADING.search(text) if plain_name.suffix in (".md", ".markdown") else None
    title = heading.group().strip("# \t") if heading else plain_name.stem
    yield Document(name, title, text)


def _of_lines(stream: BinaryIO, name: str, config: ReadConfig, skipped: Skipped) -> Iterator[Document]:
    limit = config.max_document_bytes
    for number, line in enumerate(records.lines_between(stream, 0, None, limit), 1):
        record = _record(line.content)
        if isinstance(record, str):
            skipped.add(record)
            continue
        own = record.get("_id", record.get("id"))
        title = record.get("title")
        yield Document(
            f"{name}:{number}" if own is None else str(own),
            title if isinstance(title, str) else "",
            record["text"],
        )


def _record(content: bytes | None) -> dict[str, Any] | str:
    """The record of a line, or why it has none."""
    if content is None:
        return "too_large"
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return "bad_json"
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str) or not text.strip():
        return "no_text"
    try:
        json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, which no file of ours could hold
        return "invalid_encoding"
    return cast("dict[str, Any]", record)


def table(passages: Sequence[Passage]) -> pa.Table:
    """Columns document, title, start, end, text."""
    return pa.table(
        {
            "document": pa.array([one.document for one in passages], pa.string()),
            "title": pa.array([one.title for one in passages], pa.string()),
            "start": pa.array([one.start for one in passages], pa.int64()),
            "end": pa.array([one.end for one in passages], pa.int64()),
            "text": pa.array([one.text for one in passages], pa.large_string()),
        }
    )


def untable(rows: pa.Table) -> list[Passage]:
    """The passages of what :func:`table` made."""
    return [Passage(**row) for row in rows.to_pylist()]
