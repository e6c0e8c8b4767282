"""One request on its way through the engine. No torch here."""

from __future__ import annotations

import logging
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from typing import Literal, Protocol

from weft.core.errors import WeftError
from weft.engine.blocks import BLOCK, link, root
from weft.engine.params import SamplingParams
from weft.engine.pooled import Pooled
from weft.engine.search import Search
from weft.engine.text import TextStream

FinishReason = Literal["stop", "length", "abort"]
_log = logging.getLogger("weft.engine")


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural logarithm of a token's probability, and the likeliest (token, logarithm), best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Constraint(Protocol):
    """The state of a grammar after the answer so far. ``error`` says why it cannot go on, if so."""

    error: str | None

    def mask(self, drafts: Tokens[int]) -> bytes:
        """A bit for each token, lowest bits first: whether it may follow once ``drafts`` have come too."""
        ...

    def push(self, token: int) -> bool:
        """A token has come; whether the answer is complete, so that none may follow."""
        ...

    def restart(self, tokens: Tokens[int]) -> None:
        """Whatever the state is, make it that after these tokens of the answer."""
        ...


class Line(Protocol):
    """Tokens, and the blocks that hold what is cached of them."""

    tokens: list[int]
    blocks: list[int]


@dataclass(slots=True)
class Beam:
    """One of the texts that a search goes on with: its tokens, their blocks, the sum of logarithms so far.

    ``begun`` is a block of another beam, held by it, whose content the newest of ``blocks`` begins with.
    """

    tokens: list[int]
    blocks: list[int] = field(default_factory=list)
    total: float = 0.0
    begun: int | None = None


