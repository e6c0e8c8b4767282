"""The baselines of each task, fitted on training files and asked the same items as the model."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from weft.eval.baselines.dictionary import WordDictionary, copied
from weft.eval.baselines.lead import first_words, lead, longest_lines
from weft.eval.baselines.majority import Majority
from weft.eval.baselines.memory import EntityMemory
from weft.eval.baselines.overlap import overlapping
from weft.eval.metrics.rouge import Language, rouge
from weft.eval.task_scores import Guess
from weft.recipes.task_items import Item
from weft.tasks.naive_bayes import NaiveBayes

Baselines = dict[str, list[Guess]]

DICTIONARY_PAIRS = 50_000
LEAD_TEXTS = 500
"""Training pairs that the dictionary learns from, and summaries by which the number of lines is chosen."""
LINES, USUAL_LINES = (1, 2, 3, 4, 5), 3
WORDS, USUAL_WORDS = (10, 15, 20, 25, 30, 40, 50, 60, 80, 100), 50
"""Of a summary: what is tried on the training pairs, and what is taken without them."""


def baselines(task: str, items: Sequence[Item], train: Sequence[Item], language: Language) -> Baselines:
    """The answers of each baseline of ``task``; those that learn are left out without ``train``.

    ``language``: of the summaries.
    """
    known = [item for item in train if item.given is not None]
    if task in ("classification", "sentiment"):
        return _labels(items, known)
    if task in ("entities", "roles"):
        return _spans(items, known)
    if task == "answers":
        return {"overlap": _each(items, lambda asked: Guess(overlapping(*asked)))}
    if task == "translation":
        return _translations(items, known)
    return _summaries(items, known, language)


def _labels(items: Sequence[Item], train: Sequence[Item]) -> Baselines:
    if not train:
        return {}
    labels = [item.gold for item in train]
    majority, bayes = Majority(labels), NaiveBayes([item.given for item in train], labels)
    found: Baselines = {}
    for name, fitted in (("majority", majority), ("naive Bayes", bayes)):
        found[name] = _each(items, lambda text, fitted=fitted: _likeliest(fitted, text))  # type: ignore[misc]
    return found


def _likeliest(fitted: Any, text: str) -> Guess:
    shares = fitted.probabilities(text)
    best = int(np.argmax(shares))
    return Guess(fitted.labels[best], float(shares[best]))


def _spans(items: Sequence[Item], train: Sequence[Item]) -> Baselines:
    if not train:
        return {}
    memory = EntityMemory([item.given[0] for item in train], [item.gold for item in train])
    return {"memory": _each(items, lambda asked: Guess(tuple(memory.find(asked[0]))))}


def _translations(items: Sequence[Item], train: Sequence[Item]) -> Baselines:
    found = {"copy": _each(items, lambda text: Guess(copied(text)))}
    if train:
        used = _drawn(train, DICTIONARY_PAIRS)
        words = WordDictionary([item.given for item in used], [item.gold for item in used])
        found["dictionary"] = _each(items, lambda text: Guess(words.translate(text)))
    return found


def _summaries(items: Sequence[Item], train: Sequence[Item], language: Language) -> Baselines:
    found: Baselines = {}
    used = _drawn(train, LEAD_TEXTS)
    for name, summary, counts, usual in (
        ("lead", lead, LINES, USUAL_LINES),
        ("longest", longest_lines, LINES, USUAL_LINES),
        ("words", first_words, WORDS, USUAL_WORDS),
    ):
        count = _best_count(summary, counts, used, language) if used else usual
        found[f"{name}-{count}"] = _each(
            items,
            lambda text, summary=summary, count=count: Guess(summary(text, count)),  # type: ignore[misc]
        )
    return found


def _best_count(
    summary: Callable[[str, int], str], counts: Sequence[int], train: Sequence[Item], language: Language
) -> int:
    """The number of lines or words with the highest mean of all three figures of ROUGE."""

    def figure(count: int) -> float:
        found = [summary(item.given, count) for item in train]
        return float(rouge([item.gold for item in train], found, language).each.mean())

    return max(counts, key=figure)


def _drawn(items: Sequence[Item], most: int) -> list[Item]:
    return list(items) if len(items) <= most else random.Random(0).sample(list(items), most)


def _each(items: Sequence[Item], answer: Callable[[Any], Guess]) -> list[Guess]:
    return [Guess(None) if item.given is None else answer(item.given) for item in items]
