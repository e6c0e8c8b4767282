"""The engine's process: killed, stuck, damaged, unloaded; the server stays and says what happened."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from servers import ENDLESS, running, until

import weft
from weft.checkpoint.huggingface import save_model
from weft.core.errors import CheckpointError, ResourceError, UsageError
from weft.engine import LLM, SamplingParams
from weft.engine.params import Grammar
from weft.server.engine import Engine, EngineOptions, Patience
from weft.server.errors import ApiError
from weft.server.ledger import Ledger
from weft.server.limits import Limits
from weft.server.models import Models
from weft.server.seam import LlmWorker
from weft.server.served import Served
from weft.server.store import Store
from weft.server.wire import LARGEST, Unpacker, pack
from weft.tokenizer import Tokenizer


def test_messages_survive_any_cut():
    sent = [{"op": "a", "text": "今\ud800天"}, {"n": [1, 2.5, None]}, {}]
    stream = b"".join(map(pack, sent))
    for size in (1, 2, 3, 7, len(stream)):
        unpacker = Unpacker()
        got = [m for i in range(0, len(stream), size) for m in unpacker.feed(stream[i : i + size])]
        assert got == sent


@pytest.mark.parametrize("damage", [(LARGEST + 1).to_bytes(4, "big"), b"\0\0\0\2[]", b"\0\0\0\2{["])
def test_a_damaged_stream_is_an_error(damage):
    with pytest.raises(ValueError):
        list(Unpacker().feed(damage))


def test_a_killed_engine_hits_its_requests_and_not_the_next(endless):
    before = endless.engine().restarts
    whole: list[httpx.Response] = []
    thread = threading.Thread(
        target=lambda: whole.append(httpx.post(f"{endless.address}/v1/completions", json=ENDLESS, timeout=60))
    )
    thread.start()
    with endless.http.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as streamed:
        lines = streamed.iter_lines()
        next(lines)
        until(lambda: endless.engine().active == 2)
        os.kill(endless.engine().pid, signal.SIGKILL)
        told = [line for line in lines if line]
    thread.join()
    assert "server_error" in told[-1] and not any("[DONE]" in line for line in told)
    assert whole[0].status_code == 503
    assert whole[0].json()["error"]["message"].startswith("The engine stopped")
    # A request that comes while it starts again waits for it.
    assert endless.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status_code == 200
    assert endless.engine().restarts == before + 1
    assert endless.get("/health").status_code == 200
    until(endless.idle)


def test_an_engine_that_keeps_dying_makes_nobody_wait(checkpoint):
    options = EngineOptions(str(checkpoint), "float32", max_sequences=2)
    with running({"tiny": options}, patience=Patience(backoff=60)) as server:
        until(lambda: server.get("/health").status_code == 200)
        os.kill(server.engine().pid, signal.SIGKILL)
        until(lambda: not server.engine().up)
        # The next start is a minute away; who asks now, and who waits already, is told.
        answer = server.post("/v1/completions", {"prompt": "a", "max_tokens": 2})
        assert answer.status_code == 503
        assert "left alone for a while" in answer.json()["error"]["message"]


def test_an_engine_that_is_unloaded_while_it_is_left_alone_answers_when_it_is_loaded(checkpoint):
    options = EngineOptions(str(checkpoint), "float32", max_sequences=2)
    with running({"tiny": options}, patience=Patience(backoff=60)) as server:
        ask = {"prompt": "a", "max_tokens": 2}
        os.kill(server.engine().pid, signal.SIGKILL)
        until(lambda: not server.engine().up)
        assert "left alone for a while" in server.post("/v1/completions", ask).text
        assert server.post("/admin/models/tiny/unload", None).json()["loaded"] is False
        # The next start is one like the first: it waits for no pause, and who asks waits for it.
        assert server.post("/v1/completions", ask).status_code == 200


def test_an_engine_that_is_unloaded_while_it_dies_stays_gone(checkpoint, monkeypatch):
    wait = asyncio.subprocess.Process.wait

    async def slow(process):
        await asyncio.sleep(1)
        return await wait(process)

    monkeypatch.setattr(asyncio.subprocess.Process, "wait", slow)
    options = EngineOptions(str(checkpoint), "float32")
    with running({"tiny": options}, patience=Patience(backoff=0.05)) as server:
        os.kill(server.engine().pid, signal.SIGKILL)
        until(lambda: not server.engine().up)
        assert server.post("/admin/models/tiny/unload", None).json()["loaded"] is False
        assert server.engine().pid is None and not server.engine().up
        assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status_code == 200


def test_an_engine_starts_again_whatever_number_its_socket_has(checkpoint):
    """A server with a thousand connections has no small numbers left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with running(
        {"tiny": EngineOptions(str(checkpoint), "float32")}, patience=Patience(backoff=0.05)
    ) as server:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
        with contextlib.ExitStack() as held:
            for _ in range(1100):
                held.enter_context(Path(os.devnull).open("rb"))
            os.kill(server.engine().pid, signal.SIGKILL)
            until(lambda: server.engine().restarts)
            assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status_code == 200
            assert server.engine().restarts == 1


