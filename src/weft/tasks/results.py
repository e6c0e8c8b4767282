"""What tasks answer: a label or text with its score, or spans with their places. The same everywhere."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Span:
    """A piece of a text: characters [start, end), what it is, and a score from 0 to 1."""

    text: str
    start: int
    end: int
    label: str
    score: float

    def table(self) -> dict[str, Any]:
        """As JSON spells it."""
        return asdict(self)


class Scored(str):
    """A label or a text, and how sure the model is. It is that text wherever a text is wanted.

    ``score``: from 0 to 1; of a label its probability, of a text the geometric mean of its tokens', of one
    out of another text the mean of its pieces'.
    ``scores``: of a label, those of all labels. ``alternatives``: of a text, others, best first.
    ``confident``: of a text, whether it came to its end and its score is no lower than the model's usual.
    ``spans``: of a text that was taken out of another one, the pieces of that.
    """

    score: float
    scores: dict[str, float]
    alternatives: tuple[Scored, ...]
    confident: bool
    spans: tuple[Span, ...]

    def __new__(
        cls,
        text: str,
        score: float,
        *,
        scores: dict[str, float] | None = None,
        alternatives: tuple[Scored, ...] = (),
        confident: bool = True,
        spans: tuple[Span, ...] = (),
    ) -> Scored:
        """See the class."""
        made = super().__new__(cls, text)
        made.score, made.scores = score, scores or {}
        made.alternatives, made.confident, made.spans = alternatives, confident, spans
        return made

    def table(self) -> dict[str, Any]:
        """As JSON spells it."""
        found: dict[str, Any] = {"text": str(self), "score": self.score}
        if self.scores:
            return {"label": str(self), "score": self.score, "scores": self.scores}
        if self.alternatives:
            found["alternatives"] = [{"text": str(one), "score": one.score} for one in self.alternatives]
        if self.spans:
            found["spans"] = [span.table() for span in self.spans]
        return found | {"confident": self.confident}
