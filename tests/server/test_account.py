"""What is counted and written down of requests, also of those that are refused, fail or are left."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading

import httpx
import pytest
from servers import ENDLESS, running, standing_still, until

from weft.server.auth import _NOTED_A_MINUTE
from weft.server.engine import EngineOptions, Patience
from weft.server.keys import Keys
from weft.server.ledger import Ledger
from weft.server.limits import Limits
from weft.server.store import Store

ASK = {"prompt": "a", "max_tokens": 2}


class Counted:
    """A server with keys whose answers may be long, and its books."""

    def __init__(self, server, store, texts):
        self.server, self.store = server, store
        self.headers = {name: {"authorization": f"Bearer {text}"} for name, text in texts.items()}
        self.ids = {name: text.split("-")[1] for name, text in texts.items()}

    def rows(self, user: str) -> list[tuple]:
        query = "SELECT key_id, route, model, status, prompt_tokens, completion_tokens FROM requests"
        return self.store.read(f"{query} WHERE end_user = ? ORDER BY at", (user,))

    def all(self) -> list[tuple]:
        return self.store.read("SELECT key_id, route, model, status FROM requests")

    def count(self, route: str, status: int, model: str = "tiny") -> int:
        text = self.server.get("/metrics", headers=self.headers["root"]).text
        labels = f'{{model="{model}",route="{route}",status="{status}"}}'
        found = re.search(rf"^weft_requests_total{re.escape(labels)} (\S+)$", text, re.MULTILINE)
        return int(float(found[1])) if found else 0


@pytest.fixture(scope="module")
def counted(long_checkpoint, tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("store") / "weft.db"))
    keys, ledger = Keys(store), Ledger(store)
    texts = {name: keys.add(name, scope)[1] for name, scope in (("ann", "use"), ("root", "admin"))}
    texts["slow"] = keys.add("slow", "use", requests_per_minute=1)[1]
    options = {"tiny": EngineOptions(str(long_checkpoint), "float32", max_sequences=2)}
    with running(options, Limits(waiting=1), keys, ledger, patience=Patience(backoff=0.05)) as server:
        yield Counted(server, store, texts)
    ledger.close()


CHAT = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "route", "model"),
    [
        ("POST", "/v1/completions", {**ASK, "temperture": 1}, 400, None, ""),
        ("POST", "/v1/completions", {**ASK, "best_of": 1, "n": 2}, 400, None, "tiny"),
        ("POST", "/v1/completions", {**ASK, "model": "other"}, 404, None, ""),
        ("POST", "/v1/completions", {**ASK, "prompt": [5] * 9000}, 400, None, "tiny"),
        ("POST", "/v1/chat/completions", {**CHAT, "temperature": -1}, 400, None, "tiny"),
        ("POST", "/v1/chat/completions", CHAT, 200, None, "tiny"),
        ("POST", "/v1/embeddings", {"input": "a"}, 200, None, "tiny"),
        ("POST", "/v1/rerank", {"query": "a", "documents": []}, 400, None, ""),
        ("POST", "/v1/tasks/classify", {"input": "a"}, 400, None, "tiny"),
        ("POST", "/v1/tasks/nothing", {}, 404, "/v1/tasks/{task}", ""),
        ("GET", "/v1/models", None, 200, None, ""),
        ("GET", "/v1/models/a-name-that-somebody-made-up", None, 404, "/v1/models/{model_id:path}", ""),
        ("GET", "/v1/made/up", None, 404, "other", ""),
        ("PUT", "/v1/completions", {}, 405, None, ""),
        ("POST", "/tokenize", {"prompt": "a"}, 200, None, "tiny"),
        ("POST", "/detokenize", {"tokens": [-1]}, 400, None, "tiny"),
        ("POST", "/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "a"}, 403, None, ""),
    ],
)
def test_every_request_has_a_count_and_a_row(counted, method, path, body, status, route, model):
    route = route or path
    before, row = counted.count(route, status, model), (counted.ids["ann"], route, model, status)
    written = counted.all().count(row)
    options = {} if body is None else {"json": body}
    answer = counted.server.http.request(method, path, headers=counted.headers["ann"], **options)
    assert answer.status_code == status, answer.text
    assert counted.count(route, status, model) == before + 1
    until(lambda: counted.all().count(row) == written + 1)


def test_bodies_that_are_too_large_and_keys_that_ask_too_often(counted):
    header = counted.headers["slow"]
    statuses = [
        counted.server.post("/v1/completions", {**ASK, "user": "often"}, headers=header).status_code
        for _ in range(3)
    ]
    assert statuses == [200, 429, 429]
    until(lambda: len(counted.rows("often")) == 3)
    place = (counted.ids["slow"], "/v1/completions", "tiny")
    assert counted.rows("often")[1:] == [(*place, 429, 0, 0)] * 2
    assert counted.count("/v1/completions", 429) == 2
    large = counted.server.post("/v1/completions", {"prompt": "a" * 2**23}, headers=counted.headers["ann"])
    assert large.status_code == 413 and counted.count("/v1/completions", 413, "") == 1


def test_who_has_no_key_is_counted_and_fills_no_disk(counted):
    rows, wrong = len(counted.all()), {"authorization": "Bearer wrong"}
    refusals = _NOTED_A_MINUTE + 50
    for number in range(refusals):
        assert counted.server.get(f"/v1/models/{number}", headers=wrong).status_code == 401
    assert counted.server.post("/v1/completions", ASK).status_code == 401
    assert counted.count("other", 401, "") == refusals
    assert counted.count("/v1/completions", 401, "") == 1
    assert len(counted.all()) == rows
    noted = counted.store.read("SELECT COUNT(*) FROM audit WHERE event = 'refused'")[0][0]
    assert noted <= 2 * _NOTED_A_MINUTE


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_is_499(counted, stream):
    user = f"leaves {stream}"
    body = {**ENDLESS, "stream": stream, "user": user}
    with httpx.Client(base_url=counted.server.address, timeout=60) as http:
        request = http.build_request("POST", "/v1/completions", json=body, headers=counted.headers["ann"])
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with socket.create_connection(("127.0.0.1", counted.server.port)) as connection:
        connection.sendall(f"POST /v1/completions HTTP/1.1\r\n{head}\r\n".encode() + request.content)
        until(lambda: counted.server.engine().active == 1)
    until(lambda: counted.rows(user))
    ((key, route, model, status, prompt, _),) = counted.rows(user)
    assert (key, route, model, status) == (counted.ids["ann"], "/v1/completions", "tiny", 499)
    assert prompt == 1
    until(counted.server.idle)


@pytest.mark.parametrize("stream", [True, False])
def test_an_engine_that_dies_is_503_in_the_books_too(counted, stream):
    """A stream has begun with 200; what it would have been stands in its row."""
    user = f"dies {stream}"
    body = {**ENDLESS, "stream": stream, "user": user, "n": 2}
    thread = threading.Thread(
        target=lambda: counted.server.post("/v1/completions", body, headers=counted.headers["ann"])
    )
    thread.start()
    until(lambda: counted.server.engine().active == 2 and counted.server.engine().pid)
    os.kill(counted.server.engine().pid, signal.SIGKILL)
    thread.join()
    until(lambda: counted.rows(user))
    assert [row[:5] for row in counted.rows(user)] == [
        (counted.ids["ann"], "/v1/completions", "tiny", 503, 1)
    ]
    until(lambda: counted.server.post("/v1/completions", ASK, headers=counted.headers["ann"]).is_success)


def test_those_that_a_full_queue_refuses_are_counted(counted):
    body = {**ENDLESS, "n": 2, "stream": True, "user": "inside"}
    header = counted.headers["ann"]
    before = counted.count("/v1/completions", 429)
    with counted.server.http.stream("POST", "/v1/completions", json=body, headers=header) as answer:
        assert answer.status_code == 200
        # On a busy machine those inside might be done before the last of the others comes.
        still = standing_still(counted.server.engine().pid)
        with still, httpx.Client(base_url=counted.server.address, timeout=60) as http:
            statuses = {
                http.post("/v1/completions", json={**ASK, "user": "outside"}, headers=header).status_code
                for _ in range(20)
            }
    assert statuses == {429}
    until(lambda: len(counted.rows("outside")) == 20)
    assert counted.count("/v1/completions", 429) == before + 20
    until(counted.server.idle)
