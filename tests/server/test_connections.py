"""Real sockets: clients that vanish, slow and idle ones, a full queue, ports, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from fastapi import FastAPI
from servers import ENDLESS, running, standing_still, until
from starlette.responses import StreamingResponse

from weft.cli.serve import command
from weft.core.errors import ResourceError, UsageError
from weft.server.engine import Engine, EngineOptions
from weft.server.keys import Keys
from weft.server.ledger import Ledger
from weft.server.limits import Limits
from weft.server.listen import Tls, bind, http_server
from weft.server.store import Store


def raw_request(server, body: dict) -> socket.socket:
    """Send a request on a socket of its own and read nothing."""
    content = json.dumps(body).encode()
    lines = ("POST /v1/completions HTTP/1.1", "Host: x", "Content-Type: application/json")
    head = "\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""])
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(head.encode() + content)
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_vanishes_frees_its_blocks(endless, stream):
    connection = raw_request(endless, {**ENDLESS, "stream": stream, "n": 2})
    until(lambda: endless.engine().stats["running"] == 2)
    connection.close()
    until(endless.idle)
    assert endless.engine().restarts == 0


@pytest.mark.parametrize("stream", [True, False])
def test_blocks_of_a_client_that_vanishes_are_free_within_one_step(endless, monkeypatch, stream):
    """The step under way may end, with the blocks still held; no other begins with them, though somebody
    else is served on. The engine stands still meanwhile, so that its steps can be told apart."""
    engine = endless.engine()
    told: list[dict[str, int]] = []
    receive = engine._receive
    monkeypatch.setattr(engine, "_receive", lambda message: (receive(message), told.append(engine.stats)))
    with raw_request(endless, {**ENDLESS, "stream": True}) as stays:
        gone = raw_request(endless, {**ENDLESS, "prompt": [5] * 3000, "max_tokens": 4000, "stream": stream})
        until(lambda: engine.stats["running"] == 2 and _held(engine.stats) > 100)
        with standing_still(engine.pid):
            gone.close()
            until(lambda: engine.active == 1 and _all_heard(engine))
            assert endless.get("/health").status_code == 200  # by then what was heard is told
            before = engine.stats
            del told[:]
        until(lambda: sum(stats["steps"] > before["steps"] + 1 for stats in list(told)) >= 3)
        late = [stats for stats in list(told) if stats["steps"] > before["steps"] + 1]
        stays.close()
        assert all(stats["running"] == 1 and _held(stats) < _held(before) / 2 for stats in late[:3])
        freed = next(stats for stats in told if _held(stats) < _held(before) / 2)
        assert freed["steps"] <= before["steps"] + 1
    until(endless.idle)


def _held(stats: dict[str, int]) -> int:
    return stats["total_blocks"] - stats["free_blocks"]


def _all_heard(engine: Engine) -> bool:
    """Whether the engine stands still, and the server has read all that came from it."""
    if Path(f"/proc/{engine.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        return False
    # What a socket has for its reader, in bytes.
    left = fcntl.ioctl(engine._writer.get_extra_info("socket"), termios.FIONREAD, bytes(4))
    return left == bytes(4)


def test_a_reader_that_stops_in_the_middle(endless):
    with endless.http.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as answer:
        lines = answer.iter_lines()  # a generator that nobody holds would end the answer
        first = next(lines)
        assert first.startswith('data: {"id"'), first
        assert endless.engine().active == 1
    until(endless.idle)


def test_a_reader_that_takes_nothing_is_let_go(long_checkpoint):
    options = EngineOptions(str(long_checkpoint), "float32", max_sequences=2)
    with running({"tiny": options}, Limits(send_seconds=0.3)) as server:
        body = {**ENDLESS, "stream": True, "n": 2}
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            content = json.dumps(body).encode()
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(content), content)
            )
            until(lambda: server.engine().active == 2)
            until(server.idle)
        assert server.post("/v1/completions", {"prompt": [5], "max_tokens": 2}).status_code == 200


def test_a_full_queue_answers_429_and_those_inside_are_served(endless):
    body = {**ENDLESS, "max_tokens": 500}
    answers = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(
                httpx.post(f"{endless.address}/v1/completions", json=body, timeout=120)
            )
        )
        for _ in range(3)
    ]
    # On a busy machine they might be done before the next one comes.
    with standing_still(endless.engine().pid):
        for thread in threads:
            thread.start()
        until(lambda: endless.engine().active == 3)
        refused = endless.post("/v1/completions", body)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.json()["error"]["type"] == "rate_limit_error"
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 3
    until(endless.idle)


def test_what_comes_while_the_queue_is_full_is_refused_before_it_is_understood(endless):
    """In a flood, time to understand requests would be taken from the answers under way. What takes no place
    is answered all the same."""
    with contextlib.ExitStack() as stack, standing_still(endless.engine().pid):
        for _ in range(3):
            stack.enter_context(contextlib.closing(raw_request(endless, {**ENDLESS, "stream": True})))
        until(lambda: endless.engine().active == 3)
        for path in ("completions", "chat/completions", "embeddings", "rerank", "tasks/sentiment"):
            answer = endless.http.post(f"/v1/{path}", content=b"[")
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full"), path
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert endless.post("/tokenize", {"prompt": "a"}).status_code == 200
        assert endless.get("/v1/models").status_code == 200
    until(endless.idle)
    assert endless.http.post("/v1/completions", content=b"[").status_code == 400


def test_a_flood_of_connections_is_accepted_by_and_by_and_none_is_lost():
    """All at once would leave the events of engines unread for as long as that takes."""

    async def accepted() -> list[int]:
        with bind("127.0.0.1", 0) as listener, contextlib.ExitStack() as stack:
            http = http_server(FastAPI(), Limits())
            serving = asyncio.ensure_future(http.serve(sockets=[listener]))
            while not http.started:
                await asyncio.sleep(0.01)
            for _ in range(300):  # the loop stands still meanwhile, so the system keeps them
                stack.enter_context(socket.create_connection(listener.getsockname(), timeout=60))
            counts = [0]
            while counts[-1] < 300:
                await asyncio.sleep(0)
                counts.append(len(http.server_state.connections))
            http.should_exit = True
            stack.close()
            await serving
            return counts

    counts = asyncio.run(asyncio.wait_for(accepted(), 60))
    assert max(after - before for before, after in itertools.pairwise(counts)) <= 16


def test_more_answers_than_there_will_ever_be_places_for_are_no_full_queue(endless):
    """Two at work and one waiting: four are never let in, however long one waits."""
    for body, param in (({"n": 4}, "n"), ({"best_of": 4}, "best_of"), ({"prompt": ["a"] * 4}, "n")):
        answer = endless.post("/v1/completions", {"prompt": "a", "max_tokens": 2, **body})
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["param"] == param, answer.text
        assert f"{param}: 4 answers are more than the 3 that this server has" in error["message"]
    assert endless.post("/v1/completions", {"prompt": "a", "max_tokens": 2, "n": 3}).status_code == 200
    until(endless.idle)


def test_slow_heads_and_bodies_are_let_go(checkpoint):
    options = EngineOptions(str(checkpoint), "float32")
    with running({"tiny": options}, Limits(body_seconds=0.2, head_seconds=1.0)) as server:
        place = ("127.0.0.1", server.port)
        with socket.create_connection(place) as connection:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            assert connection.recv(100).startswith(b"HTTP/1.1 408")
        for begun in (b"", b"GET /health HTT", b"GET /health HTTP/1.1\r\nx: y\r\n"):
            with socket.create_connection(place) as connection:
                connection.sendall(begun)
                connection.settimeout(60)
                with contextlib.suppress(ConnectionResetError):
                    assert connection.recv(100) == b""
        assert server.get("/health").status_code == 200


def test_large_bodies_of_many_are_held_within_a_bound(checkpoint):
    options, limits = EngineOptions(str(checkpoint), "float32"), Limits(bodies_bytes=250_000)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with running({"tiny": options}, limits) as server, contextlib.ExitStack() as stack:

        def begun(size: int) -> socket.socket:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            connection.settimeout(30)
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % (size + 1) + b" " * size)
            return connection

        slow = [begun(100_000) for _ in range(3)]
        refused = select.select(slow, [], [], 20)[0]
        assert [connection.recv(1000)[:12] for connection in refused] == [b"HTTP/1.1 429"]
        # Small ones are read whatever the others hold.
        assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status_code == 200
        for connection in slow:
            connection.close()
        padded = json.dumps({"prompt": "a", "max_tokens": 2}).encode() + b" " * 100_000
        form = {"content-type": "application/json"}
        until(lambda: server.http.post("/v1/completions", content=padded, headers=form).status_code == 200)


def test_large_bodies_of_strangers_and_of_one_key_refuse_no_other_key(checkpoint, tmp_path):
    options, limits = EngineOptions(str(checkpoint), "float32"), Limits(bodies_bytes=400_000)
    keys = Keys(Store(str(tmp_path / "weft.db")))
    ann, bob = (f"Authorization: Bearer {keys.add(name)[1]}\r\n".encode() for name in ("ann", "bob"))
    with running({"tiny": options}, limits, keys) as server, contextlib.ExitStack() as stack:

        def begun(path: bytes, key: bytes = b"") -> socket.socket:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            connection.settimeout(60)
            head = b"POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Type: application/json\r\n" % (path, key)
            connection.sendall(head + b"Content-Length: 150001\r\n\r\n" + b" " * 150_000)
            return connection

        for _ in range(4):
            # Answered at once, whatever else would come.
            assert begun(b"/health").recv(12) == b"HTTP/1.1 405"
        slow = [begun(b"/v1/completions", ann) for _ in range(2)]
        refused = select.select(slow, [], [], 60)[0]
        assert [connection.recv(12) for connection in refused] == [b"HTTP/1.1 429"]
        whole = b"POST /tokenize HTTP/1.1\r\nHost: x\r\n" + bob + b"Content-Type: application/json\r\n"
        body = json.dumps({"prompt": "a"}).encode() + b" " * 150_000
        other = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        other.sendall(whole + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert other.recv(12) == b"HTTP/1.1 200"


def dribble(connection: socket.socket, data: bytes) -> bool:
    """Send ``data`` again and again; whether the other side hangs up before a minute of it."""
    connection.settimeout(0.02)
    for _ in range(3000):
        try:
            connection.sendall(data)
            if connection.recv(100) == b"":
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


HEAD = b"GET /health HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("first", "begun"),
    [
        (HEAD + b"\r\n", HEAD + b"x: "),
        (HEAD + b"\r\n" + HEAD + b"x: ", b""),  # it comes before the first is answered
        (b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n", b""),
    ],
    ids=["the second head", "a head sent ahead", "a body after its refusal"],
)
def test_what_dribbles_on_a_connection_that_was_answered_is_let_go(checkpoint, first, begun):
    options = EngineOptions(str(checkpoint), "float32")
    with running({"tiny": options}, Limits(head_seconds=0.5)) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(first)
            assert connection.recv(4096).startswith(b"HTTP/1.1 ")
            connection.sendall(begun)
            assert dribble(connection, b"a")
        assert server.get("/health").status_code == 200


def test_the_clock_of_heads_leaves_honest_connections_alone(endless):
    """Many requests on one connection, and an answer that takes longer than a head may."""
    options = EngineOptions(endless.engine().options.checkpoint, "float32")
    with running({"tiny": options}, Limits(head_seconds=0.3)) as server:
        for _ in range(4):  # all of them on one connection
            assert server.get("/health").status_code == 200
            time.sleep(0.15)
        assert server.post("/v1/completions", {**ENDLESS, "max_tokens": 1500}).status_code == 200
        assert server.get("/health").status_code == 200


def test_an_idle_connection_is_closed(server):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(HEAD + b"\r\n")
        connection.settimeout(60)
        while connection.recv(4096):
            pass


def test_huge_headers_are_refused(server):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        with contextlib.suppress(OSError):  # it may hang up before it has read them all
            connection.sendall(b"GET /health HTTP/1.1\r\nx: " + b"a" * 200_000)
        with contextlib.suppress(ConnectionResetError):
            assert b" 400 " in connection.recv(100)
    assert server.get("/health").status_code == 200


def test_ports_hosts_and_certificates_that_cannot_be_used(tmp_path):
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ResourceError, match=f"Port {port} .* in use"):
            bind("127.0.0.1", port)
    with pytest.raises(UsageError, match="70000"):
        bind("127.0.0.1", 70000)
    with pytest.raises(UsageError, match="not an address"):
        bind("no such host", 8000)
    (tmp_path / "wrong.pem").write_text("no certificate")
    for name in ("missing.pem", "wrong.pem"):
        with pytest.raises(UsageError, match=f"{name} .* cannot be used"):
            Tls(tmp_path / name, tmp_path / name).check()


def weft(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "weft", *arguments]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_drain_and_end_cleanly(long_checkpoint, number):
    process = subprocess.Popen(
        weft("serve", str(long_checkpoint), "--port", "0", "--name", "名字", "--json", "-"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    try:
        ready = process.stderr.readline()
        assert "名字" in ready, ready + process.stderr.read()
        address = ready.split(" is served on ")[1].split(" ")[0]
        body = {**ENDLESS, "max_tokens": 300, "stream": True}
        with httpx.stream("POST", f"{address}/v1/completions", json=body, timeout=60) as answer:
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


def test_a_second_interrupt_does_not_wait_and_says_nothing_odd(long_checkpoint):
    process = subprocess.Popen(
        weft("serve", str(long_checkpoint), "--port", "0"), stderr=subprocess.PIPE, text=True
    )
    try:
        address = process.stderr.readline().split(" is served on ")[1].split(" ")[0]
        body = {**ENDLESS, "max_tokens": 7000, "stream": True}
        with httpx.stream("POST", f"{address}/v1/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            (engine,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            # The answer is not to end before the second one comes.
            with standing_still(int(engine)):
                process.send_signal(signal.SIGINT)
                until(lambda: _refuses(address))
                process.send_signal(signal.SIGINT)
            assert "server_error" in [line for line in lines if line][-1]
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0 and "Traceback" not in errors


def test_a_second_interrupt_does_not_wait_for_open_connections(monkeypatch):
    async def wait_closed(server):
        # As of Python 3.12.1.
        while server._active_count:
            await asyncio.sleep(0.01)

    monkeypatch.setattr(asyncio.base_events.Server, "wait_closed", wait_closed)
    app = FastAPI()

    async def endless():
        while True:
            yield b"x"
            await asyncio.sleep(0.01)

    @app.get("/")
    async def answer():
        return StreamingResponse(endless())

    async def run():
        with bind("127.0.0.1", 0) as listener:
            http = http_server(app, Limits(drain_seconds=600))
            serving = asyncio.ensure_future(http._serve([listener]))
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            http.handle_exit(signal.SIGINT, None)
            await asyncio.sleep(0.3)
            assert not serving.done()
            http.handle_exit(signal.SIGINT, None)
            await asyncio.wait_for(serving, 60)
            writer.close()

    asyncio.run(run())


def _refuses(address: str) -> bool:
    try:
        httpx.get(f"{address}/health")
    except httpx.TransportError:
        return True
    return False


def test_connections_beyond_the_bound_are_closed_at_once(checkpoint):
    options = {"tiny": EngineOptions(str(checkpoint), "float32")}
    # Those inside owe a head, and are not closed for that while the test runs.
    limits = Limits(connections=4, head_seconds=600)
    with running(options, limits) as server, contextlib.ExitStack() as held:
        until(lambda: server.get("/health").status_code == 200)
        opened = [held.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(8)]
        for connection in opened:
            connection.setblocking(False)
        until(lambda: sum(map(_is_closed, opened)) >= 4)


def _is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed it."""
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_who_is_not_finished_at_the_end_is_told(long_checkpoint, tmp_path, capfd):
    """An engine that stands still when the server is to end: a stream, an answer, and a body on its way."""
    store = Store(str(tmp_path / "weft.db"))
    ledger = Ledger(store)
    told: dict[str, bytes] = {}

    def read(name: str, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            told[name] = file.read()

    options = EngineOptions(str(long_checkpoint), "float32", max_sequences=2)
    with running({"tiny": options}, Limits(drain_seconds=1), None, ledger) as server:
        waiting = {"stream": raw_request(server, {**ENDLESS, "stream": True})}
        assert waiting["stream"].recv(20).startswith(b"HTTP/1.1 200")
        waiting["whole"] = raw_request(server, ENDLESS)
        until(lambda: server.engine().active == 2)
        waiting["body"] = socket.create_connection(("127.0.0.1", server.port))
        waiting["body"].sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        # It comes on a connection behind that of the body, which the server has read then.
        assert server.get("/health").status_code == 200
        os.kill(server.engine().pid, signal.SIGSTOP)
        threads = [threading.Thread(target=read, args=each) for each in waiting.items()]
        for thread in threads:
            thread.start()
        server.end()
        for thread in threads:
            thread.join()
    ledger.close()
    events = [line for line in told["stream"].split(b"\r\n") if line.startswith(b"data: ")]
    assert json.loads(events[-1].removeprefix(b"data: "))["error"]["type"] == "server_error"
    assert told["stream"].endswith(b"\r\n0\r\n\r\n") and b"[DONE]" not in told["stream"]
    for name in ("whole", "body"):
        head, _, body = told[name].partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ") and b"retry-after" in head, told[name]
        assert "stopping" in json.loads(body)["error"]["message"]
    assert store.read("SELECT status FROM requests") == [(503,)] * 3
    assert "Traceback" not in capfd.readouterr().err


def test_what_cannot_be_served_is_one_sentence(tmp_path):
    with bind("127.0.0.1", 0) as listener:
        port = str(listener.getsockname()[1])
        taken = subprocess.run(
            weft("serve", str(tmp_path), "--port", port), capture_output=True, text=True, timeout=120
        )
    assert taken.returncode == 1
    assert taken.stderr.count("\n") == 1 and "in use" in taken.stderr
    empty = subprocess.run(
        weft("serve", str(tmp_path), "--port", "0"), capture_output=True, text=True, timeout=120
    )
    assert empty.returncode == 1
    assert empty.stderr.count("\n") == 1 and empty.stderr.startswith("weft: "), empty.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-loaded", "0"], "--max-loaded must be at least 1"),
        (["--idle-unload", "-1"], "--idle-unload must be greater than 0"),
        (["--stall-seconds", "nan"], "must be greater than 0"),
        (["--name", "\udcff"], "is not UTF-8"),
        (["--replicas", "1", "--adapter-root", "."], "at the start alone"),
        (["--replicas", "1", "--ray", "ray://head:10001"], "cannot be streamed"),
    ],
)
def test_options_that_make_no_sense_are_one_sentence(options, said):
    found = CliRunner().invoke(command, ["nowhere", *options])
    assert found.exit_code == 2
    assert said in found.stderr and found.stderr.count("\n") == 1
