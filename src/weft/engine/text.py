"""Tokens to text while they come: no character cut in half, no part of a stop string shown. No torch here."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol

from weft.tokenizer import Tokenizer

_CONTEXT = 9
"""Tokens of the past: six for a SentencePiece decoder, which looks at a leading space and at the bytes of a
character, and three that may be the end of a character cut in half."""


class Detokenizer(Protocol):
    """Turns one token after another into text."""

    def push(self, token: int) -> str:
        """The characters that are complete after ``token``."""
        ...

    def flush(self) -> str:
        """What is left of an incomplete character at the end, as U+FFFD."""
        ...


class ByteDetokenizer:
    """For byte-level vocabularies: exact, and constant work per token."""

    def __init__(self, tokenizer: Tokenizer):
        self._bytes, self._special = tokenizer.token_bytes, tokenizer.special_ids
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """As the protocol says; special tokens have no text."""
        return "" if token in self._special else self._decoder.decode(self._bytes(token))

    def flush(self) -> str:
        """As the protocol says."""
        return self._decoder.decode(b"", final=True)


class WindowDetokenizer:
    """For other vocabularies: decodes a short window twice and shows what the new token added.

    A row of bytes is decoded as a whole, so a window begins and ends where a character does. A character that
    the prompt has begun belongs to the answer.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]):
        self._tokenizer = tokenizer
        # Models of padded vocabularies know more ids than their tokenizer.
        tail = [token for token in prompt[-_CONTEXT:] if token < tokenizer.vocab_size]
        values = [tokenizer.fallback_bytes.get(token) for token in tail]
        first = next((place for place, value in enumerate(values) if not _continues(value)), 0)
        self._window = tail[first:]
        self._known = len(self._window) - _begun(values)
        self._shown = len(self._decode(self._window[: self._known]))

    def push(self, token: int) -> str:
        """As the protocol says; special tokens have no text."""
        self._window.append(token)
        text = self._decode(self._window)
        if text.endswith("\ufffd") or len(text) <= self._shown:
            return ""
        piece = text[self._shown :]
        self._window = self._window[min(self._known, len(self._window) - 1) :]
        self._known = len(self._window)
        self._shown = len(self._decode(self._window))
        return piece

    def flush(self) -> str:
        """As the protocol says."""
        return self._decode(self._window)[self._shown :]

    def _decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special=True)


class TextStream:
    """The text of an answer: what may be shown now, and whether a stop string has come."""

    def __init__(self, detokenizer: Detokenizer, stop: Sequence[str] = ()):
        self._detokenizer = detokenizer
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The characters that may be shown after ``token``; a complete stop string sets ``stopped``."""
        return self._release(self._detokenizer.push(token))

    def finish(self) -> str:
        """What was held back, when no stop string will complete it any more."""
        if self.stopped:
            return ""
        piece = self._release(self._detokenizer.flush()) + ("" if self.stopped else self._held)
        self._held = ""
        return piece

    def _release(self, new: str) -> str:
        if not self._stop:
            return new
        text = self._held + new
        places = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if places:
            self.stopped, self._held = True, ""
            return text[: min(places)]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def text_stream(tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str] = ()) -> TextStream:
    """The stream that fits ``tokenizer``, for an answer to ``prompt``."""
    if tokenizer.is_byte_level:
        return TextStream(ByteDetokenizer(tokenizer), stop)
    return TextStream(WindowDetokenizer(tokenizer, prompt), stop)


def _continues(value: int | None) -> bool:
    """Whether a byte (None: a token that is none) stands within a character of UTF-8."""
    return value is not None and 0x80 <= value < 0xC0


def _begun(values: Sequence[int | None]) -> int:
    """How many bytes at the end begin a character of UTF-8 without ending it."""
    for size, value in enumerate(reversed(values[-3:]), 1):
        if not _continues(value):
            length = 0 if value is None or value < 0xC0 else 2 + (value >= 0xE0) + (value >= 0xF0)
            return size if size < length else 0
    return 0


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop``."""
    longest = min(len(stop) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
