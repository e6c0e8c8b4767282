"""What tasks answer: a label or text with its score, or spans with their places. The same everywhere."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


class Scored(str):
    """A label or a text, and how sure the model is. It is that text wherever a text is wanted.

    ``score``: from 0 to 1; of a label its probability, of a text the geometric mean of its tokens'.
    ``scores``: of a label, those of all labels. ``alternatives``: of a text, others, best first.
    ``confident``: of a text, whether it came to its end and its score is no lower than the model's usual.
    """

    score: float
    scores: dict[str, float]
    alternatives: tuple[Scored, ...]
    confident: bool

    def __new__(
        cls,
        text: str,
        score: float,
        *,
        scores: dict[str, float] | None = None,
        alternatives: tuple[Scored, ...] = (),
        confident: bool = True,
    ) -> Scored:
        """See the class."""
        made = super().__new__(cls, text)
        made.score, made.scores = score, scores or {}
        made.alternatives, made.confident = alternatives, confident
        return made

    def table(self) -> dict[str, Any]:
        """As JSON spells it."""
        found: dict[str, Any] = {"text": str(self), "score": self.score}
        if self.scores:
            return {"label": str(self), "score": self.score, "scores": self.scores}
        if self.alternatives:
            found["alternatives"] = [{"text": str(one), "score": one.score} for one in self.alternatives]
        return found | {"confident": self.confident}


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
