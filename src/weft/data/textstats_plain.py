"""The statistics of :mod:`weft.data.textstats` for one text, in plain Python."""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from weft.data import characters

_TERMINALS = tuple(characters.terminals())
_SYMBOLS = frozenset(characters.SYMBOLS)
_RUN = 5


def measure(text: str, stop_words: frozenset[str], short_line: int) -> dict[str, int]:
    """Every figure by its name."""
    tokens = words(text)
    return (
        _words(text, tokens, stop_words)
        | _repetition(text, tokens)
        | _lines(text, short_line)
        | _chinese(text)
    )


def words(text: str) -> list[str]:
    """Words: Han characters, and what else lies between white space, its outer symbols apart."""
    found: list[str] = []
    for piece in text.split():
        for chunk in _apart().findall(piece):
            found.extend(part for part in _outer(chunk) if part)
    return found


def _outer(chunk: str) -> tuple[str, str, str]:
    begin, end = 0, len(chunk)
    while begin < end and chunk[begin] in _SYMBOLS:
        begin += 1
    while end > begin and chunk[end - 1] in _SYMBOLS:
        end -= 1
    return chunk[:begin], chunk[begin:end], chunk[end:]


@functools.cache
def _apart() -> re.Pattern[str]:
    """One Han character, or a run of others."""
    return re.compile(f"[{han_class()}]|[^{han_class()}]+")


@functools.cache
def han_class() -> str:
    """All Han characters, as the inside of a character class."""
    codes = (characters.flags() & characters.HAN).nonzero()[0].tolist()
    spans = itertools.groupby(enumerate(codes), lambda pair: pair[1] - pair[0])
    edges = [[code for _, code in span] for _, span in spans]
    return "".join(f"{chr(span[0])}-{chr(span[-1])}" for span in edges)


def is_han(word: str) -> bool:
    """Whether a word is a Han character."""
    return len(word) == 1 and bool(characters.flags()[min(ord(word), characters.PLANES)] & characters.HAN)


def _words(text: str, tokens: Sequence[str], stop_words: frozenset[str]) -> dict[str, int]:
    plain = [word for word in tokens if any(character not in _SYMBOLS for character in word)]
    lines = text.splitlines()
    return {
        "chars": len(text),
        "words": len(tokens),
        "plain_words": len(plain),
        "plain_word_chars": sum(map(len, plain)),
        "alpha_words": sum(any(character.isalpha() for character in word) for word in tokens),
        "stop_words": len(stop_words & set(tokens)),
        "hashes": text.count("#"),
        "ellipses": text.count("...") + text.count("…"),
        "lines": len(lines),
        "bullet_lines": sum(line.lstrip().startswith(("•", "-")) for line in lines),
        "ellipsis_lines": sum(line.rstrip().endswith(("...", "…")) for line in lines),
    }


def _repetition(text: str, tokens: Sequence[str]) -> dict[str, int]:
    paragraphs, rows = re.split(r"\n{2,}", text.strip()), re.split(r"\n+", text)
    figures = {"paragraphs": len(paragraphs), "rows": len(rows)}
    figures["dup_paragraphs"], figures["dup_paragraph_chars"] = _repeated(paragraphs)
    figures["dup_rows"], figures["dup_row_chars"] = _repeated(rows)
    figures |= {f"top_{n}": _top(tokens, n) for n in (2, 3, 4)}
    return figures | {f"dup_{n}": _duplicates(tokens, n) for n in range(5, 11)}


def _repeated(elements: Iterable[str]) -> tuple[int, int]:
    """How many repeat an earlier one, and their characters."""
    seen: set[str] = set()
    again = []
    for element in elements:
        if element in seen:
            again.append(len(element))
        seen.add(element)
    return len(again), sum(again)


def _top(tokens: Sequence[str], n: int) -> int:
    grams = Counter(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))
    if not grams:
        return 0
    gram, count = grams.most_common(1)[0]
    joints = sum(not (is_han(left) or is_han(right)) for left, right in itertools.pairwise(gram))
    return count * (sum(map(len, gram)) + joints)


def _duplicates(tokens: Sequence[str], n: int) -> int:
    seen: set[tuple[str, ...]] = set()
    start = chars = 0
    while start <= len(tokens) - n:
        gram = tuple(tokens[start : start + n])
        if gram in seen:
            chars += sum(map(len, gram))
            start += n
        else:
            seen.add(gram)
            start += 1
    return chars


def _lines(text: str, short_line: int) -> dict[str, int]:
    full = [line for line in text.split("\n") if line.strip()]
    return {
        "full_lines": len(full),
        "ended_lines": sum(line.endswith(_TERMINALS) for line in full),
        "short_lines": sum(len(line) <= short_line for line in full),
        "dup_full_line_chars": _repeated(full)[1],
        "line_feeds": text.count("\n"),
    }


def _chinese(text: str) -> dict[str, int]:
    table = characters.flags()
    flags = [int(table[min(ord(character), characters.PLANES)]) for character in text]
    runs = [sum(1 for _ in run) for letter, run in itertools.groupby(text) if not letter.isspace()]
    pieces = re.split(f"[\n{re.escape(characters.ENDINGS)}]", text)
    return {
        "visible": sum(not flag & characters.SPACE for flag in flags),
        "letters": sum(bool(flag & characters.ALPHABETIC) for flag in flags),
        "han": sum(bool(flag & characters.HAN) for flag in flags),
        "marks": sum(bool(flag & characters.MARK) for flag in flags),
        "function_chars": sum(bool(flag & characters.FUNCTION) for flag in flags),
        "run_chars": sum(run for run in runs if run >= _RUN),
        "sentences": sum(any(character.isalpha() for character in piece) for piece in pieces),
    }
