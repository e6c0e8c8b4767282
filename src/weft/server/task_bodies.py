"""The bodies of requests for tasks, and the records of their answers; see :mod:`weft.server.schema`."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, Field, WithJsonSchema

from weft.api.ask import SETTINGS
from weft.engine.search import WIDEST
from weft.server.schema import Many, Strict, at_most

MOST_TEXTS = 32
"""Texts of one request: as many as /v1/completions takes prompts."""

MOST_BEAMS = WIDEST
MOST_TOKENS = 512
"""Of an answer that is written."""

R = TypeVar("R")


def _count(given: list[Any]) -> None:
    if not 1 <= len(given) <= MOST_TEXTS:
        raise ValueError(f"give 1 to {MOST_TEXTS} of them, not {len(given)}")


def _texts(given: str | list[str]) -> str | list[str]:
    texts = [given] if isinstance(given, str) else given
    _count(texts)
    for number, text in enumerate(texts):
        if not text.strip():
            raise ValueError(f"text {number} is empty; leave it out")
    return given


_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
_SCHEMA = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MOST_TEXTS}]}
Texts = Annotated[str | Many[str], AfterValidator(_texts), WithJsonSchema(_SCHEMA)]
"""A text, or several."""


def listed(given: Any) -> list[Any]:
    """What may be one or several as a list."""
    return given if isinstance(given, list) else [given]


class TaskBody(Strict):
    """What all tasks have in common."""

    model: str | None = None
    user: str | None = Field(default=None, max_length=512)

    def items(self) -> list[dict[str, Any]]:
        """What is asked about, as :func:`weft.api.ask.ask` takes it. ValueError for lists that do not fit."""
        raise NotImplementedError

    def settings(self, task: str) -> dict[str, Any]:
        """How; what was left out keeps its default."""
        given = {name: getattr(self, name) for name in SETTINGS.get(task, ())}
        return {name: value for name, value in given.items() if value is not None}


class TextBody(TaskBody):
    """POST /v1/tasks/classify, sentiment, entities and embed."""

    input: Texts

    def items(self) -> list[dict[str, Any]]:
        """An item for each text."""
        return [{"text": text} for text in listed(self.input)]


def _terms(given: dict[str, str] | None) -> dict[str, str] | None:
    if given is not None and not all(term.strip() and target.strip() for term, target in given.items()):
        raise ValueError("a term and its translation cannot be empty")
    return given


class TranslateBody(TextBody):
    """POST /v1/tasks/translate. ``glossary``: terms, and how they shall be translated."""

    target_language: str | None = Field(default=None, max_length=64)
    alternatives: int | None = Field(default=None, ge=1, le=MOST_BEAMS)
    glossary: Annotated[dict[str, str] | None, AfterValidator(_terms), at_most(256)] = Field(
        default=None, max_length=256
    )
    beams: int | None = Field(default=None, ge=1, le=MOST_BEAMS)
    max_length: int | None = Field(default=None, ge=1, le=MOST_TOKENS)


class SummarizeBody(TextBody):
    """POST /v1/tasks/summarize; ``max_length`` in tokens."""

    max_length: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    beams: int | None = Field(default=None, ge=1, le=MOST_BEAMS)


class Place(Strict):
    """Characters [start, end) of a text."""

    start: int = Field(ge=0)
    end: int = Field(ge=1)


Word = str | Place


class RolesBody(TextBody):
    """POST /v1/tasks/roles. ``predicate``: a word that occurs once, or its place; one, or one for a text."""

    predicate: Word | Many[Word]

    def items(self) -> list[dict[str, Any]]:
        """An item for each text."""
        words = [word if isinstance(word, str) else [word.start, word.end] for word in listed(self.predicate)]
        texts, words = _together(listed(self.input), words, "predicate")
        return [{"text": text, "predicate": word} for text, word in zip(texts, words, strict=True)]


class AnswerBody(TaskBody):
    """POST /v1/tasks/answer: questions and contexts, or one of them for several of the other."""

    question: Texts
    context: Texts
    least_score: float | None = Field(default=None, ge=0, le=1)

    def items(self) -> list[dict[str, Any]]:
        """An item for each question and context."""
        questions, contexts = listed(self.question), listed(self.context)
        if len(questions) == 1:
            questions = questions * len(contexts)
        questions, contexts = _together(questions, contexts, "context")
        return [{"question": q, "context": c} for q, c in zip(questions, contexts, strict=True)]


def _together(many: list[Any], other: list[Any], name: str) -> tuple[list[Any], list[Any]]:
    if len(other) == 1:
        other = other * len(many)
    if len(other) != len(many):
        raise ValueError(f"{name}: give one, or one for each of the {len(many)} texts, not {len(other)}.")
    return many, other


class Label(BaseModel):
    """A label, its probability, and those of all labels."""

    label: str
    score: float
    scores: dict[str, float]


class Piece(BaseModel):
    """Characters [start, end) of a text, in Unicode code points; "not found" is a label without any."""

    text: str
    start: int
    end: int
    label: str
    score: float


class OtherText(BaseModel):
    """Another text that the model might have written."""

    text: str
    score: float


class Text(BaseModel):
    """A text that the model wrote; ``confident``: whether it ended, and scores as this model's usually do.

    ``spans``: of a summary out of the text's own sentences, these.
    """

    text: str
    score: float
    confident: bool
    alternatives: list[OtherText] | None = None
    spans: list[Piece] | None = None


class Pieces(BaseModel):
    """The labelled pieces of a text, in order."""

    spans: list[Piece]


class Vector(BaseModel):
    """A vector of length 1."""

    embedding: list[float]


class TaskUsage(BaseModel):
    """Tokens of the inputs, and of what was written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TaskAnswer(BaseModel, Generic[R]):
    """A record for each input, in their order."""

    object: Literal["task"]
    task: str
    model: str
    results: list[R]
    usage: TaskUsage
