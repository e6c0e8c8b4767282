"""Documents as an encoder reads them: the tokens that start a prompt, the text, and where tokens lie."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from weft.tokenizer import Tokenizer


@dataclass(frozen=True)
class Placed:
    """``ids`` of a document and the characters [start, stop) that each stands for; an empty place: none."""

    ids: list[int]
    offsets: list[tuple[int, int]]

    def overlapping(self, start: int, stop: int) -> list[int]:
        """The numbers of the tokens that hold some of the characters [start, stop)."""
        return [n for n, (first, last) in enumerate(self.offsets) if first < stop and last > start]


def start_ids(tokenizer: Tokenizer) -> list[int]:
    """What stands before every text; an end of text where the tokenizer puts nothing there."""
    return list(tokenizer.start_ids) or [tokenizer.eos_id]


def placed(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Placed]:
    """Each text behind the tokens that start a prompt. The space before a word is not part of it."""
    start = start_ids(tokenizer)
    before = [(0, 0)] * len(start)
    found = []
    for text, (ids, offsets) in zip(texts, tokenizer.encode_offsets(texts), strict=True):
        found.append(Placed(start + ids, before + [_trimmed(text, *offset) for offset in offsets]))
    return found


def _trimmed(text: str, start: int, stop: int) -> tuple[int, int]:
    piece = text[start:stop]
    if not piece.strip():
        return stop, stop
    return start + len(piece) - len(piece.lstrip()), stop - (len(piece) - len(piece.rstrip()))


def longest(placed: Iterable[Placed]) -> int:
    """Tokens of the longest document."""
    return max((len(one.ids) for one in placed), default=0)