def test_no_module_of_the_folder_it_was_started_in_is_run(checkpoint, tmp_path, monkeypatch):
    for name in ("select", "json", "tokenizers", "weft"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('foreign code')")
    monkeypatch.chdir(tmp_path)
    with running({"tiny": EngineOptions(str(checkpoint), "float32")}) as server:
        body = {"prompt": "a", "max_tokens": 2, "response_format": {"type": "regex", "regex": "a+"}}
        assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status_code == 200
        messages = [{"role": "user", "content": "a"}]
        assert server.post("/v1/chat/completions", {**body, "messages": messages}).status_code == 400
        del body["prompt"]
        assert server.post("/v1/chat/completions", {**body, "messages": messages}).status_code == 200


def test_no_more_are_loaded_than_may_be_however_they_are_asked_for(checkpoint):
    options = {name: EngineOptions(str(checkpoint), "float32") for name in "abcd"}
    with running(options, most=1) as server, ThreadPoolExecutor() as pool:
        ask = [{"model": name, "prompt": "x", "max_tokens": 1} for name in "bcd"]
        answers = list(pool.map(lambda body: server.post("/v1/completions", body), ask))
        assert {answer.status_code for answer in answers} <= {200, 503}
        assert any(answer.status_code == 200 for answer in answers)
        assert sum(server.engine(name).pid is not None for name in "abcd") == 1


def test_health_stays_bad_while_an_engine_cannot_come_back(checkpoint, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    with running({"m": EngineOptions(str(folder), "float32")}, patience=Patience(backoff=0.05)) as server:
        folder.rename(tmp_path / "away")
        os.kill(server.engine().pid, signal.SIGKILL)
        until(lambda: server.engine().failure is not None)
        ask = {"prompt": "a", "max_tokens": 2}
        for _ in range(2):
            assert server.get("/health").status_code == 503
            assert "cannot be loaded" in server.post("/v1/completions", ask).text
        assert server.get("/health").status_code == 503
        (tmp_path / "away").rename(folder)
        assert server.post("/v1/completions", ask).status_code == 200
        assert server.get("/health").status_code == 200


@pytest.mark.parametrize("asked", [False, True])
def test_a_model_that_was_lost_comes_back_though_nobody_asks(checkpoint, tmp_path, asked):
    """Behind a balancer that reads /health no request comes while it is bad."""
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    patience = Patience(backoff=0.05, lost=0.3)
    with running({"m": EngineOptions(str(folder), "float32")}, patience=patience) as server:
        folder.rename(tmp_path / "away")
        os.kill(server.engine().pid, signal.SIGKILL)
        until(lambda: server.engine().failure is not None)
        if asked:
            assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status_code == 503
        assert server.get("/health").status_code == 503
        (tmp_path / "away").rename(folder)
        until(lambda: server.get("/health").status_code == 200)
        assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status_code == 200


def test_a_lost_model_takes_no_place_from_others(checkpoint, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    options = {"m": EngineOptions(str(folder), "float32"), "n": EngineOptions(str(checkpoint), "float32")}
    with running(options, patience=Patience(backoff=0.05, lost=0.1), most=1) as server:
        folder.rename(tmp_path / "away")
        os.kill(server.engine().pid, signal.SIGKILL)
        until(lambda: server.engine().failure is not None)
        ask = {"model": "n", "prompt": "a", "max_tokens": 2}
        until(lambda: server.post("/v1/completions", ask).status_code == 200)
        pid = server.engine("n").pid
        assert server.get("/health").status_code == 200
        time.sleep(1)
        assert server.engine("n").pid == pid


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOMEM, "Cannot allocate memory"), RuntimeError("can't start new thread")]
)
def test_an_engine_that_cannot_be_started_for_the_moment_is_tried_again(checkpoint, monkeypatch, failure):
    start, left = asyncio.create_subprocess_exec, [2]

    async def fails(*arguments, **how):
        left[0] -= 1
        if left[0] >= 0:
            raise failure
        return await start(*arguments, **how)

    options = {"tiny": EngineOptions(str(checkpoint), "float32")}
    with running(options, patience=Patience(backoff=0.05)) as server:
        monkeypatch.setattr(asyncio, "create_subprocess_exec", fails)
        os.kill(server.engine().pid, signal.SIGKILL)
        until(lambda: server.engine().restarts == 3 and server.engine().up)
        assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status_code == 200
    left[0] = 1
    with pytest.raises(ResourceError, match=getattr(failure, "strerror", None) or str(failure)):
        asyncio.run(Models({"x": EngineOptions(str(checkpoint))}).start())


