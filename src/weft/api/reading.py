"""A loaded encoder: labels, spans, answers and vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from weft.api.abilities import tasks_of
from weft.api.able import Able
from weft.api.texts import at_least_one, check, each
from weft.core.errors import UsageError
from weft.data.forms.offsets import placed
from weft.engine.reader import Reader
from weft.models.baseline import Baseline
from weft.models.encoder import Encoder
from weft.ops.crf import viterbi
from weft.tasks import Card, Scored, Span, classify, extract, extractive, tag
from weft.tasks.naive_bayes import NaiveBayes
from weft.tokenizer import Tokenizer

Floats = npt.NDArray[np.float64]
R = TypeVar("R")


class ReadingModel(Able):
    """An encoder with its tokenizer and what it was trained for. One thread may use it."""

    def __init__(
        self,
        model: Encoder | Baseline,
        tokenizer: Tokenizer,
        card: Card,
        bayes: NaiveBayes | None = None,
    ):
        """``bayes``: of the labels that the model has, where the card gives it a weight."""
        self.model, self.tokenizer, self.card, self.bayes = model, tokenizer, card, bayes
        self.reader = Reader(model, tokenizer.eos_id)
        self.architecture = model.config.architecture
        self.labels = model.config.labels
        self.tasks = tasks_of(model.config, card)

    def classify(self, text: str | Sequence[str]) -> Any:
        """See :class:`Able`."""
        if "classify" not in self.tasks:
            self.refuse("classify")
        return each(text, self._classified)

    def analyze_sentiment(self, text: str | Sequence[str]) -> Any:
        """See :class:`Able`."""
        if "sentiment" not in self.tasks:
            self.refuse("analyze_sentiment")
        return each(text, self._classified)

    def find_entities(self, text: str | Sequence[str]) -> Any:
        """See :class:`Able`."""
        if "entities" not in self.tasks:
            self.refuse("find_entities")
        return each(text, lambda texts: self.tagged([(one, None) for one in texts]))

    def label_roles(self, text: str, predicate: str | tuple[int, int]) -> list[Span]:
        """See :class:`Able`. UsageError for a predicate that the text does not have, or has twice."""
        return self.roles([(text, predicate)])[0]

    def roles(self, asked: Sequence[tuple[str, str | tuple[int, int]]]) -> list[list[Span]]:
        """:meth:`label_roles` of each (text, predicate)."""
        if "roles" not in self.tasks:
            self.refuse("label_roles")
        check([text for text, _ in asked])
        return self.tagged([(text, _characters(text, predicate)) for text, predicate in asked])

    def answer(self, question: str, context: str, *, least_score: float = 0.0) -> Span:
        """See :class:`Able`."""
        return self.answers([(question, context)], least_score=least_score)[0]

    def answers(self, asked: Sequence[tuple[str, str]], *, least_score: float = 0.0) -> list[Span]:
        """:meth:`answer` of each (question, context)."""
        if "answer" not in self.tasks:
            self.refuse("answer")
        check([text for pair in asked for text in pair])
        window = self.card.window or self.reader.most
        windows = extract.encode(self.tokenizer, asked, window)
        scores = iter(self.reader.tokens([one.ids for group in windows for one in group]))
        return [
            extract.decode(context, group, [next(scores) for _ in group], least_score)
            for (_, context), group in zip(asked, windows, strict=True)
        ]

    def summarize(self, text: str | Sequence[str], max_length: int = 50, *, beams: int = 4) -> Any:
        """See :class:`Able`; ``beams`` are of models that write, and change nothing here."""
        if "summarize" not in self.tasks:
            self.refuse("summarize")
        at_least_one(max_length=max_length, beams=beams)
        return each(text, lambda texts: self._extracted(texts, max_length))

    def embed(self, text: str | Sequence[str]) -> Any:
        """See :class:`Able`."""
        return each(text, self._embedded)

    def scores(self, texts: Sequence[str]) -> Floats:
        """float64 [N, C]: the scores of the labels of each text before temperature and softmax."""
        found = self.network_scores(texts)
        return found if self.bayes is None else found + self.card.bayes * self.evidence(self.bayes, texts)

    def network_scores(self, texts: Sequence[str]) -> Floats:
        """:meth:`scores` of the network alone."""
        return self.reader.classes([one.ids for one in classify.encode(self.tokenizer, texts)])

    def evidence(self, bayes: NaiveBayes, texts: Sequence[str]) -> Floats:
        """float64 [N, C]: what a naive Bayes of the same labels says, in the model's order of them."""
        return bayes.evidence(texts)[:, [bayes.labels.index(label) for label in self.labels]]

    def vectors(self, documents: Sequence[Sequence[int]]) -> Floats:
        """float64 [N, E]: :meth:`embed` of token ids."""
        found = self.reader.vectors(documents)
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        unit: Floats = found / np.maximum(lengths, 1e-12)
        return unit

    def tagged(self, asked: Sequence[tag.Asked]) -> list[list[Span]]:
        """The spans of each text, asked about a predicate or none.

        A text may be longer than what the model reads at once, unless a predicate is asked about.
        """
        documents = tag.encode(self.tokenizer, asked)
        read = self.reader.tokens if any(p for _, p in asked) else self.reader.tokens_of_long
        found = []
        for (text, _), one, scores in zip(
            asked, documents, read([one.ids for one in documents]), strict=True
        ):
            found.append(tag.decode(text, one, self._best(scores), _shares(scores), self.labels))
        return found

    def _best(self, scores_TC: Floats) -> list[int]:
        """The best sequence of classes that BIO allows."""
        table = tuple(torch.from_numpy(part) for part in tag.legal(self.labels))
        if self.model.crf is not None:
            learnt = self.model.crf.table
            table = tuple(part + own.detach().double() for part, own in zip(table, learnt, strict=True))
            return viterbi(torch.from_numpy(scores_TC), (table[0], table[1], table[2]))
        logs = torch.from_numpy(scores_TC).log_softmax(-1)
        return viterbi(logs, (table[0], table[1], table[2]))

    def _extracted(self, texts: Sequence[str], max_length: int) -> list[Scored]:
        documents = extractive.encode(self.tokenizer, texts)
        scores = self.reader.tokens_of_long([one.ids for one in documents])
        return [
            extractive.decode(text, one, _shares(rows), self.card.unit, max_length, self.card.usual)
            for text, one, rows in zip(texts, documents, scores, strict=True)
        ]

    def _classified(self, texts: Sequence[str]) -> list[Scored]:
        return classify.decode(self.scores(texts), self.labels, self.card.temperature)

    def _embedded(self, texts: Sequence[str]) -> list[Floats]:
        return list(self.vectors([one.ids for one in placed(self.tokenizer, texts)]))


def _shares(scores_TC: Floats) -> Floats:
    """The probabilities of the classes of each token."""
    odds = np.exp(scores_TC - scores_TC.max(1, keepdims=True))
    found: Floats = odds / odds.sum(1, keepdims=True)
    return found


def _characters(text: str, predicate: str | tuple[int, int]) -> tuple[int, int]:
    if isinstance(predicate, str):
        start = text.find(predicate)
        if not predicate or start < 0 or text.find(predicate, start + 1) >= 0:
            times = "not" if not predicate or start < 0 else "more than once"
            raise UsageError(
                f"The predicate {predicate!r} occurs {times} in the text; give its characters (start, end)."
            )
        return start, start + len(predicate)
    start, stop = predicate
    if not 0 <= start < stop <= len(text):
        raise UsageError(f"The predicate ({start}, {stop}) lies outside the text of {len(text)} characters.")
    if not text[start:stop].strip():
        raise UsageError(f"The predicate ({start}, {stop}) is only space; give the characters of a word.")
    return start, stop
