"""The engine in a thread of its own: requests go in through a queue, pieces come out on the event loop.

Routes see only ``submit``, ``abort`` and :class:`Answer`; what crosses between them and the thread is
plain data, so that the thread may become a process.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass

from weft.core.errors import ResourceError, WeftError
from weft.engine import LLM, SamplingParams
from weft.engine.llm import Prompt
from weft.engine.sequence import FinishReason, Sequence

_log = logging.getLogger("weft.server")
_STOPPING = "The server is stopping."


@dataclass(frozen=True)
class Piece:
    """New text of an answer; ``tokens`` counts all new tokens so far."""

    text: str
    tokens: int
    finish_reason: FinishReason | None = None
    error: str | None = None

    @property
    def last(self) -> bool:
        """Whether nothing follows."""
        return self.finish_reason is not None or self.error is not None


class EngineFault(Exception):
    """The engine failed while it worked on this answer."""


class Answer:
    """A request under way, read from the event loop that submitted it."""

    def __init__(self, tokens: Items[int], params: SamplingParams):
        self.tokens, self.params = tuple(tokens), params
        self.loop = asyncio.get_running_loop()
        self.inbox: asyncio.Queue[Piece] = asyncio.Queue()
        self.done = False

    async def pieces(self) -> AsyncIterator[Piece]:
        """Pieces as they come, the last one with its finish reason. Raises EngineFault."""
        while True:
            piece = await self.inbox.get()
            if piece.error is not None:
                raise EngineFault(piece.error)
            yield piece
            if piece.last:
                return


class Worker:
    """Runs an :class:`~weft.engine.LLM` and nothing else touches it, but for its tokenizer."""

    def __init__(self, llm: LLM):
        self._llm = llm
        self._commands: queue.SimpleQueue[tuple[str, Answer | None]] = queue.SimpleQueue()
        self._sequences: dict[Sequence, Answer] = {}
        self._thread = threading.Thread(target=self._run, name="weft-engine", daemon=True)
        self._open: set[Answer] = set()

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self._llm.context

    @property
    def running(self) -> bool:
        """Whether the thread lives."""
        return self._thread.is_alive()

    @property
    def active(self) -> int:
        """Answers that are not finished."""
        return len(self._open)

    @property
    def waiting(self) -> int:
        """Answers for which no slot is left."""
        return max(0, self.active - self.slots)

    @property
    def slots(self) -> int:
        """Answers that are worked on at once."""
        return self._llm.scheduler.slots

    @property
    def free_slots(self) -> int:
        """Slots that no answer holds."""
        return self._llm.scheduler.free_slots

    def encode(self, prompt: Prompt) -> list[int]:
        """As :meth:`weft.engine.LLM.encode`; any thread may call it."""
        return self._llm.encode(prompt)

    def encode_chat(self, messages: Items[Mapping[str, str]]) -> list[int]:
        """As :meth:`weft.engine.LLM.encode_chat`; any thread may call it."""
        return self._llm.encode_chat(messages)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; answers still open get an error."""
        self._commands.put(("stop", None))
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, tokens: Items[int], params: SamplingParams) -> Answer:
        """Queue checked token ids (of :meth:`encode`); call it on the event loop that reads the answer."""
        if not self.running:
            raise ResourceError("The engine has stopped; start the server again.")
        answer = Answer(tokens, params)
        self._open.add(answer)
        self._commands.put(("add", answer))
        return answer

    def abort(self, answer: Answer) -> None:
        """End an answer before the next step; one that is finished stays as it is."""
        if not answer.done:
            self._commands.put(("abort", answer))

    def _run(self) -> None:
        while self._obey():
            try:
                advanced = self._llm.step()
            except Exception as error:
                self._fail(error)
            else:
                self._publish(advanced)
        while not self._commands.empty():
            command, answer = self._commands.get()
            if command == "add" and answer is not None:
                self._deliver([(answer, Piece("", 0, error=_STOPPING))])
        self._fail(ResourceError(_STOPPING))

    def _obey(self) -> bool:
        """Carry out the commands that have come; wait for one when there is nothing else to do."""
        while True:
            try:
                command, answer = self._commands.get(block=not self._llm.scheduler.busy)
            except queue.Empty:
                return True
            if answer is None:
                return False
            if command == "add":
                self._add(answer)
            else:
                self._abort(answer)

    def _add(self, answer: Answer) -> None:
        try:
            self._sequences[self._llm.add(answer.tokens, answer.params)] = answer
        except WeftError as error:
            self._deliver([(answer, Piece("", 0, error=str(error)))])

    def _abort(self, answer: Answer) -> None:
        for sequence in [s for s, owner in self._sequences.items() if owner is answer]:
            self._llm.abort(sequence)
            self._publish([sequence])

    def _publish(self, sequences: Items[Sequence]) -> None:
        batch: list[tuple[Answer, Piece]] = []
        for sequence in sequences:
            piece = Piece(sequence.take(), sequence.generated_length, sequence.finish_reason)
            answer = self._sequences.pop(sequence) if piece.last else self._sequences[sequence]
            batch.append((answer, piece))
        self._deliver(batch)

    def _fail(self, error: Exception) -> None:
        """Answer everything under way with the error; the engine starts again with nothing."""
        known = isinstance(error, WeftError)
        message = str(error) if known else "The engine failed on this request; the log says more."
        if not known:
            _log.error("A step of the engine failed", exc_info=error)
        for sequence in self._sequences:
            self._llm.abort(sequence)
        self._deliver([(answer, Piece("", 0, error=message)) for answer in self._sequences.values()])
        self._sequences.clear()

    def _deliver(self, batch: list[tuple[Answer, Piece]]) -> None:
        for loop in {answer.loop for answer, _ in batch}:
            mine = [(answer, piece) for answer, piece in batch if answer.loop is loop]
            try:
                loop.call_soon_threadsafe(self._receive, mine)
            except RuntimeError:  # the loop has ended, and with it everybody who would have read this
                self._open.difference_update(answer for answer, _ in mine)

    def _receive(self, batch: list[tuple[Answer, Piece]]) -> None:
        for answer, piece in batch:
            answer.inbox.put_nowait(piece)
            if piece.last:
                answer.done = True
                self._open.discard(answer)
