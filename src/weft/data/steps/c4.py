"""C4's rules (Raffel et al., arXiv:1910.10683): lines that are no sentences go, pages with certain signs too.

As in datatrove, but for sentences: they end at ``.?!…`` before white space, closing quotes passed over, and
at ``。！？`` anywhere, so "Mr. Smith" is two where datatrove's trained splitter has one. Letters are compared
without case in ASCII only.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from weft.data import characters
from weft.data.config_quality import C4Config
from weft.data.kernels import address, buffers, library, strings, whole

C4 = "c4"
REMOVED = ("long_word", "no_terminal", "few_words", "javascript", "policy")
"""Why a line was removed."""
_VERDICTS = (None, "lorem_ipsum", "curly_bracket", "sentences")
_CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
_POLICIES = (
    "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies",
)  # fmt: skip
_SENTENCE_END = re.compile(r"[.?!…]+[\"')\]”’]*(?=\s|$)|[。！？]")
_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


@dataclass(frozen=True)
class Cleaned:
    """``texts`` large_string [N], those dropped unchanged; ``values`` [N] why one is dropped, or None;
    ``removed`` int64 [N, len(REMOVED)] lines."""

    texts: pa.Array
    values: list[str | None]
    removed: npt.NDArray[np.int64]


def clean(texts: pa.Array, config: C4Config) -> Cleaned:
    """Apply the rules to a large_string array [N]."""
    native = library("c4")
    if native is None:
        return clean_plain(texts, config)
    data, offsets = buffers(texts)
    count = len(offsets) - 1
    ends = np.array([ord(mark) for mark in config.end_marks], np.uint32)
    options = np.array(_options(config), np.int64)
    out, places = np.empty(offsets[-1] - offsets[0], np.uint8), np.empty(count + 1, np.int64)
    verdicts, sentences = np.zeros(count, np.int8), np.zeros(count, np.int64)
    removed = np.zeros((count, len(REMOVED)), np.int64)
    native.c4(
        address(data), address(offsets), *whole(count), address(characters.flags()), address(ends),
        *whole(len(ends)), address(options), address(out), address(places), address(verdicts),
        address(sentences), address(removed),
    )  # fmt: skip
    values = [
        _value(verdict, number) for verdict, number in zip(verdicts.tolist(), sentences.tolist(), strict=True)
    ]
    return Cleaned(strings(out, places), values, removed)


def clean_plain(texts: pa.Array, config: C4Config) -> Cleaned:
    """The same without native code."""
    kept, values, removed = [], [], np.zeros((len(texts), len(REMOVED)), np.int64)
    for row, text in enumerate(texts.to_pylist()):
        result, verdict, sentences, lines = _clean_text(text or "", config)
        kept.append(text or "" if verdict else result)
        values.append(_value(verdict, sentences))
        removed[row] = [lines[name] for name in REMOVED]
    return Cleaned(pa.array(kept, pa.large_string()), values, removed)


def _options(config: C4Config) -> tuple[int, ...]:
    longest = config.max_word_length if config.max_word_length >= 0 else 1 << 62
    return (
        longest, config.min_line_words, config.min_sentences, config.citations, config.terminal_punctuation,
        config.lorem_ipsum, config.javascript, config.curly_bracket, config.policy,
    )  # fmt: skip


def _value(verdict: int, sentences: int) -> str | None:
    name = _VERDICTS[verdict]
    return f"{name} {sentences}" if name == "sentences" else name


def _clean_text(text: str, config: C4Config) -> tuple[str, int, int, Counter[str]]:
    """``(text, index of the verdict, sentences, removed lines)``."""
    kept: list[str] = []
    removed: Counter[str] = Counter()
    sentences = 0
    for whole_line in text.splitlines():
        line = whole_line.strip()
        words = line.split()
        if 0 <= config.max_word_length < max(map(len, words), default=0):
            removed["long_word"] += 1
            continue
        if config.citations:
            line = _CITATION.sub("", line)
        reason = _why_removed(line, len(words), config)
        lower = line.translate(_LOWER)
        if reason not in ("no_terminal", "few_words"):
            if config.lorem_ipsum and "lorem ipsum" in lower:
                return text, 1, sentences, removed
            if reason != "javascript" and config.curly_bracket and "{" in line:
                return text, 2, sentences, removed
        if reason is not None:
            removed[reason] += 1
            continue
        sentences += _sentences(line)
        kept.append(line)
    return "\n".join(kept).strip(), 3 * (sentences < config.min_sentences), sentences, removed


def _why_removed(line: str, words: int, config: C4Config) -> str | None:
    if config.terminal_punctuation and (not line.endswith(tuple(config.end_marks)) or line.endswith("...")):
        return "no_terminal"
    if words < config.min_line_words:
        return "few_words"
    lower = line.translate(_LOWER)
    if config.javascript and "javascript" in lower:
        return "javascript"
    if config.policy and any(words in lower for words in _POLICIES):
        return "policy"
    return None


def _sentences(line: str) -> int:
    pieces = _SENTENCE_END.split(line)
    return sum(any(c.isalpha() or c.isdecimal() for c in piece) for piece in pieces)
