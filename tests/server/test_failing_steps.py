"""Steps that fail, without a server: what is soon over ends nobody, and what stays is said to everybody."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from weft.core.errors import CheckpointError, ResourceError
from weft.engine import LLM
from weft.engine.scheduler import Work
from weft.server import host, loop
from weft.server.loop import Host
from weft.server.seam import LlmWorker
from weft.server.wire import Message, Unpacker, pack

PARAMS = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}


class Served:
    """A host, two requests under way, and what it says of them."""

    def __init__(self, llm: LLM):
        self.llm = llm
        self.mine, self._theirs = socket.socketpair()
        self.host: Host[Any] = Host(LlmWorker(llm), self._theirs, Unpacker())
        for number in (1, 2):
            message = {"op": "add", "id": number, "tokens": [5, 6, 6 + number], "owner": "", "params": PARAMS}
            self.host._obey([message])

    def run(self) -> None:
        """As long as requests are under way, as :meth:`Host.run` does."""
        self.mine.shutdown(socket.SHUT_WR)
        while self.host._requests:
            try:
                advanced = self.host._worker.step()
            except Exception as error:
                self.host._fail(error)
            else:
                self.host._publish(advanced)

    def said(self) -> list[Message]:
        self.mine.setblocking(False)
        return list(Unpacker().feed(self.mine.recv(10**7)))

    def close(self) -> None:
        self.mine.close()
        self._theirs.close()


@pytest.fixture
def served(tiny_decoder: Any, tiny_tokenizer: Any) -> Iterator[Served]:
    made = Served(LLM(tiny_decoder(), tiny_tokenizer, cache_bytes=10**6, speculation=False))
    yield made
    made.close()


def fails(llm: LLM, monkeypatch: pytest.MonkeyPatch, steps: range) -> None:
    """The model has no memory in these steps."""
    run, count = llm.runner.run, iter(range(10**6))

    def without_memory(work: list[Work]) -> Any:
        if next(count) in steps:
            raise MemoryError("none left")
        return run(work)

    monkeypatch.setattr(llm.runner, "run", without_memory)


def texts(said: list[Message]) -> dict[int, str]:
    found: dict[int, str] = {1: "", 2: ""}
    for message in said:
        for item in message.get("items", ()):
            found[item["id"]] += item["text"]
    return found


def finishes(said: list[Message]) -> dict[int, str]:
    items = [item for message in said for item in message.get("items", ())]
    return {item["id"]: item["finish"] for item in items if "finish" in item}


def test_a_step_that_fails_once_ends_nobody(
    served: Served, tiny_decoder: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Served(LLM(tiny_decoder(), tiny_tokenizer, cache_bytes=10**6, speculation=False))
    other.run()
    wanted = texts(other.said())
    other.close()
    fails(served.llm, monkeypatch, range(3, 4))
    served.run()
    said = served.said()
    assert finishes(said) == {1: "length", 2: "length"} and texts(said) == wanted
    assert served.llm.stats().free_blocks == served.llm.stats().total_blocks


def test_steps_that_go_on_failing_are_told_to_everybody(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(served.llm, monkeypatch, range(3, 100))
    served.run()
    errors = [message for message in served.said() if message["op"] == "error"]
    assert [message["ids"] for message in errors] == [[1, 2]]
    assert served.llm.stats().free_blocks == served.llm.stats().total_blocks
    monkeypatch.undo()
    served.host._obey([{"op": "add", "id": 3, "tokens": [5], "owner": "", "params": PARAMS}])
    served.run()
    assert finishes(served.said()) == {3: "length"}


def test_a_text_that_cannot_even_be_ended_fails_alone(served: Served) -> None:
    class Broken:
        stopped = False

        def push(self, token: int) -> str:
            raise RuntimeError("no text")

        def finish(self) -> str:
            raise RuntimeError("no end")

    request = next(iter(served.host._requests.values()))
    request.text = Broken()
    served.run()
    said = served.said()
    assert [message["ids"] for message in said if message["op"] == "error"] == [[1]]
    assert finishes(said) == {2: "length"}


@pytest.mark.parametrize("fails", [False, True])
def test_a_server_that_is_gone_when_the_model_is_loaded_is_no_error(
    served: Served, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr(loop, "_prepare_process", lambda: None)
    ours, theirs = socket.socketpair()
    ours.sendall(pack({"op": "load", "max_sequences": 1}))

    def load(order: Message) -> tuple[Any, Message]:
        ours.close()
        if fails:
            raise CheckpointError("It is damaged.")
        return served.host._worker, {}

    loop.work(theirs.detach(), load)
    gc.unfreeze()


def test_an_abort_that_fails_leaves_nobody_unanswered(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(request: Any) -> None:
        raise RuntimeError("no abort")

    monkeypatch.setattr(served.host._worker, "abort", broken)
    served.host._obey([{"op": "abort", "id": 1}])
    errors = [message for message in served.said() if message["op"] == "error"]
    assert [message["ids"] for message in errors] == [[1, 2]]


def test_want_of_memory_in_the_first_steps_is_a_sentence(checkpoint, monkeypatch):
    def without_memory(worker: LlmWorker) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(LlmWorker, "warm", without_memory)
    order = {
        "checkpoint": str(checkpoint),
        **dict.fromkeys(host.OPTIONS),
        "max_sequences": 2,
        "speculation": True,
    }
    with pytest.raises(ResourceError, match="cannot load: CUDA out of memory"):
        host.open_worker(order)
