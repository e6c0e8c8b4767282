"""Answers that cite passages, or say that nothing was found.

Without a model the answer is made of the sentences that hold most of the question's words, weighted by
idf. Whether anything was found at all is decided first, by which part of the question's idf mass the best
passages hold, against what terms thrown together at random reach in the same index.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from weft.retrieval.bm25 import Bm25
from weft.retrieval.counts import Vocabulary, is_bigram, terms_of
from weft.retrieval.passages import sentences
from weft.retrieval.search import Hit

SENTENCES = 3
NOTHING = "Nothing was found about this."
NOTHING_CHINESE = "没有找到与此有关的内容。"

_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_DRAWS = 200
_QUANTILE = 0.5
_LOWEST, _HIGHEST = 0.35, 0.5
"""Bounds of a threshold: short questions are found by chance wholly, very long ones hardly."""
_ENGLISH = frozenset(
    """
    a about an and any are as at be been being but by can could did do does for from had has have how i if in
    into is it its me my no not of on or our shall should so such tell than that the their them then there
    these they this those to us was we were what when where which who whom whose why will with would you your
    """.split()  # noqa: SIM905
)
_CHINESE = re.compile(
    "什么时候|什么样|为什么|怎么样|是不是|有没有|哪一个|什么|哪里|哪儿|哪个|哪些|哪年|怎么|怎样|如何|为何|多少|几个|多大|多长|"
    "是否|可以|请问|告诉|关于|因为|所以|我们|他们|这个|那个|[的了是在吗呢吧么谁哪几有和与也都被把及其]"
)
_HAN = re.compile("[\u3400-\u9fff]")
_MARK = re.compile(r"\[(\d+)\]")


@dataclass(frozen=True)
class Answer:
    """``text`` with marks [1], [2], ... that stand for ``citations``; without any nothing was ``found``.

    ``coverage``: the part of the question's idf mass that the best passage holds; ``threshold``: how much it
    had to be.
    """

    text: str
    citations: tuple[Hit, ...]
    coverage: float
    threshold: float

    @property
    def found(self) -> bool:
        """Whether there is an answer."""
        return bool(self.citations)

    def table(self) -> dict[str, Any]:
        """As JSON spells it."""
        cited = [{"mark": mark, **hit.table()} for mark, hit in enumerate(self.citations, 1)]
        return {
            "answer": self.text,
            "found": self.found,
            "citations": cited,
            "coverage": self.coverage,
            "threshold": self.threshold,
        }


@dataclass(frozen=True)
class Drafted:
    """What a model answered, and the numbers (from 0) of the passages that it rests on.

    ``text`` may hold marks of its own, [n] for passage n counted from 1; else they are put at its end.
    """

    text: str
    passages: tuple[int, ...]


class Answerer(Protocol):
    """A model that answers from passages: one that points at a span, or one that writes."""

    def __call__(self, question: str, passages: Sequence[str]) -> Drafted | None:
        """The answer, or None where the passages do not give one."""
        ...


def answer(
    question: str,
    hits: Sequence[Hit],
    bm25: Bm25,
    least: Sequence[float],
    answerer: Answerer | None = None,
) -> Answer:
    """Answer from ``hits``, best first; ``least`` is what :func:`fit` gave for this index."""
    asked = content(question, bm25.vocabulary)
    threshold = least_for(len(asked), least)
    shares = [_share(asked, f"{hit.title}\n{hit.text}", bm25.vocabulary) for hit in hits]
    best = max(shares, default=0.0)
    kept = [hit for hit, share in zip(hits, shares, strict=True) if share >= threshold]
    if not kept or not asked:
        return Answer(nothing(question), (), best, threshold)
    if answerer is None:
        text, cited = _extracted(asked, kept, bm25.vocabulary)
    else:
        drafted = answerer(question, [hit.text for hit in kept])
        text, cited = _cited(drafted, kept) if drafted else ("", ())
    return Answer(text if cited else nothing(question), cited, best, threshold)


def content(question: str, vocabulary: Vocabulary) -> frozenset[str]:
    """The distinct terms of ``question`` that say what it is about.

    Words that questions are made of are left out, and Chinese bigrams that no passage has: they mostly
    cross two words, and their characters count anyway.
    """
    words = re.sub(r"[A-Za-z]+", lambda m: "" if m.group().lower() in _ENGLISH else m.group(), question)
    found = terms_of(_CHINESE.sub(" ", words))
    return frozenset(term for term in found if not is_bigram(term) or term in vocabulary.numbers)


def fit(bm25: Bm25, seed: int = 0) -> list[float]:
    """How much of its idf mass a question of 1, 2, 3, 4, 6, ... terms must find in one passage.

    Terms are drawn together at random, as often as passages have them, which asks about nothing; what half
    of such draws find in their best passage is the threshold, within bounds. What was measured is in
    docs/decisions/retrieval.md.
    """
    vocabulary = bm25.vocabulary
    generator = np.random.default_rng(seed)
    shares = vocabulary.frequencies / vocabulary.frequencies.sum()
    least = []
    for size in _SIZES:
        size = min(size, len(vocabulary.names))
        best = []
        for _ in range(_DRAWS):
            drawn = generator.choice(len(shares), size, p=shares)
            best.append(bm25.covered({vocabulary.names[number] for number in drawn}).max())
        least.append(float(np.clip(np.quantile(best, _QUANTILE), _LOWEST, _HIGHEST)))
    return least


def least_for(size: int, least: Sequence[float]) -> float:
    """The threshold for a question of ``size`` terms: between two sizes that were fitted, the line."""
    return float(np.interp(size, _SIZES, least))


def nothing(question: str) -> str:
    """That nothing was found, in the language of the question."""
    return NOTHING_CHINESE if _HAN.search(question) else NOTHING


def _share(asked: frozenset[str], text: str, vocabulary: Vocabulary) -> float:
    total = sum(vocabulary.weight(term) for term in asked)
    return _mass(asked & set(terms_of(text)), vocabulary) / total if total else 0.0


def _mass(terms: Collection[str], vocabulary: Vocabulary) -> float:
    return sum(vocabulary.weight(term) for term in terms)


def _extracted(
    asked: frozenset[str], hits: Sequence[Hit], vocabulary: Vocabulary
) -> tuple[str, tuple[Hit, ...]]:
    """Up to three sentences: the one that holds most, then those that add most to what is held already.

    A further sentence must add a quarter of what the first one holds. Where only titles hold the question,
    it is the beginning of the first passage.
    """
    listed = [(hit, hit.text[start:end]) for hit in hits for start, end in sentences(hit.text)]
    held = [asked & set(terms_of(text)) for _, text in listed]
    left, first = asked, 0.0
    chosen: list[tuple[Hit, str]] = []
    while len(chosen) < SENTENCES:
        gains = [_mass(one & left, vocabulary) for one in held]
        best = int(np.argmax(gains))
        if chosen and (not gains[best] or gains[best] < first / 4):
            break
        first = first or gains[best]
        chosen.append(listed[best])
        left = left - held[best]
    cited = tuple(dict.fromkeys(hit for hit, _ in chosen))
    return " ".join(f"{text} [{cited.index(hit) + 1}]" for hit, text in chosen), cited


def _cited(drafted: Drafted, hits: Sequence[Hit]) -> tuple[str, tuple[Hit, ...]]:
    """The text with its marks numbered from 1 in their order, and the passages that they stand for.

    Marks of passages that were not given are taken out: a model may invent them.
    """
    text = drafted.text
    if not _MARK.search(text):
        text = " ".join([text, *(f"[{number + 1}]" for number in drafted.passages)])
    order: list[int] = []

    def renumbered(match: re.Match[str]) -> str:
        number = int(match[1]) - 1
        if not 0 <= number < len(hits):
            return ""
        if number not in order:
            order.append(number)
        return f"[{order.index(number) + 1}]"

    text = _MARK.sub(renumbered, text).strip()
    return text, tuple(hits[number] for number in order)
