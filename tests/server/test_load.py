"""The load generator: its arrivals, its arithmetic, and a run against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import resource
import socket
import statistics
import threading

import pytest
from click.testing import CliRunner
from servers import running

from weft.cli.main import main
from weft.server.client import EventClient
from weft.server.engine import EngineOptions
from weft.server.limits import Limits
from weft.server.load import Ask, Outcome, Target, arrivals, percentiles, report, run, words


def test_arrivals_are_poisson():
    due = arrivals(20_000, 50.0, seed=1)
    gaps = [after - before for before, after in itertools.pairwise(due)]
    assert statistics.mean(gaps) == pytest.approx(1 / 50, rel=0.03)
    # An exponential gap has a standard deviation equal to its mean.
    assert statistics.stdev(gaps) == pytest.approx(1 / 50, rel=0.05)
    assert arrivals(3, math.inf, 0) == [0, 0, 0]
    assert arrivals(5, 2.0, 7) == arrivals(5, 2.0, 7)


def test_percentiles_by_hand():
    assert percentiles([4.0, 1.0, 3.0, 2.0, 5.0]) == {
        "mean": 3.0,
        "p50": 3.0,
        "p95": 4.8,
        "p99": pytest.approx(4.96),
    }
    assert percentiles([]) == {}


def test_a_report_by_hand():
    outcomes = [
        Outcome(0, 200, first=0.1, ended=0.5, prompt_tokens=10, tokens=5),
        Outcome(0, 200, first=2.0, ended=2.1, prompt_tokens=10, tokens=2),
        Outcome(0, 200, first=0.1, ended=0.1, prompt_tokens=10, tokens=1),
        Outcome(1, 429, message="full"),
    ]
    found = report(outcomes, 2.0, Target(first=1.0, each=0.1))
    assert found["answered"] == 3 and found["statuses"] == {200: 3, 429: 1}
    assert found["tokens_per_second"] == 4.0 and found["requests_per_second"] == 1.5
    # The second was late; the fourth was refused.
    assert found["goodput"] == 1.0 and found["good"] == 0.5
    assert found["time_per_token"]["mean"] == pytest.approx(0.1)


def test_prompts_differ():
    assert len({words(20, seed) for seed in range(50)}) == 50
    assert len(words(20, 0).split()) == 20


def test_a_run_against_a_server(client, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "今天"}\n{"prompt_tokens": 5, "max_tokens": 3}\n')
    arguments = [
        "--requests",
        "8",
        "--rate",
        "50",
        "--prompts",
        str(file),
        "--max-tokens",
        "6",
        "--ignore-eos",
    ]
    ended = CliRunner().invoke(main, ["bench", "serve", f"{client.address}/v1", *arguments, "--json", "-"])
    assert ended.exit_code == 0, ended.output
    record = json.loads(ended.stdout)
    assert record["answered"] == 8 and record["model"] == "tiny"
    assert record["completion_tokens"] == 4 * 6 + 4 * 3
    assert "goodput" in ended.output


def test_refusals_are_counted(checkpoint):
    options = EngineOptions(str(checkpoint), "float32", max_sequences=1)
    with running({"tiny": options}, Limits(waiting=1)) as server:
        arguments = [
            "--requests",
            "20",
            "--prompt-tokens",
            "5",
            "--max-tokens",
            "120",
            "--ignore-eos",
            "--json",
            "-",
        ]
        ended = CliRunner().invoke(main, ["bench", "serve", f"{server.address}/v1", *arguments])
        record = json.loads(ended.stdout)
    assert record["statuses"]["429"] > 0 and record["answered"] >= 2
    assert sum(record["statuses"].values()) == 20


def test_more_requests_at_once_than_files_are_usually_open():
    """One that is not sent would be counted as one that the server did not answer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    body = f"data: {json.dumps(_TEXT)}\n\ndata: [DONE]\n\n".encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with socket.create_server(("127.0.0.1", 0), backlog=400) as listener:

        def serve():
            # Nobody is answered before all are there, or no more come.
            with contextlib.ExitStack() as held:
                opened: list[socket.socket] = []
                with contextlib.suppress(OSError), listener:
                    while len(opened) < 300:
                        opened.append(held.enter_context(listener.accept()[0]))
                for connection in opened:
                    connection.recv(10_000)
                    connection.sendall(answer)

        address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        listener.settimeout(30)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        # Half of what both sides of 300 connections need.
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
        try:
            arguments = ["--requests", "300", "--model", "m", "--prompt-tokens", "1", "--json", "-"]
            ended = CliRunner().invoke(main, ["bench", "serve", address, *arguments])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert json.loads(ended.stdout)["statuses"] == {"200": 300}


def test_servers_that_are_none():
    for address, code, said in (
        ("nonsense", 2, "http://HOST"),
        ("http://127.0.0.1:99999/v1", 2, "http://HOST"),
        ("http://[::1", 2, "http://HOST"),
        ("http://127.0.0.1:1/v1", 1, "does not answer"),
        ("http://127.0.0.1:1/模型", 1, "does not answer"),
    ):
        ended = CliRunner().invoke(main, ["bench", "serve", address])
        assert ended.exit_code == code and said in ended.output and ended.output.count("\n") == 1

    ended = CliRunner().invoke(main, ["bench", "serve", "--key", "weft-1\n"])
    assert ended.exit_code == 2 and "such as a line break" in ended.output


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt_tokens": "x"}',
        '{"max_tokens": null}',
        '{"prompt": ["a"]}',
        '{"prompt": null}',
        '{"prompt_tokens": 0}',
        '{"promt": "a"}',
        "[]",
    ],
)
def test_lines_that_ask_for_nothing_are_named(tmp_path, line):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n' + line)
    ended = CliRunner().invoke(main, ["bench", "serve", "--prompts", str(file)])
    assert ended.exit_code == 1 and f"{file}, line 2 is not such as" in ended.stderr


_TEXT = {"choices": [{"text": "a", "finish_reason": None}]}


@pytest.mark.parametrize(
    ("lines", "status", "tokens"),
    [
        ([": ping", "event: message", "id: 1", f"data: {json.dumps(_TEXT)}", "", "data: [DONE]"], 200, 1),
        ([f"data: {json.dumps({**_TEXT, 'usage': {'total_tokens': 3}})}", "data: [DONE]"], 200, 1),
        ([f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': 7}})}", "data: [DONE]"], 200, 7),
        (['data: {"error": "boom"}'], 500, 0),
        (['data: {"error": {"message": "boom"}}'], 500, 0),
        (["<html>", "</html>"], 0, 0),
        (["data: <html>"], 0, 0),
        (["data: [1]"], 0, 0),
    ],
)
def test_what_other_servers_stream(lines, status, tokens):
    async def answer(reader, writer):
        await reader.readuntil(b"}")
        body = "\n".join([*lines, ""]).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    async def ask():
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            client = EventClient(f"http://127.0.0.1:{port}/v1")
            return await run(client, [Ask("a", 1)], [0.0], {"model": "m"})

    (outcome,), _ = asyncio.run(ask())
    assert (outcome.status, outcome.tokens) == (status, tokens), outcome.message
