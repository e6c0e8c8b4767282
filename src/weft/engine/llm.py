"""The engine: requests in, text out. Read :meth:`LLM.step` first."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Items

import numpy as np
import numpy.typing as npt
import torch

from weft.core.errors import CheckpointError, Interrupted, UsageError
from weft.engine.adapters import Adapters
from weft.engine.blocks import BlockPool
from weft.engine.cache import fit, free_memory, pages
from weft.engine.completion import Completion
from weft.engine.draft import DraftModel
from weft.engine.graphs import captured_steps
from weft.engine.params import SamplingParams, check_whole
from weft.engine.prompts import Prompt, Prompts
from weft.engine.requests import Requests
from weft.engine.runner import Runner, StepRunner
from weft.engine.sampler import sample
from weft.engine.scheduler import Scheduler, Work
from weft.engine.search import Beams, Search, Written
from weft.engine.sequence import FinishReason, Sequence
from weft.engine.source_runner import SourceRunner
from weft.engine.speculative import PromptLookup, Proposer, Speculator
from weft.engine.stats import Stats
from weft.models import Decoder
from weft.models.encdec import EncoderDecoder
from weft.tokenizer import Tokenizer
from weft.tokenizer.special import TURN_END

_LEFT = "The engine was interrupted while this request took up a token; ask again."


class LLM:
    """A decoder or encoder-decoder and its tokenizer, serving many requests at once. One thread may use it.

    The model is used as it is: its weights' dtype and device are those of the work, and of the cache unless
    ``cache_dtype`` is torch.int8. ``max_sequences`` run at once, the rest wait; ``token_budget`` bounds the
    tokens of one step, and so how long a prompt holds up the others (there is always room for one of each
    sequence and one more). ``cache_bytes`` bound the cache (None: half of the memory, on a GPU of what is
    free, and no more than all sequences need at full length, four times that where each may be searched by
    beams, and 16 times what one needs at least: encoder-decoders).
    ``adapted`` is the same model as plain layers (it may be ``model`` itself): requests with a LoRA adapter
    run through it. ``draft`` is a smaller model that guesses tokens; without one the text itself is searched.
    ``ends`` are token ids that end an answer besides the tokenizer's own end of text and of turn.

    The prompt of an encoder-decoder is its source, and the answer begins after the end-of-text token. A
    source is read whole in one step, so ``token_budget`` bounds it. Adapters, a draft model and an int8 cache
    are for decoders alone.
    """

    def __init__(
        self,
        model: Decoder | EncoderDecoder,
        tokenizer: Tokenizer,
        *,
        max_sequences: int = 16,
        token_budget: int = 512,
        cache_bytes: int | None = None,
        cache_dtype: torch.dtype | None = None,
        adapted: Decoder | None = None,
        draft: Decoder | None = None,
        speculation: bool = True,
        ends: Iterable[int] = (),
    ):
        if tokenizer.vocab_size > model.config.vocab_size:
            raise CheckpointError(
                f"The tokenizer has {tokenizer.vocab_size} tokens and the model only "
                f"{model.config.vocab_size}: they do not belong together."
            )
        weight = model.embedding.weight
        check_whole("max_sequences", max_sequences, 1, 2**20)
        check_whole("token_budget", token_budget, 1, 2**31)
        if cache_bytes is not None:
            check_whole("cache_bytes", cache_bytes, 1, 2**63)
        if cache_dtype not in (None, weight.dtype, torch.int8):
            raise UsageError(f"A cache of {cache_dtype} is not possible here: write int8, or leave it out.")
        if draft is not None and not speculation:
            raise UsageError("A draft model without speculation would do nothing; leave one of the two out.")
        self.tokenizer = tokenizer
        self.reads_source = isinstance(model, EncoderDecoder)
        if self.reads_source and (adapted or draft or cache_dtype == torch.int8):
            raise UsageError("Adapters, draft models and int8 caches are for decoders; leave them out.")
        memory = free_memory(weight.device) if cache_bytes is None else cache_bytes
        dtype = cache_dtype or weight.dtype
        blocks, self.context = fit(model.config, max_sequences, dtype, memory)
        self.scheduler = Scheduler(max_sequences, token_budget, BlockPool(blocks))
        cache = pages(model.config, blocks, dtype, weight.device)
        self.runner: StepRunner
        if isinstance(model, EncoderDecoder):
            self.runner = SourceRunner(model, cache)
        else:
            runner = Runner(model, cache, Adapters(adapted) if adapted else None, tokenizer.vocab_size)
            self.runner = runner
            runner.captured = captured_steps(runner, max_sequences, token_budget, speculation)
        self._speculator = Speculator(self._proposer(draft, max_sequences)) if speculation else None
        self._steps = 0
        self._settling: tuple[Sequence, FinishReason | None] | None = None
        self._untold: dict[Sequence, None] = {}
        self._half_done = False
        known = (tokenizer.eos_id, None if self.reads_source else tokenizer.token_id(TURN_END), *ends)
        self.ends = frozenset(token for token in known if token is not None)
        longest = self.scheduler.longest_source if self.reads_source else None
        self._prompts = Prompts(tokenizer, model.config.vocab_size, self.context, longest)
        self._requests = Requests(
            tokenizer, self._prompts, self.scheduler, self.ends, reads_source=self.reads_source
        )

    def _proposer(self, draft: Decoder | None, slots: int) -> Proposer:
        if draft is None:
            return PromptLookup()
        largest, known = self.runner.model.config.vocab_size, self.tokenizer.vocab_size
        return DraftModel(draft, vocabulary=known, slots=slots, context=self.context, largest=largest)

    def step(self) -> list[Sequence]:
        """One step of the model for everything under way; returns those that got a token, or failed.

        A step that is left half way, by a Ctrl-C say, leaves an engine that can go on: what was under way
        begins its step anew, from an empty cache. One whose new tokens were just taken up has failed. Those
        that got their tokens before are returned by the next step.
        """
        self._recover()
        self._half_done = True
        try:
            self._step()
        except BaseException:
            self._recover()
            raise
        self._half_done = False
        told, self._untold = list(self._untold), {}
        return told

    def _step(self) -> None:
        if self._speculator:
            self._speculator.propose(self.scheduler.running)
        work = self.scheduler.schedule()
        if not work:
            return
        began = time.perf_counter()
        scores, known = self.runner.run(work), self.tokenizer.vocab_size
        # Even a view takes its time in the step of a small model.
        drawn = sample(scores if scores.shape[1] == known else scores[:, :known], work)
        if self._speculator:
            self._speculator.observe(work, drawn, time.perf_counter() - began)
        self._postprocess(work, drawn)
        self._steps += 1
        self._check_idle()

    def _check_idle(self) -> None:
        """While nothing is under way every block must be free."""
        if not self.scheduler.busy:
            self.scheduler.check()
            if self._speculator:
                self._speculator.check()

    def _postprocess(self, work: list[Work], drawn: list[list[int]]) -> None:
        """Give each sequence its new tokens, and end those that are done."""
        self._untold |= {item.sequence: None for item in work if item.last or item.sequence.failure}
        fresh = iter(drawn)
        for item in work:
            reason: FinishReason | None = None
            sequence = item.sequence
            new = next(fresh) if item.last else []
            if item.last and not sequence.limit:
                reason, new = "length", []  # only the prompt was asked about
            kept = 0
            if new and sequence.failure is None:
                kept, reason = self._take_up(sequence, new)
            if sequence.failure is not None:
                # What it has in the cache may be damaged: none of it is to be found by others.
                self._finish(sequence, "abort")
                self._settling = None
                continue
            self.scheduler.advance(item, kept - 1 if kept else 0)
            if item.last and sequence.search is not None:
                reason = self._searched(sequence, sequence.search)
            if reason:
                self._finish(sequence, reason)
                self._settling = None

    def _take_up(self, sequence: Sequence, new: list[int]) -> tuple[int, FinishReason | None]:
        """Give it the new tokens up to the last one; how many they are, and why it is the last.

        What goes wrong with its text or its grammar is its failure alone.
        """
        self._settling = sequence, None
        try:  # costs nothing, unlike _own_failure
            for count, token in enumerate(new, 1):
                if reason := self._receive(sequence, token):
                    self._settling = sequence, reason
                    return count, reason
        except Exception as failure:
            sequence.fail(failure)
        self._settling = None
        return len(new), None

    def _recover(self) -> None:
        """Make the books anew if something was left half done; left half way itself, it begins again."""
        if not self._half_done:
            return
        self.scheduler.recover()
        if self._speculator:
            self._speculator.restart()
        for sequence in self.scheduler:
            if sequence.grammar is not None:
                # A guess may have been taken back, or not.
                with _own_failure(sequence):
                    sequence.grammar.restart(sequence.tokens[sequence.prompt_length :])
        if self._settling is not None and not self._settling[0].finished:
            sequence, reason = self._settling
            if reason is None:
                # Its text or its grammar may know a token more, or less, than there is.
                sequence.fail(Interrupted(_LEFT))
            else:
                self._finish(sequence, reason)
        self._settling, self._half_done = None, False

    def _searched(self, sequence: Sequence, search: Search) -> FinishReason | None:
        """Go on with the beams that were chosen, or say why the search is at its end."""
        if not search.done:
            self.scheduler.fork(sequence)
            return None
        return "stop" if search.answers[0].ended else "length"

    def _receive(self, sequence: Sequence, token: int) -> FinishReason | None:
        """Append a token and its text; says why it is the last one, if it is."""
        sequence.tokens.append(token)
        complete = sequence.grammar is not None and sequence.grammar.push(token)
        ended = token in sequence.ends
        if not ended:
            sequence.publish(sequence.text.push(token))
        if ended or complete or sequence.text.stopped:
            return "stop"
        return "length" if len(sequence.tokens) - sequence.prompt_length == sequence.limit else None

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        with _own_failure(sequence):
            sequence.publish(sequence.text.finish())
        sequence.finish_reason = "stop" if sequence.text.stopped else reason
        if sequence.grammar is not None and sequence.grammar.error:
            sequence.finish_reason, sequence.error = "abort", sequence.grammar.error
        if sequence.failure is not None:
            sequence.finish_reason = "abort"
        del sequence.logprobs[sequence.generated_length :]
        self.scheduler.remove(sequence)
        if self._speculator:
            self._speculator.forget(sequence)

    def encode(self, prompt: Prompt, *, room: int = 1) -> list[int]:
        """Token ids of a prompt, checked; a text begins as documents began in training (a source ends as they
        ended), ids stay as they are.

        Raises UsageError for a prompt that leaves less than ``room`` tokens for an answer, for no tokens at
        all, and for ids outside the vocabulary; DataError for text that is not Unicode.
        """
        return self._prompts.encode(prompt, room)

    def encode_chat(self, messages: Items[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation up to where the assistant's turn begins. Raises as :meth:`encode`."""
        return self._prompts.encode_chat(messages)

    @property
    def adapters(self) -> Adapters:
        """Where adapters are loaded and unloaded. UsageError when the engine was made without."""
        if self.runner.adapters is None:
            raise UsageError("This model was loaded without adapters, so requests cannot name one.")
        return self.runner.adapters

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter. UsageError if it is unknown, or while a request still works with it."""
        self.adapters.check(name)
        if any(sequence.adapter == name for sequence in self.scheduler):
            raise UsageError(
                f"A request still works with the adapter {name!r}; unload it when that has ended."
            )
        self.adapters.unload(name)
        self._requests.forget()
        # Another adapter may come under the same name, with other keys and values.
        self.scheduler.pool.forget_all()

    def stats(self) -> Stats:
        """Counts for people and metrics."""
        scheduler = self.scheduler
        return Stats(
            running=len(scheduler.running),
            waiting=scheduler.waiting,
            free_blocks=scheduler.pool.available,
            total_blocks=scheduler.pool.total,
            prefix_queries=scheduler.prefix_queries,
            prefix_hits=scheduler.prefix_hits,
            proposed=self._speculator.proposed if self._speculator else 0,
            accepted=self._speculator.accepted if self._speculator else 0,
            steps=self._steps,
        )

    def add(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        owner: str = "",
        adapter: str | None = None,
        priority: int = 0,
    ) -> Sequence:
        """Queue a request; it advances with every :meth:`step`. Raises what :meth:`encode` raises.

        Owners take turns; a greater ``priority`` goes first; ``adapter`` names a loaded LoRA adapter.
        """
        return self._add(self.encode(prompt, room=_room(params)), params, owner, adapter, priority)

    def add_samples(
        self,
        prompt: Prompt,
        params: SamplingParams,
        count: int,
        *,
        owner: str = "",
        adapter: str | None = None,
        priority: int = 0,
    ) -> list[Sequence]:
        """As :meth:`add`, ``count`` times with a seed each; the prompt is computed once."""
        if count < 1:
            raise UsageError(f"The number of samples is {count}; it must be at least 1.")
        tokens = self.encode(prompt, room=_room(params))
        return [self._add(tokens, params.sample(i), owner, adapter, priority) for i in range(count)]

    def _add(
        self, tokens: list[int], params: SamplingParams, owner: str, adapter: str | None, priority: int
    ) -> Sequence:
        self._check_adapter(adapter)
        sequence = self._requests.answer(tokens, params, owner=owner, adapter=adapter, priority=priority)
        return self._queue(sequence)

    def _check_adapter(self, adapter: str | None) -> None:
        if adapter is not None:
            self.adapters.check(adapter)

    def _queue(self, sequence: Sequence) -> Sequence:
        """An interrupt in between may leave it in a line, known to nobody: then recovery drops it."""
        self._recover()
        self._half_done = True
        self.scheduler.add(sequence)
        self._half_done = False
        # Only now: others would wait for ever for one that never came to run.
        self._requests.follow(sequence)
        return sequence

    def add_search(
        self,
        prompt: Prompt,
        how: Beams,
        *,
        owner: str = "",
        adapter: str | None = None,
        priority: int = 0,
    ) -> Sequence:
        """As :meth:`add`, by beam search: when it has finished, its ``search`` has the ``answers``.

        Raises what :meth:`encode` raises, and UsageError for more beams than a step or the cache can hold.
        """
        tokens = self.encode(prompt)
        self._check_adapter(adapter)
        sequence = self._requests.search(tokens, how, owner=owner, adapter=adapter, priority=priority)
        return self._queue(sequence)

    def add_text(self, prompt: Prompt, *, owner: str = "", priority: int = 0) -> Sequence:
        """Queue a text of a decoder to be read: it ends when it is, and then its ``pooled`` has its vector.

        Raises what :meth:`encode` raises, and UsageError for an encoder-decoder.
        """
        if self.reads_source:
            raise UsageError("Vectors of texts come from decoders and encoders, not from encoder-decoders.")
        tokens = self.encode(prompt, room=0)
        return self._queue(self._requests.text(tokens, owner=owner, priority=priority))

    def embed(self, prompts: Items[Prompt]) -> list[npt.NDArray[np.float32]]:
        """A vector [E] of length 1 for each prompt, in order: the mean of its last hidden states."""
        sequences = self._ended(map(self.add_text, _several(prompts)))
        return [sequence.pooled.vector() for sequence in sequences if sequence.pooled is not None]

    def search(
        self, prompts: Items[Prompt], how: Beams, *, adapter: str | None = None
    ) -> list[list[Written]]:
        """The answers to each prompt by beam search, best first. Raises as :meth:`add_search`."""
        sequences = self._ended(self.add_search(prompt, how, adapter=adapter) for prompt in _several(prompts))
        return [sequence.search.answers for sequence in sequences if sequence.search is not None]

    def _ended(self, adding: Iterable[Sequence]) -> list[Sequence]:
        """Sequences, added one by one, once all have ended; none is left behind when something goes wrong."""
        sequences: list[Sequence] = []
        with contextlib.ExitStack() as ending:
            for sequence in adding:
                ending.callback(self.abort, sequence)
                sequences.append(sequence)
            while not all(sequence.finished for sequence in sequences):
                self.step()
                for failed in filter(None, (sequence.failure for sequence in sequences)):
                    raise failed
        return sequences

    def abort(self, sequence: Sequence) -> None:
        """End a request now; its blocks are free for the next step."""
        self._recover()
        if sequence.finished:
            return
        self._half_done = True
        try:
            self._finish(sequence, "abort")
        except BaseException:
            sequence.finish_reason = "abort"
            self._recover()
            raise
        sequence.finish_reason, self._half_done = "abort", False
        self._check_idle()

    def generate(
        self,
        prompts: Items[Prompt],
        params: SamplingParams | Items[SamplingParams],
        *,
        adapter: str | None = None,
    ) -> list[Completion]:
        """An answer to each prompt, in order, all worked on together; ``params`` for all or one for each.

        Raises as :meth:`add`, and UsageError for one text instead of several, and for more or fewer settings
        than prompts.
        """
        many = len(_several(prompts))
        each = [params] * many if isinstance(params, SamplingParams) else params
        if len(each) != many:
            raise UsageError(f"There are {many} prompts and {len(each)} settings; give one for each.")
        asked = zip(prompts, each, strict=True)
        sequences = self._ended(self.add(prompt, one, adapter=adapter) for prompt, one in asked)
        return [Completion.of(sequence, sequence.take()) for sequence in sequences]

    def stream(self, prompt: Prompt, params: SamplingParams, *, adapter: str | None = None) -> Iterator[str]:
        """The answer in pieces as they come; leaving the loop early aborts the request."""
        sequence = self.add(prompt, params, adapter=adapter)
        try:
            while not sequence.finished:
                self.step()
                if piece := sequence.take():
                    yield piece
            # Its last tokens may have come in a step that somebody else asked for.
            if piece := sequence.take():
                yield piece
            if sequence.failure is not None:
                raise sequence.failure
        finally:
            self.abort(sequence)


@contextlib.contextmanager
def _own_failure(sequence: Sequence) -> Iterator[None]:
    """What goes wrong within it is the failure of this one: the engine has others to serve."""
    try:
        yield
    except Exception as failure:
        sequence.fail(failure)


def _several(prompts: Items[Prompt]) -> Items[Prompt]:
    """UsageError for one prompt: a text would be as many as it has characters."""
    if isinstance(prompts, str) or any(isinstance(prompt, int) for prompt in prompts):
        raise UsageError("Prompts come in a list; write [prompt] for one.")
    return prompts


def _room(params: SamplingParams) -> int:
    """Tokens that must be left for the answer."""
    return 0 if params.max_tokens == 0 else 1
