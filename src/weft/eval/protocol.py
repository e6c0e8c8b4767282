"""What evaluation asks of a language model: three methods, as in lm-evaluation-harness (``api/model.py``).

Evaluation owns this protocol and imports no engine; whoever wires a run passes an object that has these
methods. :class:`weft.eval.decoder_model.DecoderModel` makes the likelihoods from a decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class LikelihoodRequest:
    """How likely is ``continuation`` after ``context``? An empty context is the start of a document."""

    context: str
    continuation: str


@dataclass(frozen=True)
class Likelihood:
    """``log_probability`` in nats, summed over tokens; ``is_greedy``: each token was the likeliest."""

    log_probability: float
    is_greedy: bool


@dataclass(frozen=True)
class GenerateRequest:
    """Continue ``context`` by up to ``max_new_tokens`` tokens, to before one of ``until``.

    ``temperature`` 0 takes the likeliest token. Equal requests with equal seeds give equal texts.
    """

    context: str
    until: tuple[str, ...] = ()
    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Generation:
    """The new text alone; ``finished`` is False when the limit of tokens cut it off."""

    text: str
    finished: bool


class LanguageModel(Protocol):
    """A model under evaluation. Answers come in the order of the requests."""

    def loglikelihood(self, requests: Sequence[LikelihoodRequest]) -> list[Likelihood]:
        """Likelihood of each continuation after its context."""
        ...

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """Nats of each whole text as a document: its tokens and its end of text; never above 0."""
        ...

    def generate_until(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """A continuation of each context."""
        ...
