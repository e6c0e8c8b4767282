"""How one request wants its tokens drawn. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, get_args

from weft.core.errors import UsageError
from weft.engine.remainders import remainders
from weft.engine.repetition import expanded

MASK64 = 2**64 - 1
MOST_LOGPROBS = 64
"""Alternatives that may be asked for at each token."""
SMALLEST_TEMPERATURE = 1e-5
"""Below this a temperature means greedy: dividing by less would overflow the scores."""


GrammarKind = Literal["json_schema", "json_object", "regex", "lark", "choice"]
MOST_GRAMMAR = 65_536
"""Characters of a grammar."""
MOST_WRITTEN = 100_000
"""Characters of a grammar with its counted repetitions written out, which bounds the compiler's work."""
MOST_REMAINDERS = 5_000
"""States that the ``multipleOf`` of JSON schemas may take a compiler: about a tenth of a second."""


@dataclass(frozen=True)
class Grammar:
    """What an answer must look like: a JSON schema, any JSON object, a regular expression, a grammar in
    Lark's notation, or one of several texts (``text`` is then a JSON list of them).

    Raises UsageError for an unknown kind and a text that is too long.
    """

    kind: GrammarKind
    text: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(GrammarKind):
            kinds = ", ".join(get_args(GrammarKind))
            raise UsageError(f"A grammar of kind {self.kind!r} is not known; write one of: {kinds}.")
        if len(self.text) > MOST_GRAMMAR:
            raise UsageError(
                f"The grammar has {len(self.text)} characters and may have {MOST_GRAMMAR}; make it smaller."
            )
        written = expanded(self.text)
        if written > MOST_WRITTEN:
            raise UsageError(
                f"The grammar's repetitions, written out, have {written} characters; {MOST_WRITTEN} are "
                "allowed."
            )
        if remainders(self.text) > MOST_REMAINDERS:
            raise UsageError(
                "The multipleOf of the grammar, or the least common multiple of several, is too large to be "
                f"followed (above {MOST_REMAINDERS}); leave it out, and check the number afterwards."
            )


