"""Real sockets: clients that vanish, a full queue, a fault of the engine, ports, and the end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from weft.checkpoint.huggingface import save_model
from weft.core.errors import ResourceError, UsageError
from weft.server import Limits
from weft.server.listen import bind

# The end-of-text token would end answers that a test needs to be long.
ENDLESS = {"prompt": [5], "max_tokens": 4000, "temperature": 0}
LONG = {"max_position_embeddings": 5000}


@pytest.fixture
def endless(serve, tiny_tokenizer):
    def start(limits=None):
        address, worker = serve(limits, **LONG)
        worker._llm.runner.model.output.weight[tiny_tokenizer.eos_id] = 0.0
        worker._llm.ends = frozenset()
        return address, worker

    return start


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_vanishes_frees_its_slot(endless, stream):
    address, worker = endless()
    host, port = address.removeprefix("http://").split(":")
    body = json.dumps({**ENDLESS, "stream": stream, "n": 2}).encode()
    connection = socket.create_connection((host, int(port)))
    lines = ("POST /v1/completions HTTP/1.1", "Host: x", "Content-Type: application/json")
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
    connection.sendall(head.encode() + body)
    until(lambda: worker.free_slots == 0)
    connection.close()
    until(lambda: worker.active == 0)
    assert worker.free_slots == worker.slots
    steps = worker._llm.stats().steps
    assert steps < 4000, "the answer had ended by itself; the test shows nothing"


def test_a_reader_that_stops_in_the_middle(endless):
    address, worker = endless()
    with httpx.stream("POST", f"{address}/v1/completions", json={**ENDLESS, "stream": True}) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: {")
        assert worker.active == 1
    until(lambda: worker.active == 0)
    assert worker.free_slots == worker.slots


def test_a_full_queue_answers_429_and_those_inside_are_served(endless):
    address, worker = endless(Limits(waiting=1))
    body = {**ENDLESS, "max_tokens": 400}
    answers = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(httpx.post(f"{address}/v1/completions", json=body, timeout=60))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    until(lambda: worker.active == 3 or len(answers) > 0)
    refused = httpx.post(f"{address}/v1/completions", json=body)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "5"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 3


def test_a_fault_of_the_engine_hits_its_requests_and_not_the_next(serve, caplog):
    address, worker = serve()
    model = worker._llm.runner.model
    whole, model.forward = model.forward, None
    assert httpx.post(f"{address}/v1/completions", json={"prompt": "a"}).status_code == 500
    streamed = httpx.post(f"{address}/v1/completions", json={"prompt": "a", "stream": True})
    assert "server_error" in streamed.text and "[DONE]" not in streamed.text
    model.forward = whole
    assert httpx.post(f"{address}/v1/completions", json={"prompt": "a"}).status_code == 200
    assert worker.free_slots == worker.slots
    assert "A step of the engine failed" in caplog.text


def test_a_body_that_never_comes_is_let_go(serve):
    address, _ = serve(Limits(body_seconds=0.2))
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_huge_headers_are_refused(serve):
    address, _ = serve()
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        with contextlib.suppress(OSError):  # it may hang up before it has read them all
            connection.sendall(b"GET /health HTTP/1.1\r\nx: " + b"a" * 200_000)
        with contextlib.suppress(ConnectionResetError):
            assert b" 400 " in connection.recv(100)
    assert httpx.get(f"{address}/health").status_code == 200


def test_ports_and_hosts_that_cannot_be_used():
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ResourceError, match=f"Port {port} .* in use"):
            bind("127.0.0.1", port)
    with pytest.raises(UsageError, match="70000"):
        bind("127.0.0.1", 70000)
    with pytest.raises(UsageError, match="not an address"):
        bind("no such host", 8000)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_drain_and_end_cleanly(tmp_path, tiny_decoder, tiny_tokenizer, number):
    folder = tmp_path / "model"
    save_model(folder, tiny_decoder(**LONG), tiny_tokenizer)
    command = [
        sys.executable,
        "-m",
        "weft",
        "serve",
        str(folder),
        "--port",
        "0",
        "--name",
        "名字",
        "--json",
        "-",
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"},
    )
    try:
        ready = process.stderr.readline()
        assert "名字" in ready, ready + process.stderr.read()
        address = ready.split(" is served on ")[1].split(" ")[0]
        until(lambda: httpx.get(f"{address}/health").status_code == 200)
        with httpx.stream(
            "POST",
            f"{address}/v1/completions",
            json={**ENDLESS, "max_tokens": 300, "stream": True},
            timeout=60,
        ) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(number)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        record = json.loads(process.communicate(timeout=60)[0])
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert record["command"] == "serve" and record["address"] == address


def test_a_taken_port_is_one_sentence_before_any_model_is_read(tmp_path):
    with bind("127.0.0.1", 0) as listener:
        port = str(listener.getsockname()[1])
        command = [sys.executable, "-m", "weft", "serve", str(tmp_path), "--port", port]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1 and "in use" in ended.stderr
