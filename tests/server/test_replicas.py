"""Replicas under Ray Serve: one front, the same answers, and a replica that dies hits its requests alone."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import httpx
import pytest
from servers import ENDLESS, running, until
from tests import task_models
from tests.task_models import TEXTS

import weft
from weft.server.answer import EngineFault
from weft.server.engine import EngineOptions, Patience
from weft.server.replicas import Fleet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray"),
    # Ray leaves sockets and files to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning"),
]
ASKED = {"prompt": list(range(60, 80)), "max_tokens": 12, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def fleet(cluster, long_checkpoint):
    options = EngineOptions(str(long_checkpoint), "float32", max_sequences=2)
    backend = partial(Fleet, replicas=2, address=None)
    with running({"tiny": options}, backend=backend, patience=Patience(load=300)) as found:
        yield found


def test_the_answers_are_those_of_one_engine(fleet, long_checkpoint):
    with running({"tiny": EngineOptions(str(long_checkpoint), "float32", max_sequences=2)}) as alone:
        expected = alone.post("/v1/completions", ASKED).json()["choices"][0]["text"]
        vector = alone.post("/v1/embeddings", {"input": "好"}).json()["data"][0]["embedding"]
    found = [fleet.post("/v1/completions", ASKED).json()["choices"][0]["text"] for _ in range(4)]
    assert found == [expected] * 4
    assert fleet.post("/v1/embeddings", {"input": "好"}).json()["data"][0]["embedding"] == vector
    assert fleet.engine().facts["sequences"] == 4


def test_both_replicas_work_and_a_client_that_leaves_frees_its_place(fleet):
    leave = threading.Event()

    def reader():
        with fleet.http.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as streamed:
            next(streamed.iter_lines())
            leave.wait(60)

    threads = [threading.Thread(target=reader) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: fleet.engine().active == 4)
    until(lambda: sum(counts["running"] > 0 for _, counts in fleet.engine()._told.values()) == 2)
    leave.set()
    for thread in threads:
        thread.join()
    until(lambda: fleet.engine().active == 0)
    assert fleet.post("/v1/completions", ASKED).status_code == 200


def engines() -> list[int]:
    """Process numbers of the engines below this process; others on the machine are not to be killed."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if b"weft.server.host" in (entry / "cmdline").read_bytes() and is_below(int(entry.name)):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def is_below(process: int) -> bool:
    """Whether this process started it, or what did."""
    while process > 1:
        if process == os.getpid():
            return True
        # The name before it may hold spaces and brackets.
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return False


def test_killed_engines_hit_their_requests_and_not_the_next(fleet):
    told = []

    def ask():
        told.append(httpx.post(f"{fleet.address}/v1/completions", json=ENDLESS, timeout=120).status_code)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: fleet.engine().active == 2)
    until(lambda: len(engines()) == 2)
    for process in engines():
        os.kill(process, signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert told == [503, 503]
    # Requests that come while the engines start again wait for them.
    assert [fleet.post("/v1/completions", ASKED).status_code for _ in range(3)] == [200] * 3
    assert fleet.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("task", "call", "settings"),
    [
        ("sentiment", "analyze_sentiment", {}),
        ("translation", "translate", {"target_language": "zh", "max_length": 12}),
    ],
)
def test_tasks_are_answered_by_replicas(cluster, tmp_path_factory, task, call, settings):
    folder = task_models.made(tmp_path_factory)[task]
    expected = [one.table() for one in getattr(weft.load(folder), call)([TEXTS[task]] * 3, **settings)]
    options = EngineOptions(str(folder), "float32", max_sequences=2)
    backend = partial(Fleet, replicas=2, address=None)
    name = {"translation": "translate"}.get(task, task)
    with running({"small": options}, backend=backend, patience=Patience(load=300)) as served:
        body = {"model": "small", "input": [TEXTS[task]] * 3, **settings}
        answer = served.post(f"/v1/tasks/{name}", body)
        assert answer.status_code == 200, answer.text
        for found, wanted in zip(answer.json()["results"], expected, strict=True):
            assert (
                found["label" if task == "sentiment" else "text"]
                == wanted["label" if task == "sentiment" else "text"]
            )
            assert found["score"] == pytest.approx(wanted["score"], abs=1e-4)
        refused = served.post("/v1/tasks/roles", {"model": "small", "input": "a", "predicate": "a"})
        assert refused.status_code == 400 and "\n" not in refused.json()["error"]["message"]


def test_adapters_are_given_at_the_start(cluster, long_checkpoint, tmp_path):
    fleet = Fleet(EngineOptions(str(long_checkpoint)), replicas=2, address=None)
    with pytest.raises(EngineFault, match="at the start"):
        asyncio.run(fleet.change_adapter("a", str(tmp_path)))


def test_a_model_that_cannot_load_is_one_sentence(tmp_path):
    command = [sys.executable, "-m", "weft", "serve", str(tmp_path), "--replicas", "2", "--port", "0"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert found.returncode != 0
    assert "config.json" in found.stderr and "Traceback" not in found.stderr