class Sequence:
    """The state of a request: its tokens (``limit`` new ones at most), what is cached, its text so far.

    ``owner`` is whose turn is counted when requests queue (an API key, say); ``adapter`` names the LoRA
    adapter it runs through; a greater ``priority`` goes first. ``logprobs`` has an entry for each new token
    when its parameters ask for them. ``ends`` are tokens that end it; ``grammar`` says which tokens may come.
    ``error`` says what went wrong with it alone, if it was ended for that, and ``failure`` is it, where it
    was not its grammar.
    ``leader`` is a sequence with the same prompt whose blocks it shares, and its ``prompt_logprobs``: an
    entry for each token of the prompt as far as they are computed, the first None, if the parameters
    ask for them.

    ``source`` are tokens that an encoder reads, all of them in one step, before the first token is decoded;
    ``source_blocks`` hold what a decoder sees of them, and ``encoded`` says whether it is there. A sequence
    without ``tokens`` ends when its source is read, and keeps nothing of it.
    ``pooled`` takes up the hidden states of the prompt where its vector is wanted; ``asks_of_prompt``: that
    or its log probabilities are wanted.
    ``search`` looks for its answer by beam search: once there are several ``beams``, all of one length,
    ``tokens`` and ``blocks`` are those of the first.

    ``blocks`` hold the first ``cached`` tokens, the first ``sealed`` of them can be found by others, and
    ``drafts`` are guesses of the tokens that come next. ``prompt_computed``: whether all that others can
    share of its prompt was once computed; ``prompt_digest`` is equal for those who can share all of it.
    """

    def __init__(
        self,
        prompt: Tokens[int],
        params: SamplingParams,
        *,
        seed: int,
        limit: int,
        text: TextStream,
        owner: str = "",
        adapter: str | None = None,
        priority: int = 0,
        ends: frozenset[int] = frozenset(),
        grammar: Constraint | None = None,
        source: Tokens[int] = (),
        pooled: Pooled | None = None,
        search: Search | None = None,
    ):
        self.tokens = list(prompt)
        self.prompt_length = len(self.tokens)
        self.params, self.seed, self.limit = params, seed, limit
        self.text = text
        self.owner, self.adapter, self.priority = owner, adapter, priority
        self.ends, self.grammar, self.pooled = ends, grammar, pooled
        self.asks_of_prompt = pooled is not None or params.prompt_logprobs is not None
        self.search, self.beams = search, list[Beam]()
        self.source = tuple(source)
        self.source_blocks: list[int] = []
        self.encoded = not self.source
        self.leader: Sequence | None = None
        self.arrival = self.arrival_step = self.in_front_step = 0
        self.blocks: list[int] = []
        self.cached = self.sealed = 0
        self.prompt_computed = False
        self.drafts: tuple[int, ...] = ()
        self.finish_reason: FinishReason | None = None
        self.error: str | None = None
        self.failure: Exception | None = None
        self.logprobs: list[TokenLogprobs] = []
        self.prompt_logprobs: list[TokenLogprobs | None] = [None]
        self._unread: list[str] = []
        # Another adapter makes other keys and values; another owner must not learn what was asked before.
        salt = f"owner {owner}" if params.cache_salt is None else f"salt {params.cache_salt}"
        # What a decoder computes depends on its source; so does every place of a source on all of it.
        start = root(salt, adapter or "")
        self._digests = [link(start, self.source) if self.source else start]
        self.prompt_digest = link(self._digests[0], self.tokens)

    @property
    def generated(self) -> list[int]:
        """The new tokens; an end-of-text token that ended the answer is the last of them."""
        return self.tokens[self.prompt_length :]

    @property
    def generated_length(self) -> int:
        """How many tokens are new."""
        return len(self.tokens) - self.prompt_length

    @property
    def uncached(self) -> int:
        """Tokens that the model has not seen yet: the prompt at first, later the newest token."""
        return len(self.tokens) - self.cached

    @property
    def unread(self) -> int:
        """Tokens of the source that are still to be encoded: all or none."""
        return 0 if self.encoded else len(self.source)

    @property
    def decodes(self) -> bool:
        """Whether its next step is its newest token alone, for the one after it; a text is only read."""
        return self.encoded and len(self.tokens) - self.cached == 1 and self.pooled is None

    @property
    def lines(self) -> Tokens[Line]:
        """What a step goes on with: its tokens, or those of all its beams."""
        return self.beams or (self,)

    @property
    def width(self) -> int:
        """Rows that it takes of every step once it decodes."""
        return 1 if self.search is None else self.search.how.beams

    @property
    def held(self) -> list[list[int]]:
        """The blocks it holds, the source's last: without that what was written is of no use."""
        return [*(line.blocks for line in self.lines), self.source_blocks]

    def split(self, beams: list[Beam]) -> None:
        """Go on with these beams, the best first."""
        self.beams, self.tokens, self.blocks = beams, beams[0].tokens, beams[0].blocks

    def start_over(self) -> None:
        """Nothing of it is cached any more. A search begins anew, and comes to the same end."""
        self.cached = self.sealed = 0
        self.encoded = not self.source
        self.drafts = ()
        if self.search is not None:
            self.beams, self.tokens, self.blocks = [], self.tokens[: self.prompt_length], []
            self.search.start_over()

    def fail(self, failure: Exception) -> None:
        """This came up in its own part of a step: it is ended for what came first, and nobody beside it."""
        if self.failure is not None:
            return
        known = isinstance(failure, WeftError)
        if not known:
            _log.error("A request failed", exc_info=failure)
        # Its traceback would keep the scores of the whole step.
        self.failure = failure.with_traceback(None)
        self.error = str(failure) if known else f"The engine failed on this request: {failure!r}."

    @property
    def kept_source(self) -> int:
        """Places in the cache that its source needs."""
        return len(self.source) if self.tokens else 0

    @property
    def finished(self) -> bool:
        """Whether no further token will come."""
        return self.finish_reason is not None

    @property
    def mean_logprob(self) -> float:
        """Of its new tokens; of -infinity if it has none. Its parameters must ask for ``logprobs``."""
        if not self.logprobs:
            return float("-inf")
        return sum(entry.logprob for entry in self.logprobs) / len(self.logprobs)

    @property
    def prompt_scored(self) -> bool:
        """Whether nothing is left to do for ``prompt_logprobs``."""
        return self.params.prompt_logprobs is None or len(self.prompt_logprobs) == self.prompt_length

    @property
    def reusable(self) -> int:
        """How many tokens need not be computed again where they are cached: scores need hidden states, and
        those of the newest token are always wanted."""
        if self.pooled is not None:
            return min(self.pooled.count, len(self.tokens) - 1)
        return len(self.tokens) - 1 if self.prompt_scored else len(self.prompt_logprobs) - 1

    def unscored(self, tokens: int) -> range:
        """Positions of the prompt among the next ``tokens`` whose hidden states ``prompt_logprobs`` need."""
        if self.prompt_scored:
            return range(0)
        # After a preemption the first of them were scored before.
        first = max(self.cached, len(self.prompt_logprobs) - 1)
        return range(first, min(self.cached + tokens, self.prompt_length - 1))

    def unpooled(self, tokens: int) -> range:
        """Positions among the next ``tokens`` whose hidden states its vector needs."""
        if self.pooled is None:
            return range(0)
        # After a preemption the first of them were taken up before.
        return range(max(self.cached, self.pooled.count), self.cached + tokens)

    def can_lead(self, other: Sequence) -> bool:
        """Whether ``other``, of the same prompt, finds here what it needs of it, now or soon."""
        wanted = other.params.prompt_logprobs
        scored = wanted is None or (wanted == self.params.prompt_logprobs and self.prompt_scored)
        done = self.prompt_computed and scored
        coming = not self.finished and wanted in (None, self.params.prompt_logprobs)
        return self.priority == other.priority and (done or coming)

    @property
    def leader_ready(self) -> bool:
        """Whether the leader's prompt, if there is one, is computed as far as it can be shared."""
        leader = self.leader
        if leader is None or leader.finished:
            return True
        return leader.prompt_computed and (self.prompt_scored or leader.prompt_scored)

    def take_scores(self) -> None:
        """Share the leader's ``prompt_logprobs`` if they are complete and wanted."""
        leader = self.leader
        if leader is not None and not self.prompt_scored and leader.prompt_scored:
            self.prompt_logprobs = leader.prompt_logprobs

    def digest(self, place: int) -> bytes:
        """Of the prefix that ends with the ``place``-th block, which must be full."""
        while len(self._digests) < place + 2:
            begin = (len(self._digests) - 1) * BLOCK
            self._digests.append(link(self._digests[-1], self.tokens[begin : begin + BLOCK]))
        return self._digests[place + 1]

    def source_digest(self, place: int) -> bytes:
        """Of the ``place``-th block of the source."""
        # One negative number: no block of tokens looks like that.
        return link(self._digests[0], [~place])

    def publish(self, piece: str) -> None:
        """Add text that may be shown."""
        if piece:
            self._unread.append(piece)

    def take(self) -> str:
        """The text published since the last call."""
        piece = "".join(self._unread)
        self._unread.clear()
        return piece


def best(samples: Tokens[Sequence], count: int) -> list[Sequence]:
    """The ``count`` samples whose tokens are the most probable on average: OpenAI's ``best_of``."""
    return sorted(samples, key=lambda sample: -sample.mean_logprob)[:count]