@dataclass(frozen=True)
class SamplingParams:
    """Settings of one request; the changes of the scores run in the order in which they stand here.

    ``max_tokens``: new tokens at most (None: as many as the context holds). ``min_tokens``: before so many
    new ones no token ends the answer.
    ``repetition_penalty``: CTRL's penalty on tokens already there (arXiv:1909.05858); 1 is off.
    ``frequency_penalty``: taken from a token's score for every time the answer holds it;
    ``presence_penalty``: taken once if it holds it at all. OpenAI's, on new tokens alone.
    ``logit_bias``: added to the scores of these token ids.
    ``temperature``: divides the scores; 0 is greedy, and then no filter below matters.
    ``top_k``: keep the k most likely tokens; 0 is off.
    ``top_p``: of those, the smallest set with probability of at least p (arXiv:1904.09751); 1 is off.
    ``min_p``: of those, tokens at least min_p times as likely as the best (arXiv:2407.01082); 0 is off.
    ``seed``: equal seeds, prompts and settings draw equal tokens; None draws a fresh seed.
    ``stop``: texts before which the answer ends; the spelling of a special token means that token.
    ``stop_token_ids``: tokens that end it like the end of text.
    ``ignore_eos``: go on after the end-of-text token.
    ``logprobs``: None, or how many of the likeliest tokens to report beside each drawn one (0: it alone),
    with natural logarithms of the model's own probabilities, before everything above.
    ``prompt_logprobs``: the same for the tokens of the prompt, as in vLLM; ``max_tokens`` may then be 0. The
    whole prompt is computed for it, whatever of it is cached.
    ``grammar``: what the answer must look like.
    ``cache_salt``: requests share cached prefixes only with those of equal salt (None: of the same owner).
    Raises UsageError for values that make no sense.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    cache_salt: str | None = None
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            check_whole("max_tokens", self.max_tokens, 1 if self.prompt_logprobs is None else 0, 2**31)
        check_whole("min_tokens", self.min_tokens, 0, 2**31 if self.max_tokens is None else self.max_tokens)
        check_number("repetition_penalty", self.repetition_penalty, 0.01, 100)
        check_number("frequency_penalty", self.frequency_penalty, -100, 100)
        check_number("presence_penalty", self.presence_penalty, -100, 100)
        if not isinstance(self.logit_bias, Mapping):
            raise UsageError(f"logit_bias = {self.logit_bias!r} must map token ids to what is added.")
        for token, bias in self.logit_bias.items():
            check_whole("a token id of logit_bias", token, 0, 2**31)
            check_number(f"logit_bias of token {token}", bias, -1000, 1000)
        check_number("temperature", self.temperature, 0, 100)
        check_whole("top_k", self.top_k, 0, 2**31)
        check_number("top_p", self.top_p, 0, 1)
        check_number("min_p", self.min_p, 0, 1)
        if self.top_p == 0:
            raise UsageError("top_p = 0 keeps no token; for greedy write temperature = 0.")
        if self.seed is not None:
            check_whole("seed", self.seed, -(2**63), 2**64 - 1)
        if not isinstance(self.stop, tuple | list) or not all(
            isinstance(text, str) and text for text in self.stop
        ):
            raise UsageError(f"stop = {self.stop!r} must be a tuple of texts, none of them empty.")
        if not isinstance(self.stop_token_ids, tuple | list):
            raise UsageError(f"stop_token_ids = {self.stop_token_ids!r} must be a tuple of token ids.")
        for token in self.stop_token_ids:
            check_whole("a token id of stop_token_ids", token, 0, 2**31)
        if self.logprobs is not None:
            check_whole("logprobs", self.logprobs, 0, MOST_LOGPROBS)
        if self.prompt_logprobs is not None:
            check_whole("prompt_logprobs", self.prompt_logprobs, 0, MOST_LOGPROBS)

    @cached_property
    def plain(self) -> bool:
        """Whether scores are taken as the model gives them, up to the temperature."""
        return (
            self.repetition_penalty == 1
            and not self.frequency_penalty
            and not self.presence_penalty
            and not self.logit_bias
            and not self.min_tokens
            and self.grammar is None
        )

    @cached_property
    def greedy(self) -> bool:
        """Whether the most likely token is taken every time."""
        return self.temperature < SMALLEST_TEMPERATURE

    def sample(self, index: int) -> SamplingParams:
        """The settings of the ``index``-th of several samples: each has its own seed, the first this one."""
        if self.seed is None or index == 0:
            return self
        return replace(self, seed=mix64((self.seed & MASK64) + index * 0xD1B54A32D192ED03))


def mix64(value: int) -> int:
    """A bijection of 64 bits that scatters neighbours (the finaliser of splitmix64, Steele et al. 2014)."""
    value &= MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK64
    return value ^ (value >> 31)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on the seed and the position of the token in its sequence alone.

    There is no generator state, so a request draws the same numbers beside any neighbours, in any
    order of steps, and when a part of it is computed again.
    """
    return (mix64(mix64(seed) + (position + 1) * 0x9E3779B97F4A7C15) >> 11) * 2.0**-53


def check_number(name: str, value: object, low: float, high: float) -> None:
    """Raises UsageError unless ``value`` is a finite number within these bounds."""
    right = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not right or not math.isfinite(value) or not low <= value <= high:  # type: ignore[arg-type, operator]
        raise UsageError(f"{name} = {value!r} must be a number from {low:g} to {high:g}.")


def check_whole(name: str, value: object, low: int, high: int) -> None:
    """Raises UsageError unless ``value`` is a whole number within these bounds."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UsageError(f"{name} = {value!r} must be a whole number from {low} to {high}.")
