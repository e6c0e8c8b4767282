"""A small model that guesses for a large one."""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence as Items
from dataclasses import replace

from weft.core.errors import CheckpointError
from weft.engine.blocks import BLOCK, BlockPool
from weft.engine.cache import affordable, free_memory, pages
from weft.engine.graphs import captured_steps
from weft.engine.runner import Runner
from weft.engine.sampler import sample
from weft.engine.scheduler import Work
from weft.engine.sequence import Sequence
from weft.engine.speculative import MOST
from weft.engine.text import TextStream
from weft.models import Decoder

_READ_ON = 512
"""Tokens of prompts that it reads in a step: a long one would hold up everybody else."""


class DraftModel:
    """Draws guesses from a decoder of the same vocabulary (a :class:`weft.engine.speculative.Proposer`).

    It draws with the request's own settings and random numbers: where both models give nearly the same
    probabilities they then draw the same token, hot or cold. Its cache is its own; on a GPU it takes half of
    what is free at most, and sequences that find no room in it get no guesses.
    ``largest``: tokens that the large model knows, and a prompt may hold.
    """

    free = False
    reading = False

    def __init__(self, model: Decoder, *, vocabulary: int, slots: int, context: int, largest: int):
        if model.config.vocab_size < vocabulary:
            raise CheckpointError(
                f"The draft model knows {model.config.vocab_size} tokens and the tokenizer {vocabulary}: "
                "they do not belong together."
            )
        blocks = slots * -(-(context + MOST) // BLOCK)
        weight = model.embedding.weight
        if weight.device.type != "cpu":
            # There it is taken at once, beside the cache of the large model.
            memory = free_memory(weight.device)
            blocks = min(blocks, affordable(model.config, weight.dtype, memory))
        self._vocabulary, self._context = vocabulary, min(context, model.config.max_position_embeddings)
        self._runner = Runner(model, pages(model.config, blocks, weight.dtype, weight.device))
        self._runner.captured = captured_steps(self._runner, slots, slots * 2 * MOST, drafts=False)
        self._pool = BlockPool(blocks)
        self._shadows: weakref.WeakKeyDictionary[Sequence, Sequence] = weakref.WeakKeyDictionary()
        self._per_guess = 0.0
        self._all_known = largest <= model.config.vocab_size

    def propose(self, sequences: Items[Sequence], count: int) -> list[tuple[int, ...]]:
        """As the protocol says: one step of the small model for each guess of all sequences."""
        able = self._with_room([sequence for sequence in sequences if self._knows(sequence, count)])
        able = self._read_on({sequence: self._shadow(sequence, count) for sequence in able})
        shadows = [self._shadows[sequence] for sequence in able]
        if not shadows:
            return [()] * len(sequences)
        settled = all(shadow.uncached <= 2 * MOST for shadow in shadows)
        began = time.perf_counter()
        for _ in range(count):
            work = [Work(shadow, shadow.uncached) for shadow in shadows if shadow.failure is None]
            if not work:
                break
            scores = self._runner.run(work)
            for item, new in zip(work, sample(scores[:, : self._vocabulary], work), strict=True):
                item.sequence.cached += item.tokens
                item.sequence.tokens += new
        if settled:
            self._per_guess += 0.2 * ((time.perf_counter() - began) / count - self._per_guess)
        guesses = {s: tuple(shadow.tokens[len(s.tokens) :]) for s, shadow in zip(able, shadows, strict=True)}
        for sequence, shadow in zip(able, shadows, strict=True):
            if shadow.failure is not None:
                self.forget(sequence)
        return [guesses.get(sequence, ()) for sequence in sequences]

    def seconds(self, count: int) -> float:
        """As measured."""
        return count * self._per_guess

    def forget(self, sequence: Sequence) -> None:
        """As the protocol says; the blocks are free again."""
        shadow = self._shadows.pop(sequence, None)
        if shadow is not None:
            self._pool.release(shadow.blocks)

    def restart(self) -> None:
        """As the protocol says; its cache is empty again."""
        self._shadows.clear()
        self._pool.clear()

    def check(self) -> None:
        """As the protocol says."""
        self._pool.check(0)

    def _read_on(self, shadows: dict[Sequence, Sequence]) -> list[Sequence]:
        """Those of whose prompts little enough is unread for the first guess to read it; some of the rest is
        read now."""
        left, able, work = _READ_ON, [], []
        for sequence, shadow in shadows.items():
            if shadow.uncached > 2 * MOST:
                part = min(left, shadow.uncached)
                left -= part
                if part < shadow.uncached:
                    work += [Work(shadow, part)] if part else []
                    continue
            able.append(sequence)
        self.reading = len(able) < len(shadows)
        if work:
            self._runner.run(work)
            for item in work:
                item.sequence.cached += item.tokens
        return able

    def _knows(self, sequence: Sequence, count: int) -> bool:
        """Whether it is short enough, and of tokens that the small model has: a prompt may hold others."""
        if len(sequence.tokens) + count > self._context:
            return False
        if self._all_known:
            return True
        # What is written itself is of the tokenizer.
        return max(sequence.tokens[: sequence.prompt_length]) < self._runner.model.config.vocab_size

    def _with_room(self, able: list[Sequence]) -> list[Sequence]:
        """Those of ``able`` whose blocks there are, after others were forgotten where blocks are short: first
        those that had to make way, then the last of ``able``."""
        if self._needed(able) <= self._pool.available:
            return able
        for sequence in set(self._shadows).difference(able):
            self.forget(sequence)
        while self._needed(able) > self._pool.available:
            self.forget(able.pop())
        return able

    def _needed(self, sequences: Items[Sequence]) -> int:
        """Blocks that their shadows lack, for the most guesses: with few, one would come and go by turns."""
        lacking = 0
        for sequence in sequences:
            shadow = self._shadows.get(sequence)
            held = 0 if shadow is None else len(shadow.blocks)
            lacking += max(0, -(-(len(sequence.tokens) + MOST) // BLOCK) - held)
        return lacking

    def _shadow(self, sequence: Sequence, count: int) -> Sequence:
        """The small model's state of ``sequence``: the same tokens, cached as far as they were right."""
        shadow = self._shadows.get(sequence)
        if shadow is None:
            params = replace(
                sequence.params, logprobs=None, prompt_logprobs=None, min_tokens=0, max_tokens=None
            )
            shadow = Sequence(
                sequence.tokens, params, seed=sequence.seed, limit=sequence.limit, text=TextStream(_Mute())
            )
            shadow.prompt_length = sequence.prompt_length
            self._shadows[sequence] = shadow
        # Only the guesses of last time can differ.
        same = max(0, len(shadow.tokens) - MOST)
        longest = min(len(shadow.tokens), len(sequence.tokens))
        while same < longest and shadow.tokens[same] == sequence.tokens[same]:
            same += 1
        shadow.tokens = list(sequence.tokens)
        shadow.cached = min(shadow.cached, same, len(shadow.tokens) - 1)
        while len(shadow.blocks) * BLOCK < len(shadow.tokens) + count:
            shadow.blocks.append(self._pool.take())
        return shadow


class _Mute:
    """Guesses have no text."""

    def push(self, token: int) -> str:
        return ""

    def flush(self) -> str:
        return ""