def test_who_waits_while_a_model_cannot_be_loaded_loads_it_no_more(checkpoint, tmp_path, monkeypatch):
    load, count = Served.load, [0]

    async def slow(served):
        count[0] += served.name == "gone"
        await asyncio.sleep(0.1)
        await load(served)

    async def run():
        models = Models({"gone": EngineOptions(str(tmp_path))})
        asked = [models.get("gone") for _ in range(5)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(each, ApiError) and each.status == 503 for each in found)
        assert count == [1]
        with pytest.raises(ApiError):
            await models.get("gone")
        assert count == [2]
        await models.stop()

    monkeypatch.setattr(Served, "load", slow)
    asyncio.run(run())


def test_an_engine_that_does_not_end_to_load_is_killed(monkeypatch, tmp_path):
    monkeypatch.setattr(EngineOptions, "command", [sys.executable, "-c", "import time; time.sleep(600)"])

    async def run():
        engine = Engine(EngineOptions(str(tmp_path)), Patience(load=0.5))
        engine.start()
        while engine.pid is None:
            await asyncio.sleep(0.01)
        while engine.failure is None:
            await asyncio.sleep(0.05)
        assert "ended before" in str(engine.failure) and engine.pid is None
        await engine.stop()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_an_engine_is_started_again_however_often_it_has_died(monkeypatch, tmp_path):
    async def dies(engine):
        await asyncio.sleep(0)

    monkeypatch.setattr(Engine, "_one_life", dies)

    async def run():
        engine = Engine(EngineOptions(str(tmp_path)), Patience(backoff=0.0))
        engine.facts = {"context": 128}
        engine.start()
        while engine.restarts < 1100:
            assert not engine._keeper.done()
            await asyncio.sleep(0)
        await engine.stop()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_first_model_that_does_not_end_to_load_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(EngineOptions, "command", [sys.executable, "-c", "import time; time.sleep(600)"])

    async def run():
        models = Models({"big": EngineOptions(str(tmp_path))}, patience=Patience(load=0.5))
        try:
            with pytest.raises(ResourceError, match="'big' has not loaded within"):
                await models.start()
        finally:
            await models.stop()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_another_interpreter_finds_this_package_and_nothing_beside_it(tmp_path, monkeypatch):
    """What is installed beside it is for this interpreter: another one has its own torch, say."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    (theirs / "vllm").mkdir(parents=True)
    ours.mkdir()
    (ours / "weft").symlink_to(Path(weft.__file__).parent)
    for folder in (ours, theirs):
        (folder / "shared.py").write_text(f"WHOSE = {folder.name!r}")
    said = "raise RuntimeError(f\"{shared.WHOSE} and {sys.modules['weft'].__file__}\")"
    (theirs / "vllm" / "__init__.py").write_text(f"import shared, sys\ndef LLM(**_): {said}")
    monkeypatch.setattr("weft.server.engine._PACKAGE", str(ours))
    monkeypatch.setenv("PYTHONPATH", str(theirs))

    async def run():
        engine = Engine(EngineOptions("x", kind="vllm", python=sys.executable))
        engine.start()
        with pytest.raises(CheckpointError, match=f"vLLM cannot load x: theirs and {ours}/weft/"):
            await engine.ready()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_who_stops_an_engine_before_it_was_spoken_to_leaves_no_process(monkeypatch, tmp_path):
    monkeypatch.setattr(EngineOptions, "command", [sys.executable, "-c", "import time; time.sleep(600)"])
    monkeypatch.setattr("weft.server.engine._GRACE", 0.1)

    async def run():
        async def never(sock):
            with sock:
                await asyncio.sleep(600)

        monkeypatch.setattr(asyncio, "open_unix_connection", never)
        engine = Engine(EngineOptions(str(tmp_path)))
        engine.start()
        while engine.pid is None:
            await asyncio.sleep(0.01)
        pid = engine.pid
        await engine.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_an_engine_ends_with_all_that_it_started(monkeypatch, tmp_path):
    script = "import os, sys, time\nif child := os.fork():\n    print(child, file=open(sys.argv[1], 'w'))\n"
    script += "else:\n    time.sleep(600)"
    started = tmp_path / "child"
    monkeypatch.setattr(EngineOptions, "command", [sys.executable, "-c", script, str(started)])

    async def run():
        engine = Engine(EngineOptions(str(tmp_path)))
        engine.start()
        with pytest.raises(ResourceError, match="ended before"):
            await engine.ready()
        await engine.stop()
        status = Path(f"/proc/{started.read_text().strip()}/status")
        while status.exists() and "State:\tZ" not in status.read_text():
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 30))


def test_what_a_terminal_sends_to_the_server_is_not_for_engines(monkeypatch, tmp_path):
    """One that is still importing its libraries would end with the traceback of a Ctrl-C."""
    monkeypatch.setattr(EngineOptions, "command", [sys.executable, "-c", "import time; time.sleep(600)"])

    async def run():
        engine = Engine(EngineOptions(str(tmp_path)))
        engine.start()
        while engine.pid is None:
            await asyncio.sleep(0.01)
        assert os.getpgid(engine.pid) != os.getpgrp()
        os.kill(engine.pid, signal.SIGKILL)
        await engine.stop()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_an_engine_that_is_stuck_is_told_by_health_and_replaced(long_checkpoint):
    options = EngineOptions(str(long_checkpoint), "float32", max_sequences=2)
    patience = Patience(stall=2, backoff=0.05)
    with running({"tiny": options}, patience=patience) as server:
        answers: list[httpx.Response] = []
        ask = {**ENDLESS, "max_tokens": 7000}
        thread = threading.Thread(
            target=lambda: answers.append(
                httpx.post(f"{server.address}/v1/completions", json=ask, timeout=60)
            )
        )
        thread.start()
        until(lambda: server.engine().active == 1)
        os.kill(server.engine().pid, signal.SIGSTOP)
        until(lambda: server.get("/health").status_code == 503)
        thread.join()
        assert answers[0].status_code == 503
        until(lambda: server.get("/health").status_code == 200)
        assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status_code == 200


def test_weights_that_give_nan_are_an_error_of_the_request(tmp_path, tiny_decoder, tiny_tokenizer):
    model = tiny_decoder()
    model.norm.weight.fill_(np.nan)
    save_model(tmp_path / "m", model, tiny_tokenizer)
    with running({"m": EngineOptions(str(tmp_path / "m"), "float32")}) as server:
        answer = server.post("/v1/completions", {"prompt": "a"})
        assert answer.status_code == 500
        assert "NaN" in answer.json()["error"]["message"]
        streamed = server.post("/v1/completions", {"prompt": "a", "stream": True})
        assert "server_error" in streamed.text and "[DONE]" not in streamed.text
        assert server.engine().restarts == 0
        until(server.idle)


def test_scores_that_are_not_numbers_are_told_to_their_request_alone(tiny_decoder, tiny_tokenizer):
    model = tiny_decoder(tie_word_embeddings=False)
    model.embedding.weight[500] = np.nan
    worker = LlmWorker(LLM(model, tiny_tokenizer))
    params = {"max_tokens": 2, "ignore_eos": True, "seed": 1}
    good, bad = (
        worker.add({"op": "add", "tokens": ids, "params": params, "owner": ""}) for ids in ([1], [500])
    )
    assert set(worker.step()) == {good, bad}
    assert worker.news(good)["tokens"] == 1
    with pytest.raises(CheckpointError, match="NaN"):
        worker.news(bad)
    assert worker.step() == [good] and worker.news(good)["finish"] == "length"
    assert worker.stats()["free_blocks"] == worker.stats()["total_blocks"]


def test_an_engine_that_was_warmed_is_as_it_was(tiny_decoder, tiny_tokenizer):
    """Its tables of grammars are there, nothing is held, and answers are the same."""
    asked = SamplingParams(max_tokens=8, seed=1, temperature=1.5, grammar=Grammar("regex", "[a-z]+"))
    expected = LLM(tiny_decoder(), tiny_tokenizer).generate([[5, 6]], asked)
    llm = LLM(tiny_decoder(), tiny_tokenizer)
    LlmWorker(llm).warm()
    stats = llm.stats()
    assert (stats.running, stats.waiting, stats.prefix_hits) == (0, 0, 0)
    assert stats.free_blocks == stats.total_blocks
    assert "_words" in vars(llm._requests._grammars)
    assert llm.generate([[5, 6]], asked) == expected


def test_a_model_whose_tokenizer_knows_no_grammars_is_served_without(tiny_decoder, tiny_tokenizer):
    """The compiler cannot read a decoder that is a bare Metaspace, as converters of SentencePiece write."""
    table = json.loads(tiny_tokenizer.to_json())
    table["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    llm = LLM(tiny_decoder(), Tokenizer(json.dumps(table)))
    LlmWorker(llm).warm()
    with pytest.raises(UsageError, match="cannot read this model's tokenizer"):
        llm.generate([[5]], SamplingParams(grammar=Grammar("json_object")))
    assert llm.generate([[5]], SamplingParams(max_tokens=2, ignore_eos=True))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_first_grammar_brings_no_library_into_memory(checkpoint):
    def file_bytes(pid):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile"))

    with running({"tiny": EngineOptions(str(checkpoint), "float32", max_sequences=4)}) as server:
        until(lambda: server.get("/health").status_code == 200)
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
        assert server.post("/v1/chat/completions", body).status_code == 200
        before = file_bytes(server.engine().pid)
        body["response_format"] = {"type": "json_object"}
        assert server.post("/v1/chat/completions", body).status_code == 200
        assert file_bytes(server.engine().pid) - before < 2**20


def test_a_checkpoint_that_is_damaged_is_one_sentence(tmp_path):
    async def start() -> None:
        models = Models({"x": EngineOptions(str(tmp_path))})
        try:
            await models.start()
        finally:
            await models.stop()

    with pytest.raises(CheckpointError, match=r"\.$"):
        asyncio.run(start())


def test_a_folder_that_the_system_refuses_is_a_sentence_and_hides_no_other(checkpoint, capfd):
    """A name that is too long is refused to everybody, a folder without permission not to root."""
    options = {
        "tiny": EngineOptions(str(checkpoint), "float32"),
        "shut": EngineOptions("a" * 300),
    }
    with running(options) as server:
        listed = server.get("/v1/models").json()["data"]
        assert [(model["id"], model["kind"]) for model in listed] == [("tiny", "decoder"), ("shut", None)]
        refused = server.post("/v1/completions", {"model": "shut", "prompt": "a"})
        assert refused.status_code == 503
        assert refused.json()["error"]["message"].endswith("aaa: File name too long.")
    assert "Traceback" not in capfd.readouterr().err


def test_several_models_load_on_demand(checkpoint, tmp_path):
    options = {
        "first": EngineOptions(str(checkpoint), "float32"),
        "第二": EngineOptions(str(checkpoint), "float32"),
        "gone": EngineOptions(str(tmp_path / "gone")),
    }
    with running(options, most=1) as server:
        listed = server.get("/v1/models").json()["data"]
        assert [(model["id"], model["loaded"]) for model in listed] == [
            ("first", True),
            ("第二", False),
            ("gone", False),
        ]
        body = {"model": "第二", "prompt": "今天", "max_tokens": 3}
        assert server.post("/v1/completions", body).json()["model"] == "第二"
        # Only one may be loaded, so the other had to go.
        assert server.engine("first").pid is None
        missing = server.post("/v1/completions", {"model": "gone", "prompt": "a"})
        assert missing.status_code == 503 and "cannot be loaded" in missing.json()["error"]["message"]
        assert server.get("/health").status_code == 200
        # The default comes back when it is asked for.
        assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).json()["model"] == "first"
        assert server.post("/admin/models/first/unload", None).json()["loaded"] is False


def test_a_model_that_nobody_asks_for_is_unloaded(checkpoint):
    with running({"tiny": EngineOptions(str(checkpoint), "float32")}, idle_seconds=0.5) as server:
        until(lambda: server.engine().pid is None)
        assert server.get("/health").status_code == 200
        assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status_code == 200


def test_a_server_that_dies_takes_its_engine_with_it(checkpoint):
    process = subprocess.Popen(
        [sys.executable, "-m", "weft", "serve", str(checkpoint), "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    ready = process.stderr.readline()
    assert " is served on " in ready
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.communicate()
    assert children
    until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def test_one_thousand_connections_at_once(checkpoint, tmp_path):
    """The queue is bounded: everybody gets an answer, some of them 429; those inside get the one that they
    would get alone, all of it is written down, and nothing is left."""
    options = EngineOptions(str(checkpoint), "float32", max_sequences=8)
    store = Store(str(tmp_path / "weft.db"))
    ledger = Ledger(store)
    with running({"tiny": options}, Limits(waiting=32), None, ledger) as server:
        ask = {"prompt": [5], "max_tokens": 4, "temperature": 0}
        alone = server.post("/v1/completions", ask).json()["choices"]
        body = json.dumps(ask).encode()
        request = (
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(1000)]
        for connection in sockets:
            connection.sendall(request)
        statuses = []
        for connection in sockets:
            connection.settimeout(60)
            with connection, connection.makefile("rb") as stream:
                head, _, content = stream.read().partition(b"\r\n\r\n")
            statuses.append(int(head.split(b" ", 2)[1]))
            answer = json.loads(content)
            if statuses[-1] == 200:
                assert answer["choices"] == alone
            else:
                assert answer["error"]["code"] == "queue_full"
        assert set(statuses) <= {200, 429} and statuses.count(200) >= 40, statuses
        until(server.idle)
        assert server.get("/health").status_code == 200
    ledger.close()
    written = store.read("SELECT status FROM requests")
    assert sorted(status for (status,) in written) == sorted([200, *statuses]) and ledger.lost == 0
