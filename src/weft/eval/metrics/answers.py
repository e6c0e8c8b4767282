"""Exact match and F1 of answers to questions: SQuAD 1.1 for English, CMRC 2018 for Chinese.

English, as the official script of SQuAD 1.1 (Rajpurkar et al. 2016, arXiv:1606.05250): lower case, without
ASCII punctuation, articles and superfluous space; F1 over the bag of words. Chinese, as the official script
of CMRC 2018 (Cui et al. 2019, arXiv:1810.07366): without the punctuation of its list; F1 over the longest
common substring, counted in Chinese characters and Latin words. A question may have several right answers;
the best counts, for each figure by itself.

The script of CMRC splits Latin text by NLTK, whose sentence model is a download. Here words and numbers stay
whole and every other mark is its own piece: the same but for contractions ("don't"), straight quotes and
abbreviations ("U.S. Army"), all rare in Chinese answers.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError

Language = Literal["en", "zh"]
Floats = npt.NDArray[np.float64]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")
# The list of CMRC holds "……" too, which never equals one character there; so … stays.
_CMRC_MARKS = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_CMRC_PIECE = re.compile("[\u4e00-\u9fa5]|[^\\W\u4e00-\u9fa5]+(?:(?:[.']|,(?=\\d))[^\\W\u4e00-\u9fa5]+)*|\\S")


@dataclass(frozen=True)
class Answers:
    """Means from 0 to 1, and the values of each question, float64 [questions]."""

    exact: float
    f1: float
    exact_each: Floats
    f1_each: Floats


def answers(gold: Sequence[Sequence[str]], found: Sequence[str], language: Language = "en") -> Answers:
    """Compare each of ``found`` with the right answers to its question.

    DataError for no questions, unequal numbers of them, or a question without a right answer.
    """
    if not gold or len(gold) != len(found):
        raise DataError(f"{len(gold)} questions got {len(found)} answers; give one for each, at least one.")
    for number, right in enumerate(gold):
        if not right or isinstance(right, str):
            raise DataError(f"Question {number} has no list of right answers; give at least one answer each.")
    score = {"en": squad, "zh": cmrc}[language]
    table = np.array(
        [
            np.max([score(right, answer) for right in rights], axis=0)
            for rights, answer in zip(gold, found, strict=True)
        ],
        dtype=np.float64,
    )
    return Answers(float(table[:, 0].mean()), float(table[:, 1].mean()), table[:, 0], table[:, 1])


def squad(right: str, answer: str) -> tuple[float, float]:
    """(exact match, F1) of one answer by SQuAD 1.1; two empty answers match exactly with F1 0, as there."""
    wanted, given = _normal(right), _normal(answer)
    common = (Counter(wanted) & Counter(given)).total()
    return float(wanted == given), _f1(common, len(given), len(wanted))


def cmrc(right: str, answer: str) -> tuple[float, float]:
    """(exact match, F1) of one answer by CMRC 2018."""
    wanted, given = (text.lower().strip().translate(_CMRC_MARKS) for text in (right, answer))
    left, other = _CMRC_PIECE.findall(wanted), _CMRC_PIECE.findall(given)
    return float(wanted == given), _f1(_longest_common(left, other), len(other), len(left))


def _normal(text: str) -> list[str]:
    return _ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _longest_common(left: Sequence[str], right: Sequence[str]) -> int:
    """Pieces of the longest stretch that stands in both."""
    best, above = 0, [0] * (len(right) + 1)
    for piece in left:
        row = [0]
        for at, other in enumerate(right):
            row.append(above[at] + 1 if piece == other else 0)
        best, above = max(best, *row), row
    return best


def _f1(common: int, given: int, wanted: int) -> float:
    return 2 * common / (given + wanted) if common else 0.0
