"""The load generator: its arrivals, its arithmetic, and a run against a real server."""

from __future__ import annotations

import itertools
import json
import math
import statistics

import pytest
from click.testing import CliRunner
from servers import running

from weft.cli.main import main
from weft.server.engine import EngineOptions
from weft.server.limits import Limits
from weft.server.load import Outcome, Target, arrivals, percentiles, report, words


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
    record = json.loads(ended.stdout[ended.stdout.index("{\n") :])
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
            "40",
            "--ignore-eos",
            "--json",
            "-",
        ]
        ended = CliRunner().invoke(main, ["bench", "serve", f"{server.address}/v1", *arguments])
        record = json.loads(ended.stdout[ended.stdout.index("{\n") :])
    assert record["statuses"]["429"] > 0 and record["answered"] >= 2
    assert sum(record["statuses"].values()) == 20


def test_servers_that_are_none():
    for address, code, said in (
        ("nonsense", 2, "http://HOST"),
        ("http://127.0.0.1:1/v1", 1, "does not answer"),
    ):
        ended = CliRunner().invoke(main, ["bench", "serve", address])
        assert ended.exit_code == code and said in ended.output and ended.output.count("\n") == 1
