"""Figures of labels, spans and answers beside those of baselines: from gold records and guesses alone.

A scorer knows one kind of gold answers; :func:`scores` puts the systems beside each other. Texts that are
written (translations, summaries) are scored in :mod:`weft.eval.text_scores`. N items, L labels, B bins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError
from weft.eval.metrics.answers import cmrc, squad
from weft.eval.metrics.calibration import calibration
from weft.eval.metrics.classification import classification
from weft.eval.metrics.spans import Span, SpanFigures, span_figures
from weft.eval.standing import MODEL, Floats, Measure, mean, quotient, standing

NOTHING = "(no answer)"
"""The label of items that got no answer, in the table of confusion."""

BINS = 15
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af]")


@dataclass(frozen=True)
class Guess:
    """What a system answers: a label, spans or a text; None where it could not be asked.

    ``confidence`` from 0 to 1, if there is one; ``before``: without the temperature.
    """

    value: Any
    confidence: float | None = None
    before: float | None = None


class Scorer(Protocol):
    """How one task is scored."""

    def measures(self, gold: Sequence[Any], guesses: Sequence[Guess]) -> list[Measure]:
        """The figures of the task; the first is the one that counts."""
        ...

    def by_label(self, gold: Sequence[Any], guesses: Sequence[Guess]) -> list[Measure]:
        """A figure of each label, under its name; none for tasks without labels."""
        ...

    def quality(self, gold: Sequence[Any], guesses: Sequence[Guess]) -> Floats:
        """float64 [N] from 0 to 1: how right each answer is."""
        ...

    def detail(self, gold: Sequence[Any], guesses: Sequence[Guess]) -> dict[str, Any]:
        """What else a report shows of the model."""
        ...


def scores(
    scorer: Scorer,
    gold: Sequence[Any],
    systems: Mapping[str, Sequence[Guess]],
    fresh: npt.NDArray[np.bool_] | None = None,
    *,
    seed: int = 0,
    draws: int = 2000,
) -> dict[str, Any]:
    """``figures`` and ``by_label`` of the :data:`weft.eval.standing.MODEL` beside the other systems.

    ``fresh`` bool [N]: the items that training did not have; where others occur, ``deduplicated`` has the
    figures of these alone. DataError without items, or for systems with other numbers of answers.
    """
    for name, guesses in systems.items():
        if not gold or len(guesses) != len(gold):
            raise DataError(f"{len(gold)} gold answers got {len(guesses)} of {name}; give one each.")

    def figures(keep: Sequence[int]) -> list[dict[str, Any]]:
        right = [gold[number] for number in keep]
        found = {
            name: scorer.measures(right, [guesses[number] for number in keep])
            for name, guesses in systems.items()
        }
        return standing(found, seed=seed, draws=draws)

    labels = {name: scorer.by_label(gold, guesses) for name, guesses in systems.items()}
    record: dict[str, Any] = {"items": len(gold), "figures": figures(range(len(gold)))}
    record["by_label"] = standing(labels, seed=seed, draws=draws) if labels[MODEL] else []
    if fresh is not None and 0 < fresh.sum() < len(gold):
        kept = np.flatnonzero(fresh).tolist()
        record["deduplicated"] = {"items": len(kept), "figures": figures(kept)}
    return record | scorer.detail(gold, systems[MODEL])


class Labels:
    """Gold answers are labels: accuracy, macro-F1, and the expected calibration error of what is sure.

    ``ece_before`` is that without the temperature (arXiv:1706.04599). Items without an answer are wrong.
    """

    def measures(self, gold: Sequence[str], guesses: Sequence[Guess]) -> list[Measure]:
        """See :class:`Scorer`."""
        hits = self.quality(gold, guesses)
        found = [mean("accuracy", hits), self._macro_f1(gold, guesses)]
        for name, confidences in (
            ("ece", [guess.confidence for guess in guesses]),
            ("ece_before", [guess.before for guess in guesses]),
        ):
            if any(confidence is not None for confidence in confidences):
                found.append(_ece(name, confidences, hits))
        return found

    def by_label(self, gold: Sequence[str], guesses: Sequence[Guess]) -> list[Measure]:
        """Recall of each label that is in the gold answers."""
        hits, label_N = self.quality(gold, guesses), np.array(gold)
        return [
            quotient(name, hits * (label_N == name), (label_N == name).astype(np.float64))
            for name in sorted(set(gold))
        ]

    def quality(self, gold: Sequence[str], guesses: Sequence[Guess]) -> Floats:
        """1 where the label is right."""
        return np.array(
            [right == guess.value for right, guess in zip(gold, guesses, strict=True)], np.float64
        )

    def detail(self, gold: Sequence[str], guesses: Sequence[Guess]) -> dict[str, Any]:
        """``confusion``: a row a gold label, a column an answer; ``reliability``: the bins of the diagram."""
        found = [NOTHING if guess.value is None else guess.value for guess in guesses]
        labels = sorted({*gold, *found} - {NOTHING}) + ([NOTHING] if NOTHING in found else [])
        table = classification(gold, found, labels)
        record: dict[str, Any] = {"labels": labels, "confusion": table.confusion.tolist()}
        sure = [number for number, guess in enumerate(guesses) if guess.confidence is not None]
        if sure:
            confidences = np.array([guesses[number].confidence for number in sure], np.float64)
            bins = calibration(confidences, self.quality(gold, guesses)[sure], BINS)
            record["reliability"] = {
                "confidence": _listed(bins.confidence),
                "accuracy": _listed(bins.accuracy),
                "count": bins.count.tolist(),
            }
        return record

    def _macro_f1(self, gold: Sequence[str], guesses: Sequence[Guess]) -> Measure:
        labels = sorted({*gold, *(guess.value for guess in guesses if guess.value is not None)})
        number = {name: place for place, name in enumerate(labels)}
        wanted, given = np.zeros((2, len(gold), len(labels)))
        for item, (right, guess) in enumerate(zip(gold, guesses, strict=True)):
            wanted[item, number[right]] = 1
            if guess.value is not None:
                given[item, number[guess.value]] = 1

        def of(sums: Floats) -> Floats:
            hits, either = sums[:, : len(labels)], sums[:, len(labels) :]
            f1 = 2 * hits / np.maximum(either, 1)
            # A label that is in neither does not count, as in classification().
            found: Floats = f1.sum(axis=1) / np.maximum((either > 0).sum(axis=1), 1)
            return found

        return Measure("macro_f1", np.concatenate([wanted * given, wanted + given], axis=1), of)


class Spans:
    """Gold answers are sequences of spans: strict F1, precision and recall over all items."""

    def measures(self, gold: Sequence[Sequence[Span]], guesses: Sequence[Guess]) -> list[Measure]:
        """See :class:`Scorer`."""
        found = _spans(gold, guesses)
        return [
            quotient("f1", 2 * found.hits, found.found + found.gold),
            quotient("precision", found.hits, found.found),
            quotient("recall", found.hits, found.gold),
        ]

    def by_label(self, gold: Sequence[Sequence[Span]], guesses: Sequence[Guess]) -> list[Measure]:
        """F1 of each label that is in the gold answers."""
        names = sorted({label for spans in gold for _, _, label in spans})
        number = {name: place for place, name in enumerate(names)}
        hits, both = np.zeros((2, len(gold), len(names)))
        for item, (right, guess) in enumerate(zip(gold, guesses, strict=True)):
            wanted, given = set(right), set(guess.value or ())
            for table, spans in ((hits, wanted & given), (both, wanted), (both, given)):
                for _, _, label in spans:
                    if label in number:
                        table[item, number[label]] += 1
        return [quotient(name, 2 * hits[:, place], both[:, place]) for name, place in number.items()]

    def quality(self, gold: Sequence[Sequence[Span]], guesses: Sequence[Guess]) -> Floats:
        """F1 of each item; 1 where there is nothing to find and nothing was found."""
        found = _spans(gold, guesses)
        both = found.found + found.gold
        asked = np.array([guess.value is not None for guess in guesses])
        return np.where(both > 0, 2 * found.hits / np.maximum(both, 1), asked.astype(np.float64))

    def detail(self, gold: Sequence[Sequence[Span]], guesses: Sequence[Guess]) -> dict[str, Any]:
        """``spans``: precision, recall, F1 and support of each label, found ones too."""
        found = _spans(gold, guesses)
        return {"spans": {name: asdict(row) for name, row in found.by_label.items()}}


@dataclass(frozen=True)
class Question:
    """A question and all its right answers; none: its text does not answer it."""

    question: str
    answers: tuple[str, ...]


class Answers:
    """Gold answers are :class:`Question` s: exact match and F1, the best over all right answers.

    Each by the script of its question: CMRC 2018 where it has Han characters, else SQuAD. Of a question
    without an answer both are 1 for an empty answer, as in SQuAD 2.0.
    """

    def measures(self, gold: Sequence[Question], guesses: Sequence[Guess]) -> list[Measure]:
        """See :class:`Scorer`."""
        table = self._table(gold, guesses)
        return [mean("f1", table[:, 1]), mean("exact", table[:, 0])]

    def by_label(self, gold: Sequence[Question], guesses: Sequence[Guess]) -> list[Measure]:
        """None."""
        return []

    def quality(self, gold: Sequence[Question], guesses: Sequence[Guess]) -> Floats:
        """F1 of each."""
        return self._table(gold, guesses)[:, 1]

    def detail(self, gold: Sequence[Question], guesses: Sequence[Guess]) -> dict[str, Any]:
        """``chinese`` and ``unanswerable``: questions of these kinds."""
        return {
            "chinese": sum(is_chinese(one.question) for one in gold),
            "unanswerable": sum(not one.answers for one in gold),
        }

    def _table(self, gold: Sequence[Question], guesses: Sequence[Guess]) -> Floats:
        rows = [_answer(one, guess.value) for one, guess in zip(gold, guesses, strict=True)]
        return np.array(rows, np.float64).reshape(-1, 2)


def is_chinese(text: str) -> bool:
    """Whether a text has Han characters."""
    return _HAN.search(text) is not None


def _answer(gold: Question, found: str | None) -> tuple[float, float]:
    if found is None:
        return 0.0, 0.0
    if not gold.answers:
        return float(not found), float(not found)
    score = cmrc if is_chinese(gold.question) else squad
    pairs = [score(right, found) for right in gold.answers]
    return max(exact for exact, _ in pairs), max(f1 for _, f1 in pairs)


def _ece(name: str, confidences: Sequence[float | None], hits: Floats) -> Measure:
    """Columns: hits minus confidence in each bin, and whether the item has a confidence."""
    sure = np.array([one is not None for one in confidences])
    value_N = np.array([one or 0.0 for one in confidences])
    columns = np.zeros((len(sure), BINS + 1))
    bin_N = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], value_N)
    columns[np.arange(len(sure)), bin_N] = (hits - value_N) * sure
    columns[:, BINS] = sure

    def of(sums: Floats) -> Floats:
        found: Floats = np.abs(sums[:, :BINS]).sum(axis=1) / np.maximum(sums[:, BINS], 1)
        return found

    return Measure(name, columns, of, lower=True)


def _spans(gold: Sequence[Sequence[Span]], guesses: Sequence[Guess]) -> SpanFigures:
    return span_figures(gold, [guess.value or () for guess in guesses])


def _listed(values: Floats) -> list[float | None]:
    """NaN has no JSON."""
    return [None if np.isnan(value) else float(value) for value in values]
