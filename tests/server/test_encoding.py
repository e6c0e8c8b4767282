"""While texts become tokens: the model stays, and long texts take their turn."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers import running, until

from lora import write
from weft.server.engine import EngineOptions
from weft.server.prompts import Prompts


@pytest.fixture
def held(monkeypatch):
    """Requests wait before they are encoded until the event is set; how many do, and did at once."""
    release, lock, count = threading.Event(), threading.Lock(), {"now": 0, "most": 0}
    encode = Prompts.text

    def waits(self, prompt, **how):
        with lock:
            count["now"] += 1
            count["most"] = max(count["most"], count["now"])
        assert release.wait(60)
        with lock:
            count["now"] -= 1
        return encode(self, prompt, **how)

    monkeypatch.setattr(Prompts, "text", waits)
    yield release, count
    release.set()


def test_a_model_stays_while_a_text_for_it_is_encoded(checkpoint, held):
    release, count = held
    options = {name: EngineOptions(str(checkpoint), "float32") for name in "ab"}
    with running(options, most=1, idle_seconds=0.2) as server, ThreadPoolExecutor() as pool:
        body = {"model": "a", "prompt": "x", "max_tokens": 1}
        waiting = pool.submit(server.post, "/v1/completions", body)
        until(lambda: count["now"])
        other = server.post("/v1/completions", {**body, "model": "b"})
        assert other.status_code == 503 and "in use" in other.json()["error"]["message"]
        release.set()
        assert waiting.result().status_code == 200
        # By hand it goes even so, and who was asking is told.
        release.clear()
        waiting = pool.submit(server.post, "/v1/completions", body)
        until(lambda: count["now"])
        assert server.post("/admin/models/a/unload", None).status_code == 200
        release.set()
        answer = waiting.result()
        assert answer.status_code == 503 and "unloaded meanwhile" in answer.json()["error"]["message"]


def test_long_texts_are_encoded_one_after_another(client, held):
    """A hundred times its bytes is what a text takes while it is encoded."""
    release, count = held
    with ThreadPoolExecutor(12) as pool:
        body = {"prompt": "word " * 60_000, "max_tokens": 1}
        long = [pool.submit(client.post, "/v1/completions", body) for _ in range(10)]
        short = [pool.submit(client.post, "/v1/completions", {**body, "prompt": "a"}) for _ in range(2)]
        until(lambda: count["now"] == 3 and sum(each.done() for each in long) == 2)
        release.set()
        statuses = sorted(each.result().status_code for each in long)
        assert (
            statuses == [400] * 8 + [429] * 2 and [each.result().status_code for each in short] == [200] * 2
        )
        assert count["most"] == 3


def test_an_adapter_that_is_unloaded_while_a_text_for_it_is_encoded_is_not_left_out(
    checkpoint, held, tmp_path
):
    release, count = held
    write(tmp_path / "one", 1)
    options = EngineOptions(str(checkpoint), "float32", adapters={"one": str(tmp_path / "one")})
    with running({"tiny": options}) as server, ThreadPoolExecutor() as pool:
        waiting = pool.submit(
            server.post, "/v1/completions", {"model": "one", "prompt": "a", "max_tokens": 2}
        )
        until(lambda: count["now"])
        assert server.post("/v1/unload_lora_adapter", {"lora_name": "one"}).status_code == 200
        release.set()
        assert waiting.result().status_code == 400, "not an answer of the model without it"
