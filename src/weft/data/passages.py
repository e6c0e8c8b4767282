"""Text to compare tokenizers on: held-out documents of a data folder, or any text file or folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from weft.core.errors import DataError, UsageError
from weft.core.registry import lookup
from weft.data import documents, kinds, sources
from weft.data.config import ReadConfig
from weft.data.encoding import decode
from weft.data.measure import measure
from weft.data.schema import DOCUMENTS, LANGUAGE, SPLITS, TEXT

Passages = dict[str, list[str]]
"""Texts by language."""

_PIECE = 4096


def read_passages(path: Path, split: str, sample_bytes: int) -> Passages:
    """About ``sample_bytes`` of text of ``path``, by language.

    A data folder gives the first documents of ``split``, which lie in the order of their hashes, so they
    are a fair draw. Other text is cut at line ends into pieces of some 4,000 characters, each with the
    script of its letters as its language. Raises DataError when there is no text, UsageError for a wrong
    split or size.
    """
    if sample_bytes < 1:
        raise UsageError(f"A sample of {sample_bytes} bytes is not possible; give at least 1.")
    lookup(dict.fromkeys(SPLITS), split, "split")
    is_data = (path / DOCUMENTS).is_dir()
    found: Passages = {}
    left = sample_bytes
    for language, text in _documents(path, split) if is_data else _pieces(path, sample_bytes):
        if not text:
            continue
        found.setdefault(language or "unknown", []).append(text)
        left -= len(text.encode("utf-8"))
        if left <= 0:
            break
    if not found:
        what, advice = f"There is no text in {path}", "give a data folder, or text in a known encoding"
        if is_data:
            what, advice = f"The split {split!r} of {path} has no text", "choose another with --split"
        raise DataError(f"{what}; {advice}.")
    return found


def _documents(data_folder: Path, split: str) -> Iterator[tuple[str | None, str]]:
    documents.record(data_folder)
    for table in documents.read(data_folder, split, [LANGUAGE, TEXT]):
        yield from zip(table.column(LANGUAGE).to_pylist(), table.column(TEXT).to_pylist(), strict=True)


def _pieces(path: Path, sample_bytes: int) -> Iterator[tuple[str | None, str]]:
    for found in sources.find([path], ReadConfig()):
        if found.reason is not None:
            continue
        with Path(found.path).open("rb") as stream:
            content = stream.read(sample_bytes)
        if len(content) < found.bytes:
            # Whole lines, so that no character is cut in two.
            content = content[: content.rfind(b"\n") + 1] or content
        text, _, _ = decode(content, replace=True)
        pieces = list(_cut(text or ""))
        if found.kind == kinds.CODE:
            yield from ((found.language, piece) for piece in pieces)
        else:
            scripts = measure(pa.array(pieces, pa.large_string())).script.tolist()
            yield from zip(scripts, pieces, strict=True)


def _cut(text: str) -> Iterator[str]:
    """Pieces that make up ``text``: whole lines, as many as fill a piece."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + _PIECE) + 1 or len(text)
        yield text[start:end]
        start = end
