"""What users ask for as sequences; whatever is wrong with it is said here, before anything is queued."""

from __future__ import annotations

import dataclasses
import secrets
import weakref

from weft.core.errors import UsageError
from weft.engine.blocks import BLOCK
from weft.engine.grammar import Grammars
from weft.engine.params import MASK64, SamplingParams, check_whole
from weft.engine.pooled import Pooled
from weft.engine.prompts import Prompts
from weft.engine.scheduler import Scheduler
from weft.engine.search import Beams, Search
from weft.engine.sequence import Sequence
from weft.engine.text import text_stream
from weft.tokenizer import Tokenizer

_PLAIN = SamplingParams(temperature=0)


class Requests:
    """Makes the sequences of one engine, whose ``scheduler`` says what a step and the cache can hold.

    ``prompts`` knows how long a prompt may be; ``ends`` are token ids that end an answer. ``reads_source``:
    prompts are sources of an encoder-decoder.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompts: Prompts,
        scheduler: Scheduler,
        ends: frozenset[int],
        *,
        reads_source: bool,
    ):
        self._tokenizer, self._prompts, self._scheduler = tokenizer, prompts, scheduler
        self._ends, self._reads_source = ends, reads_source
        self._special = {tokenizer.decode([token]): token for token in tokenizer.special_ids}
        self._grammars = Grammars(tokenizer, self._ends)
        self._leaders: weakref.WeakValueDictionary[bytes, Sequence] = weakref.WeakValueDictionary()

    def answer(
        self,
        tokens: list[int],
        params: SamplingParams,
        *,
        owner: str,
        adapter: str | None,
        priority: int,
        search: Search | None = None,
    ) -> Sequence:
        """A sequence that answers a prompt that was checked. See :meth:`weft.engine.LLM.add`."""
        check_whole("priority", priority, -(2**31), 2**31)
        known = self._tokenizer.vocab_size
        if wrong := [token for token in (*params.logit_bias, *params.stop_token_ids) if token >= known]:
            raise UsageError(
                f"There is no token {wrong[0]} to bias or to stop at: the tokenizer has {known}."
            )
        if self._reads_source and params.prompt_logprobs is not None:
            raise UsageError("A source has no probabilities; leave prompt_logprobs out for encoder-decoders.")
        grammar = self._grammars.constraint(params.grammar) if params.grammar else None
        room = self._prompts.left(tokens)
        source, tokens = (tokens, [self._tokenizer.eos_id]) if self._reads_source else ([], tokens)
        return Sequence(
            tokens,
            params,
            seed=secrets.randbits(64) if params.seed is None else params.seed & MASK64,
            limit=room if params.max_tokens is None else min(room, params.max_tokens),
            text=text_stream(self._tokenizer, tokens, params.stop),
            owner=owner,
            adapter=adapter,
            priority=priority,
            ends=self._ends_of(params),
            grammar=grammar,
            source=source,
            search=search,
        )

    def search(
        self, tokens: list[int], how: Beams, *, owner: str, adapter: str | None, priority: int
    ) -> Sequence:
        """A sequence that searches for its answer. See :meth:`weft.engine.LLM.add_search`."""
        limit = min(self._prompts.left(tokens), how.max_tokens)
        kept, line = (tokens, 1) if self._reads_source else ([], len(tokens))
        shared = line // BLOCK
        own = -(-(line + limit) // BLOCK) - shared
        blocks = -(-len(kept) // BLOCK) + shared + how.beams * own
        if how.beams > self._scheduler.most_rows:
            raise UsageError(
                f"beams = {how.beams} is more than the {self._scheduler.most_rows} rows that a step has for "
                "them; ask for fewer, or give the engine a larger token_budget."
            )
        if blocks > self._scheduler.pool.total:
            raise UsageError(
                f"{how.beams} beams of up to {line + limit} tokens may need {blocks} blocks of the cache, "
                f"which has {self._scheduler.pool.total}; ask for fewer beams or tokens, or give it more."
            )
        return self.answer(
            tokens,
            dataclasses.replace(_PLAIN, max_tokens=limit),
            owner=owner,
            adapter=adapter,
            priority=priority,
            search=Search(how, self._ends, limit),
        )

    def text(self, tokens: list[int], *, owner: str, priority: int) -> Sequence:
        """A sequence that is only read. See :meth:`weft.engine.LLM.add_text`."""
        check_whole("priority", priority, -(2**31), 2**31)
        return Sequence(
            tokens,
            _PLAIN,
            seed=0,
            limit=0,
            text=text_stream(self._tokenizer, tokens, ()),
            owner=owner,
            priority=priority,
            pooled=Pooled(),
        )

    def follow(self, sequence: Sequence) -> None:
        """Equal prompts that come together are computed once: the first leads, the others find its blocks."""
        if sequence.pooled is not None:
            return
        leader = self._leaders.get(sequence.prompt_digest)
        if leader and leader.can_lead(sequence):
            sequence.leader = leader
        else:
            self._leaders[sequence.prompt_digest] = sequence

    def forget(self) -> None:
        """What was computed before is of no use to those that come."""
        self._leaders.clear()

    def _ends_of(self, params: SamplingParams) -> frozenset[int]:
        """Tokens that end an answer. A special one has no text, so a stop that spells it means it."""
        spelled = (self._special[text] for text in params.stop if text in self._special)
        own = frozenset() if params.ignore_eos else self._ends
        return own.union(params.stop_token_ids, spelled)
