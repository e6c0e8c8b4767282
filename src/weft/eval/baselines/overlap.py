"""Answers without a model: the sentence of a text that shares most words with the question.

The simplest form of the sliding window of Richardson et al. 2013 (MCTest), which Rajpurkar et al. 2016
(arXiv:1606.05250) used as the baseline of SQuAD: their window is a sentence here. Chinese counts characters
and pairs of neighbouring ones.
"""

from __future__ import annotations

from weft.core.errors import DataError
from weft.data.terms import terms
from weft.eval.baselines.lead import sentences


def overlapping(question: str, context: str) -> str:
    """The sentence with most different terms of ``question``, the shorter and then the first of equals.

    DataError for a blank context.
    """
    found = sentences(context)
    if not found:
        raise DataError("A blank context has no sentence to answer with; leave it out of the evaluation.")
    wanted = _pieces(question)
    return min(found, key=lambda sentence: (-len(wanted & _pieces(sentence)), len(sentence)))


def _pieces(text: str) -> set[str]:
    return {*terms(text), *(character for character in text if "\u3400" <= character <= "\u9fff")}
