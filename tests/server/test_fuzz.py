"""A fuzzer of bodies, headers and streams: no 5xx, no hang, nothing left behind.

The default suite sends a few hundred requests; ``pytest -m soak`` sends 100,000 and prints what came of them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from servers import Server, running, until

from weft.server.engine import EngineOptions
from weft.server.inputs import DetokenizeRequest, EmbeddingRequest, RerankRequest, TokenizeRequest
from weft.server.schema import ChatRequest, CompletionRequest

ROUTES = {
    "/v1/completions": (CompletionRequest, {"prompt": "今天", "max_tokens": 3}),
    "/v1/chat/completions": (ChatRequest, {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}),
    "/v1/embeddings": (EmbeddingRequest, {"input": "text"}),
    "/v1/rerank": (RerankRequest, {"query": "a", "documents": ["b", "c"]}),
    "/tokenize": (TokenizeRequest, {"prompt": "text"}),
    "/detokenize": (DetokenizeRequest, {"tokens": [5, 6]}),
}
NASTY = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    128,
    2**31,
    2**63,
    2**64,
    -(2**63) - 1,
    10**40,
    0.0,
    -0.0,
    0.5,
    1e-320,
    1e308,
    -1e308,
    "",
    "a",
    "\x00",
    "今天" * 50,
    "\ud800",
    "a" * 5000,
    "(a+)+$",
    "<|im_end|>",
    "<tool_call>",
    "../../etc/passwd",
    "http://127.0.0.1/",
    [],
    [[]],
    [0],
    [5, 6],
    [-1],
    [10**30],
    ["a", "b"],
    [None],
    {},
    {"a": 1},
    {"5": 100},
    {"include_usage": True},
    {"type": "json_object"},
    {"type": "regex", "regex": "(a*)*b"},
    {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}},
    {"type": "function", "function": {"name": "f"}},
    [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    [{"role": "user", "content": "a"}],
    [{"role": "assistant", "content": None, "tool_calls": []}],
    [{"role": "tool", "content": [{"type": "text", "text": "x"}]}],
    "required",
]
PATHS = (
    "/",
    "/health",
    "/status",
    "/metrics",
    "/openapi.json",
    "/v1/models",
    "/v1/models/{}",
    "/page/{}",
    "/admin/usage?days={}",
    "/{}",
)
HEADERS = [
    b"",
    b"Content-Length: -1\r\n",
    b"Content-Length: 99999999999999999999999\r\n",
    b"Content-Length: 5\r\nContent-Length: 6\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
    b"Authorization: Bearer \xff\xfe\r\n",
    b"Content-Type: application/json; charset=utf-16\r\n",
    b"Content-Encoding: gzip\r\n",
    b"X: " + b"y" * 5000 + b"\r\n",
    b"\x00: \x00\r\n",
    b" folded: x\r\n",
]


def body_of(chance: random.Random, route: str) -> bytes:
    """A valid body with a few fields spoilt, or its bytes damaged."""
    model, valid = ROUTES[route]
    body = dict(valid)
    # One field that takes null alone is like another; with all of them little else would be drawn.
    drawn = [
        name for name, field in model.model_fields.items() if field.annotation is not Any or name == "audio"
    ]
    for _ in range(chance.choice([0, 0, 1, 1, 1, 2, 3])):
        name = chance.choice([*drawn, "unknown", "model"])
        body[name] = chance.choice(NASTY)
        if name == "model" and chance.random() < 0.5:
            body[name] = "tiny"
    if "stream" in model.model_fields and chance.random() < 0.5:
        body["stream"] = True
    content = bytearray(json.dumps(body).encode())
    if chance.random() < 0.15:
        for _ in range(chance.randrange(1, 4)):
            content[chance.randrange(len(content))] = chance.randrange(256)
    if chance.random() < 0.05:
        del content[chance.randrange(len(content)) :]
    return bytes(content)


def question_of(chance: random.Random) -> bytes:
    """A GET of a route that is there, or nearly."""
    nasty = chance.choice(NASTY)
    spelt = nasty if isinstance(nasty, str) else json.dumps(nasty)
    path = chance.choice(PATHS).format(
        quote(spelt.encode("utf-8", "replace"), safe=chance.choice(["", "/.%"]))
    )
    return b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" % path.encode()


def request_of(chance: random.Random) -> tuple[bytes, bool]:
    """All bytes of one request, spoilt in its body, in its headers, or nowhere; and whether the header is
    such that a server may wait for more of the body."""
    header = chance.choice(HEADERS) if chance.random() < 0.15 else b""
    waits = any(word in header for word in (b"chunked", b"Length", b"Expect"))
    if chance.random() < 0.1:
        return question_of(chance) + header + b"\r\n", waits
    route = chance.choice(list(ROUTES))
    content = body_of(chance, route)
    length = b"" if b"Length" in header or b"chunked" in header else b"Content-Length: %d\r\n" % len(content)
    method = chance.choice([b"POST"] * 12 + [b"GET", b"PUT", b"BREW", b"\x16\x03\x01"])
    head = b"%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" % (method, route.encode())
    return head + b"Content-Type: application/json\r\n" + length + header + b"\r\n" + content, waits


def send(server: Server, chance: random.Random) -> str:
    """One request on a connection of its own; now and then it hangs up early. What came of it, in a word."""
    whole, waits = request_of(chance)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.settimeout(30)
        if chance.random() < 0.1:
            connection.sendall(whole[: chance.randrange(len(whole))])
            return "hung up before the end"
        received, ended = b"", False
        # Before anything is sent: how a connection ends must not change what is drawn after it.
        most = chance.choice([1, 200, *[10**7] * 6])
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(whole)
            if waits:
                connection.shutdown(socket.SHUT_WR)
            while len(received) < most and not ended:
                data = connection.recv(65536)
                received += data
                ended = not data
    if not received.startswith(b"HTTP/1.1 ") or len(received) < 12:
        return "no answer" if not received else "left in the first line"
    status = int(received[9:12])
    # 499 is written into logs when the client has hung up.
    assert status < 500, (whole, received)
    if b"text/event-stream" not in received.partition(b"\r\n\r\n")[0]:
        return str(status)
    assert b'"server_error"' not in received, (whole, received)
    assert b"data: [DONE]" in received or not ended, (whole, received)
    return "stream, whole" if ended else "stream, left in the middle"


def fuzz(server: Server, seed: int, requests: int) -> Counter[str]:
    """``requests`` of one seed, after which the engine is as it was; what came of them."""
    chance = random.Random(seed)
    pid = server.engine().pid
    told: Counter[str] = Counter()
    for number in range(requests):
        try:
            told[send(server, chance)] += 1
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"request {number} of seed {seed}") from error
    until(server.idle)
    assert server.engine().pid == pid and server.engine().restarts == 0
    assert server.get("/health").status_code == 200
    return told


@pytest.mark.parametrize("seed", range(2))
def test_fuzzed_requests(client, seed):
    told = fuzz(client, seed, 150)
    assert told["200"] > 10 and told["400"] > 10 and told["stream, whole"] > 0, told


def resident(pid: int | str) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.soak
@pytest.mark.timeout(6 * 3600)
def test_one_hundred_thousand_fuzzed_requests(checkpoint, capsys, caplog):
    began = time.monotonic()
    with running({"tiny": EngineOptions(str(checkpoint), "float32", max_sequences=4)}) as server:
        # pytest keeps every record and every line until the test ends, and one of eight requests makes one.
        # The server sets the level when it starts.
        caplog.set_level(logging.ERROR, logger="uvicorn.error")
        told = fuzz(server, 1000, 5_000)
        pids = ("self", server.engine().pid)
        before = [resident(pid) for pid in pids]
        for seed in range(19):
            told += fuzz(server, seed, 5_000)
        grown = [resident(pid) / start - 1 for pid, start in zip(pids, before, strict=True)]
    with capsys.disabled():
        print(f"\n{told.total()} requests in {time.monotonic() - began:.0f} s: {dict(told.most_common())}")
        print("memory grown (server, engine): " + ", ".join(f"{share:.2%}" for share in grown))
    assert told.total() == 100_000
    assert all(share < 0.01 for share in grown), grown
