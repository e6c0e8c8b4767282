"""Beam search: the most probable answers by breadth, for tasks where one right answer is sought."""

from __future__ import annotations

import heapq
from collections.abc import Sequence as Items
from dataclasses import dataclass

from weft.core.errors import UsageError
from weft.engine.llm import LLM, Prompt
from weft.engine.params import MOST_LOGPROBS, SamplingParams
from weft.engine.sequence import TokenLogprobs


@dataclass(frozen=True)
class Beam:
    """An answer: its new ``tokens`` and the sum of their log probabilities; ``ended``: by an end token."""

    tokens: tuple[int, ...]
    logprob: float
    ended: bool = False

    def score(self, length_penalty: float) -> float:
        """The log probability per token, to the power of ``length_penalty`` tokens."""
        return self.logprob / float(max(1, len(self.tokens)) ** length_penalty)


def beam_search(
    llm: LLM,
    prompt: Prompt,
    *,
    width: int,
    max_tokens: int,
    length_penalty: float = 1.0,
    owner: str = "",
    adapter: str | None = None,
) -> list[Beam]:
    """The ``width`` best answers found, best first.

    In every step each of ``width`` beams is continued by its likeliest tokens and the best ``width`` of all
    are kept; it ends when no beam can beat an answer that is complete. Beams share the blocks of what they
    have in common through the prefix cache, and up to 15 tokens of each are computed again: little work that
    saves a second kind of sequence. Requests under way advance too. Raises UsageError for a prompt or width
    that makes no sense.
    """
    if not 1 <= width <= MOST_LOGPROBS // 2:
        raise UsageError(f"width = {width} of the beam search must be from 1 to {MOST_LOGPROBS // 2}.")
    if llm.reads_source:
        raise UsageError("For beams of an encoder-decoder call weft.engine.encdec.write.")
    start = llm.encode(prompt)
    beams, complete = [Beam((), 0.0)], list[Beam]()
    for _ in range(min(max_tokens, llm.context - len(start))):
        grown = _grown(llm, start, beams, 2 * width, owner, adapter)
        # Twice the width, as any one beam may lose one continuation to each end token it takes.
        complete = heapq.nlargest(
            width,
            [*complete, *(beam for beam in grown[:width] if beam.ended)],
            key=lambda beam: beam.score(length_penalty),
        )
        beams = [beam for beam in grown if not beam.ended][:width]
        worst = complete[-1].score(length_penalty) if len(complete) == width else float("-inf")
        if not beams or beams[0].score(length_penalty) <= worst:
            break
    return heapq.nlargest(width, [*complete, *beams], key=lambda beam: beam.score(length_penalty))


def _grown(
    llm: LLM, start: list[int], beams: Items[Beam], count: int, owner: str, adapter: str | None
) -> list[Beam]:
    """All beams continued by their ``count`` likeliest tokens each, the most probable first."""
    params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, logprobs=count)
    sequences = [llm.add([*start, *beam.tokens], params, owner=owner, adapter=adapter) for beam in beams]
    try:
        while not all(sequence.finished for sequence in sequences):
            llm.step()
    finally:
        for sequence in sequences:
            llm.abort(sequence)
    grown = [
        Beam((*beam.tokens, token), beam.logprob + logprob, token in llm.ends)
        for beam, sequence in zip(beams, sequences, strict=True)
        for token, logprob in _likeliest(sequence.logprobs)
    ]
    return heapq.nlargest(count, grown, key=lambda beam: beam.logprob)


def _likeliest(logprobs: list[TokenLogprobs]) -> tuple[tuple[int, float], ...]:
    return logprobs[0].top
