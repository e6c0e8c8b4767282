"""What any loaded model can be asked; a model that was not trained for it says which command trains one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from weft.core.errors import UsageError
from weft.tasks import Span

HOW = {
    "generate": ("weft data TEXTS --out DATA", "weft train data.path=DATA --budget 30m"),
    "chat": (
        "weft data supervised CHATS --tokenizer BASE/model --out DATA",
        "weft train objective.name=sft model.start=BASE data.path=DATA",
    ),
    "translate": (
        "weft data supervised PAIRS --form pairs --languages en,zh --both-ways --vocab-size 8192 --out DATA",
        "weft train objective.name=pairs data.path=DATA train.epochs=20",
    ),
    "summarize": (
        "weft data supervised PAIRS --form pairs --vocab-size 8192 --out DATA",
        "weft train objective.name=pairs objective.task=summary data.path=DATA train.epochs=20",
    ),
    "classify": (
        "weft data supervised LABELLED --form classify --vocab-size 8192 --out DATA",
        "weft train objective.name=classify data.path=DATA train.epochs=5",
    ),
    "analyze_sentiment": (
        "weft data supervised LABELLED --form classify --vocab-size 8192 --out DATA",
        "weft train objective.name=classify objective.task=sentiment data.path=DATA train.epochs=5",
    ),
    "find_entities": (
        "weft data supervised TAGGED --form tag --vocab-size 8192 --out DATA",
        "weft train objective.name=tag data.path=DATA train.epochs=10",
    ),
    "label_roles": (
        "weft data supervised ROLES --form tag --reader roles --vocab-size 8192 --out DATA",
        "weft train objective.name=tag objective.task=roles data.path=DATA train.epochs=10",
    ),
    "answer": (
        "weft data supervised QUESTIONS --form span --window 384 --vocab-size 8192 --out DATA",
        "weft train objective.name=span data.path=DATA data.sequence_length=384 train.epochs=3",
    ),
    "embed": (
        "weft data TEXTS tokenizer.encoder=true --out DATA",
        "weft train objective.name=masked data.path=DATA --budget 30m",
    ),
}
"""What has to be run for a model that can do it."""

CALLS = {
    "translate": "translate",
    "summarize": "summarize",
    "classify": "classify",
    "sentiment": "analyze_sentiment",
    "entities": "find_entities",
    "roles": "label_roles",
    "answer": "answer",
    "embed": "embed",
}
"""Tasks by the names that the command line and servers give them, and the calls that do them."""


def refusal(architecture: str, call: str) -> UsageError:
    """What a model says that cannot do ``call``: which commands train one that can."""
    data, train = HOW[call]
    return UsageError(
        f"This {architecture} was not trained for {call}. For a model that is: {data}; then {train}."
    )


class Able:
    """The calls of every loaded model. Texts alone give one result, lists of texts a list of results.

    ``tasks``: what of :data:`CALLS` this model can do.
    """

    architecture: str
    tasks: tuple[str, ...] = ()

    def refuse(self, call: str) -> NoReturn:
        """UsageError that says which commands train a model for ``call``."""
        raise refusal(self.architecture, call)

    def generate(self, *arguments: Any, **settings: Any) -> Any:
        """Continue a prompt: a decoder's."""
        self.refuse("generate")

    def chat(self, *arguments: Any, **settings: Any) -> Any:
        """Answer messages: a decoder's."""
        self.refuse("chat")

    def classify(self, text: str | Sequence[str]) -> Any:
        """The label of a text as :class:`Scored`, with the probabilities of all labels."""
        self.refuse("classify")

    def analyze_sentiment(self, text: str | Sequence[str]) -> Any:
        """The sentiment of a text, or of each, in the words of the training labels."""
        self.refuse("analyze_sentiment")

    def find_entities(self, text: str | Sequence[str]) -> Any:
        """The named entities of a text as :class:`Span` s in order; of several texts a list of such lists."""
        self.refuse("find_entities")

    def label_roles(self, text: str, predicate: str | tuple[int, int]) -> list[Span]:
        """The roles around a predicate of a text: a word that occurs once in it, or its characters."""
        self.refuse("label_roles")

    def answer(self, question: str, context: str, *, least_score: float = 0.0) -> Span:
        """The span of the context that answers, or a span with the label «not found»."""
        self.refuse("answer")

    def translate(
        self,
        text: str | Sequence[str],
        target_language: str | None = None,
        *,
        alternatives: int = 1,
        glossary: Mapping[str, str] | None = None,
        beams: int = 4,
        max_length: int | None = None,
    ) -> Any:
        """A text, or each, in another language.

        ``alternatives``: how many texts to find; ``glossary``: terms and how they shall be translated, by
        which the alternatives are chosen; ``max_length``: tokens, by default 16 more than twice the source's
        (those rounded up to a multiple of 16).
        """
        self.refuse("translate")

    def summarize(self, text: str | Sequence[str], max_length: int = 50, *, beams: int = 4) -> Any:
        """A summary of a text, or of each, of at most ``max_length`` tokens.

        A model that learnt extractive examples takes sentences of the text, which are its ``spans``.
        """
        self.refuse("summarize")

    def embed(self, text: str | Sequence[str]) -> Any:
        """float64 [E] of a text, or [N, E]: its vector of length 1."""
        self.refuse("embed")
