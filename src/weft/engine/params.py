"""How one request wants its tokens drawn. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from weft.core.errors import UsageError

MASK64 = 2**64 - 1
SMALLEST_TEMPERATURE = 1e-5
"""Below this a temperature means greedy: dividing by less would overflow the scores."""


@dataclass(frozen=True)
class SamplingParams:
    """Settings of one request; the filters run in the order in which they stand here.

    ``max_tokens``: new tokens at most (None: as many as the context holds).
    ``repetition_penalty``: CTRL's penalty on tokens already there (arXiv:1909.05858); 1 is off.
    ``temperature``: divides the scores; 0 is greedy, and then no filter below matters.
    ``top_k``: keep the k most likely tokens; 0 is off.
    ``top_p``: of those, the smallest set with probability of at least p (arXiv:1904.09751); 1 is off.
    ``min_p``: of those, tokens at least min_p times as likely as the best (arXiv:2407.01082); 0 is off.
    ``seed``: equal seeds, prompts and settings draw equal tokens; None draws a fresh seed.
    ``stop``: texts before which the answer ends. ``ignore_eos``: go on after the end-of-text token.
    Raises UsageError for values that make no sense.
    """

    max_tokens: int | None = None
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            _whole("max_tokens", self.max_tokens, 1, 2**31)
        _number("repetition_penalty", self.repetition_penalty, 0.01, 100)
        _number("temperature", self.temperature, 0, 100)
        _whole("top_k", self.top_k, 0, 2**31)
        _number("top_p", self.top_p, 0, 1)
        _number("min_p", self.min_p, 0, 1)
        if self.top_p == 0:
            raise UsageError("top_p = 0 keeps no token; for greedy write temperature = 0.")
        if self.seed is not None:
            _whole("seed", self.seed, -(2**63), 2**64 - 1)
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise UsageError(f"stop = {self.stop!r} must be a tuple of texts, none of them empty.")

    @property
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


def _number(name: str, value: object, low: float, high: float) -> None:
    right = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not right or not math.isfinite(value) or not low <= value <= high:  # type: ignore[arg-type, operator]
        raise UsageError(f"{name} = {value!r} must be a number from {low:g} to {high:g}.")


def _whole(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UsageError(f"{name} = {value!r} must be a whole number from {low} to {high}.")
