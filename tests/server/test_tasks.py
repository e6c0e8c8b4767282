"""Tasks over HTTP: the records of Python, one or many, and every mistake a sentence."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from inline import Inline
from servers import Server, running, until
from tests import task_models
from tests.task_models import TEXTS

import weft
from weft.core.errors import CheckpointError, UsageError
from weft.server.engine import EngineOptions, Patience
from weft.server.keys import Keys
from weft.server.ledger import Ledger
from weft.server.limits import Limits
from weft.server.store import Store
from weft.server.tasks import TaskWorker


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return task_models.made(tmp_path_factory)


@pytest.fixture(scope="module")
def many(runs: dict[str, Path], checkpoint: Path) -> Iterator[Server]:
    """One server with a decoder and a model of every task."""
    named = {"tiny": checkpoint, **runs}
    options = {name: EngineOptions(str(folder), "float32", max_sequences=4) for name, folder in named.items()}
    with running(options) as server:
        yield server


def error(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    record: dict[str, Any] = answer.json()["error"]
    assert set(record) == {"message", "type", "param", "code"}
    assert record["message"].endswith((".", "?")) and "\n" not in record["message"]
    return record


JSON = {"content-type": "application/json"}


def close(found: Any, expected: Any) -> bool:
    """Equal, numbers nearly so: what is computed together differs in the last digits."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    return found == pytest.approx(expected, abs=1e-4) if isinstance(expected, float) else found == expected


def plain(result: Any) -> dict[str, Any]:
    if isinstance(result, list):
        return {"spans": [span.table() for span in result]}
    return result.table() if hasattr(result, "table") else {"embedding": result.tolist()}


BATCH = {
    "sentiment": [TEXTS["sentiment"], "讨厌 了", "我们 喜欢 the"],
    "entities": [TEXTS["entities"], "李雷 the 上海 了 😀 Ann"],
    "translation": [TEXTS["translation"], "4", "0 9 8 7 6 5"],
    "summary": [TEXTS["summary"], "1 2"],
}
TASKS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("classify", "sentiment", "classify", {}),
    ("sentiment", "sentiment", "analyze_sentiment", {}),
    ("entities", "entities", "find_entities", {}),
    ("embed", "entities", "embed", {}),
    ("translate", "translation", "translate", {"target_language": "zh", "alternatives": 2, "max_length": 12}),
    ("translate", "translation", "translate", {"target_language": "de"}),
    ("translate", "translation", "translate", {"target_language": "zh", "beams": 1}),
    ("translate", "translation", "translate", {"target_language": "zh", "glossary": {"1": "一"}, "beams": 3}),
    ("summarize", "summary", "summarize", {"max_length": 8, "beams": 2}),
]


@pytest.mark.parametrize(("task", "model", "call", "settings"), TASKS)
def test_single_and_batched_as_python(
    task: str,
    model: str,
    call: str,
    settings: dict[str, Any],
    many: Server,
    runs: dict[str, Path],
) -> None:
    expected = [plain(one) for one in getattr(weft.load(runs[model]), call)(BATCH[model], **settings)]
    whole = many.post(f"/v1/tasks/{task}", {"model": model, "input": BATCH[model], **settings}).json()
    assert (whole["object"], whole["task"], whole["model"]) == ("task", task, model)
    assert close(whole["results"], expected)
    usage = whole["usage"]
    assert usage["prompt_tokens"] > 0 and sum(usage.values()) == 2 * usage["total_tokens"]
    assert (usage["completion_tokens"] > 0) == (task in ("translate", "summarize"))
    for text, record in zip(BATCH[model], expected, strict=True):
        single = many.post(f"/v1/tasks/{task}", {"model": model, "input": text, **settings})
        assert close(single.json()["results"], [record])


def test_roles_by_word_and_by_place(many: Server, runs: dict[str, Path]) -> None:
    model = weft.load(runs["roles"])
    texts = [TEXTS["roles"], "Ann 喜欢 Rome 产品"]
    expected = [plain(model.label_roles(text, "喜欢")) for text in texts]
    assert [span["label"] for span in expected[0]["spans"]] == ["谁", "什么"]
    place = {"start": 3, "end": 5}
    for text, predicate, wanted in (
        (texts, "喜欢", expected),
        (texts, ["喜欢", {"start": 4, "end": 6}], expected),
        (texts[0], place, expected[:1]),
        ([texts[0]], [place], expected[:1]),
    ):
        answer = many.post("/v1/tasks/roles", {"model": "roles", "input": text, "predicate": predicate})
        assert close(answer.json()["results"], wanted)


def test_answers(many: Server, runs: dict[str, Path]) -> None:
    model = weft.load(runs["answers"])
    contexts = [TEXTS["context"], "真的李雷 在 北京 了"]
    ask = {"model": "answers", "question": TEXTS["question"]}
    expected = [model.answer(TEXTS["question"], context).table() for context in contexts]
    assert [record["text"] for record in expected] == ["小明", "李雷"]
    assert close(many.post("/v1/tasks/answer", {**ask, "context": contexts}).json()["results"], expected)
    one = many.post("/v1/tasks/answer", {**ask, "question": ["谁在", "在哪"], "context": contexts[0]})
    assert [record["text"] for record in one.json()["results"]] == ["小明", "上海"]
    none = many.post("/v1/tasks/answer", {**ask, "context": contexts[0], "least_score": 1})
    assert none.json()["results"][0]["label"] == "not found"
    # A context that is cut into windows, the answer in the last one.
    long = "了 " * 150 + contexts[0]
    found = many.post("/v1/tasks/answer", {**ask, "context": long}).json()["results"][0]
    assert close(found, model.answer(TEXTS["question"], long).table())


def test_places_are_code_points(many: Server) -> None:
    text = "😀 小明 the Rome 了"
    answer = many.post("/v1/tasks/entities", {"model": "entities", "input": text})
    assert "小明" in answer.text
    for span in answer.json()["results"][0]["spans"]:
        assert text[span["start"] : span["end"]] == span["text"]


def test_many_at_once_equal_one_by_one(many: Server) -> None:
    bodies = [
        {"model": "sentiment", "input": f"{word} 喜欢 {'了 ' * n}"} for n in range(8) for word in "真the"
    ]

    async def together() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=many.address, timeout=60) as http:
            return await asyncio.gather(*(http.post("/v1/tasks/sentiment", json=body) for body in bodies))

    answers = [answer.json()["results"] for answer in asyncio.run(together())]
    assert close(answers, [many.post("/v1/tasks/sentiment", body).json()["results"] for body in bodies])


def test_what_there_is_to_ask(many: Server) -> None:
    for model in many.models.all():
        assert many.post("/tokenize", {"model": model.name, "prompt": "a"}).status_code == 200
    listed = {task["id"]: task["models"] for task in many.get("/v1/tasks").json()["data"]}
    assert listed["sentiment"] == ["sentiment"] and listed["translate"] == ["translation"]
    assert listed["embed"] == ["sentiment", "entities", "roles", "answers"]
    assert len(listed) == 8
    models = {model["id"]: model for model in many.get("/v1/models").json()["data"]}
    assert models["tiny"]["tasks"] == [] and models["sentiment"]["max_model_len"] == 64
    assert models["answers"]["tasks"] == ["answer", "embed"]
    assert many.get("/health").status_code == 200
    assert many.get("/status").json()["models"]["summary"]["loaded"]


def test_vectors_of_an_encoder(many: Server, runs: dict[str, Path]) -> None:
    texts = ["今天", "the Rome"]
    expected = weft.load(runs["entities"]).embed(texts)
    body = {"model": "entities", "input": texts, "encoding_format": "base64"}
    found = many.post("/v1/embeddings", body).json()
    vectors = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in found["data"]]
    assert np.allclose(vectors, expected, atol=1e-5)
    told = error(many.post("/v1/embeddings", {"model": "translation", "input": "1"}))
    assert "not trained for embed" in told["message"]
    ranked = many.post("/v1/rerank", {"model": "entities", "query": "今天", "documents": ["the", "今天"]})
    assert ranked.json()["results"][0]["index"] == 1


def test_tokens_are_counted_as_encoders_read_them(runs: dict[str, Path], tmp_path: Path) -> None:
    """Also where the tokenizer puts nothing before a text, and the model reads an end of text there."""
    run = tmp_path / "run"
    shutil.copytree(runs["entities"], run)
    for file in run.rglob("tokenizer.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"post_processor": None}))
    with running({"run": EngineOptions(str(run), "float32")}, backend=Inline) as server:
        counted = server.post("/tokenize", {"model": "run", "prompt": "今天"}).json()
        bare = {"model": "run", "prompt": "今天", "add_special_tokens": False}
        read = server.post("/v1/embeddings", {"model": "run", "input": "今天"}).json()
        assert counted["tokens"][1:] == server.post("/tokenize", bare).json()["tokens"]
        assert counted["count"] == read["usage"]["prompt_tokens"]


def test_each_kind_says_what_it_cannot_do(many: Server) -> None:
    for model, kind in (("sentiment", "encoder"), ("translation", "encoder-decoder")):
        for path, ask in (
            ("/v1/completions", {"prompt": "a"}),
            ("/v1/completions", {"prompt": "a", "stream": True}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ):
            told = error(many.post(path, {"model": model, **ask}))
            assert f"is an {kind}, which continues no text" in told["message"] and told["param"] == "model"
    for model, task, words in (
        ("tiny", "translate", "This Qwen3ForCausalLM was not trained for translate"),
        ("sentiment", "entities", "weft train objective.name=tag"),
        ("entities", "sentiment", "objective.task=sentiment"),
        ("translation", "summarize", "objective.task=summary"),
        ("summary", "embed", "not trained for embed"),
    ):
        told = error(many.post(f"/v1/tasks/{task}", {"model": model, "input": "好"}))
        assert words in told["message"]
    assert many.post("/v1/completions", {"model": "tiny", "prompt": "a"}).status_code == 200


def test_unknown_models_and_tasks(many: Server) -> None:
    told = error(many.post("/v1/tasks/sentiment", {"model": "sentimen", "input": "好"}), 404)
    assert "did you mean 'sentiment'?" in told["message"]
    assert "did you mean 'translate'?" in error(many.post("/v1/tasks/translat", {}), 404)["message"]
    assert many.get("/v1/tasks/translate").status_code == 405


@pytest.mark.parametrize(
    ("task", "changes", "words"),
    [
        ("sentiment", {"input": ""}, "text 0 is empty"),
        ("sentiment", {"input": ["好", " \n"]}, "text 1 is empty"),
        ("sentiment", {"input": []}, "give 1 to 32 of them, not 0"),
        ("sentiment", {"input": ["好"] * 33}, "not 33"),
        ("sentiment", {"input": 7}, "input"),
        ("sentiment", {"input": [7]}, "input"),
        ("sentiment", {"input": None}, "input"),
        ("sentiment", {"input": {"text": "好"}}, "input"),
        ("sentiment", {"input": "好 " * 200}, "this model reads at most 64"),
        ("sentiment", {"input": ["好", "好 " * 200]}, "Text 1 has"),
        ("sentiment", {"input": "好\ud800"}, "lone surrogates"),
        ("sentiment", {"beams": 2}, "The field beams is not supported"),
        ("sentiment", {"inputs": "好"}, "did you mean input?"),
        ("sentiment", {"user": "x" * 513}, "user"),
        ("translate", {"target_language": "fr"}, "writes de and zh, not fr"),
        ("translate", {"target_language": None}, "Say target_language"),
        ("translate", {"target_language": 7}, "target_language"),
        ("translate", {"alternatives": 0}, "alternatives"),
        ("translate", {"alternatives": 17}, "alternatives"),
        ("translate", {"beams": 10**9}, "beams"),
        ("translate", {"beams": True}, "beams"),
        ("translate", {"max_length": 513}, "max_length"),
        ("translate", {"glossary": {"": "x"}}, "cannot be empty"),
        ("translate", {"glossary": {"x": 1}}, "glossary"),
        ("translate", {"glossary": {str(n): "x" for n in range(257)}}, "glossary"),
        ("translate", {"input": "1 " * 2000}, "at most 1024"),
        ("summarize", {"max_length": 0}, "max_length"),
        ("roles", {"predicate": None}, "predicate"),
        ("roles", {"predicate": "不在"}, "occurs not in the text"),
        ("roles", {"predicate": ["喜欢", "喜欢"]}, "one for each of the 1 texts, not 2"),
        ("roles", {"predicate": []}, "not 0"),
        ("roles", {"predicate": {"start": 90, "end": 99}}, "lies outside the text"),
        ("roles", {"predicate": {"start": 0}}, "predicate"),
        ("answer", {"question": "谁" * 100}, "reads at most 64"),
        ("answer", {"question": "谁在" * 31}, "The question alone has 64 tokens"),
        ("answer", {"context": "了 " * 20_000}, "this model reads at most"),
        ("answer", {"question": ["谁", "在"], "context": ["a", "b", "c"]}, "not 3"),
        ("answer", {"least_score": 1.5}, "least_score"),
        ("answer", {"context": ""}, "text 0 is empty"),
        ("answer", {"input": "好"}, "The field input is not supported"),
    ],
)
def test_wrong_inputs_are_one_sentence(task: str, changes: dict[str, Any], words: str, many: Server) -> None:
    whole: dict[str, dict[str, Any]] = {
        "sentiment": {"model": "sentiment", "input": "好"},
        "translate": {"model": "translation", "input": "1 2", "target_language": "zh"},
        "summarize": {"model": "summary", "input": "1 2"},
        "roles": {"model": "roles", "input": TEXTS["roles"], "predicate": "喜欢"},
        "answer": {"model": "answers", "question": TEXTS["question"], "context": TEXTS["context"]},
    }
    # ASCII, because a client may escape half of a character, and httpx may not.
    content = json.dumps({**whole[task], **changes})
    answer = many.http.post(f"/v1/tasks/{task}", content=content, headers=JSON)
    assert words in error(answer)["message"]


def test_a_body_that_is_no_object(many: Server) -> None:
    for content in (b"", b"[]", b"{", b'"text"', b"\xff"):
        error(many.http.post("/v1/tasks/sentiment", content=content, headers=JSON))


@pytest.fixture(scope="module")
def small(
    runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Any, Any]]:
    """A server with keys and hardly any places: (server, keys by name, store)."""
    store = Store(str(tmp_path_factory.mktemp("store") / "weft.db"))
    keys, ledger = Keys(store), Ledger(store)
    texts = {name: {"authorization": f"Bearer {keys.add(name, scope)[1]}"} for name, scope in SCOPES}
    texts["slow"] = {"authorization": f"Bearer {keys.add('slow', 'use', requests_per_minute=1)[1]}"}
    options = {"sentiment": EngineOptions(str(runs["sentiment"]), "float32", max_sequences=2)}
    with running(options, Limits(waiting=1), keys, ledger, patience=Patience(backoff=0.05)) as server:
        yield server, texts, store
    ledger.close()


SCOPES = (("ann", "use"), ("root", "admin"))
GOOD = {"input": TEXTS["sentiment"]}


def test_keys_scopes_and_what_is_written_down(small: tuple[Server, Any, Any]) -> None:
    server, keys, store = small
    assert error(server.post("/v1/tasks/sentiment", GOOD), 401)["code"] == "invalid_api_key"
    assert server.get("/v1/tasks").status_code == 401
    answer = server.post("/v1/tasks/sentiment", {**GOOD, "user": "kim"}, headers=keys["ann"])
    assert answer.json()["results"][0]["label"] == "正面"
    assert server.get("/v1/tasks", headers=keys["ann"]).json()["data"][0]["id"] == "classify"
    assert server.post("/v1/tasks/sentiment", GOOD, headers=keys["slow"]).status_code == 200
    told = error(server.post("/v1/tasks/sentiment", GOOD, headers=keys["slow"]), 429)
    assert told["code"] == "rate_limit_exceeded"
    query = "SELECT end_user, model, status, prompt_tokens FROM requests WHERE route = '/v1/tasks/sentiment'"
    until(lambda: ("kim", "sentiment", 200, answer.json()["usage"]["prompt_tokens"]) in store.read(query))
    metrics = server.get("/metrics", headers=keys["root"]).text
    assert 'weft_requests_total{model="sentiment",route="/v1/tasks/sentiment",status="200"}' in metrics


def test_a_full_queue_is_429(small: tuple[Server, Any, Any]) -> None:
    server, keys, _ = small
    # Waiting would not help here.
    answer = server.post("/v1/tasks/sentiment", {"input": ["好"] * 4}, headers=keys["ann"])
    assert error(answer, 400)["param"] == "input"
    # One key may hold as many as the model works on at once, and another is let in beside it.
    with held(server, keys["ann"], GOOD["input"], TEXTS["sentiment"]):
        until(lambda: server.engine().active == 2)
        answer = server.post("/v1/tasks/sentiment", GOOD, headers=keys["ann"])
        assert error(answer, 429)["code"] == "queue_full"
        assert int(answer.headers["retry-after"]) >= 1
    assert server.post("/v1/tasks/sentiment", GOOD, headers=keys["ann"]).status_code == 200


class held:
    """Requests that an engine which stands still cannot answer until the block ends."""

    def __init__(self, server: Server, headers: Any, *texts: str, kill: bool = False):
        self.server, self.headers, self.texts, self.kill = server, headers, texts, kill
        self.answers: list[httpx.Response] = []

    def __enter__(self) -> list[httpx.Response]:
        os.kill(self.server.engine().pid or 0, signal.SIGSTOP)
        self.threads = [threading.Thread(target=self._ask, args=(text,)) for text in self.texts]
        for thread in self.threads:
            thread.start()
        return self.answers

    def __exit__(self, *error: Any) -> None:
        os.kill(self.server.engine().pid or 0, signal.SIGKILL if self.kill else signal.SIGCONT)
        for thread in self.threads:
            thread.join()

    def _ask(self, text: str) -> None:
        url = f"{self.server.address}/v1/tasks/sentiment"
        self.answers.append(httpx.post(url, json={"input": text}, headers=self.headers, timeout=60))


def test_a_killed_engine_hits_its_requests_and_comes_back(small: tuple[Server, Any, Any]) -> None:
    server, keys, _ = small
    before = server.engine().restarts
    with held(server, keys["ann"], TEXTS["sentiment"], kill=True) as answers:
        until(lambda: server.engine().active == 1)
    assert error(answers[0], 503)["message"].startswith("The engine stopped")
    again = server.post("/v1/tasks/sentiment", GOOD, headers=keys["ann"])
    assert again.json()["results"][0]["label"] == "正面"
    assert server.engine().restarts == before + 1


def test_who_vanishes_is_not_waited_for(small: tuple[Server, Any, Any]) -> None:
    server, keys, store = small
    with held(server, keys["ann"]):
        with pytest.raises(httpx.ReadTimeout):
            server.post("/v1/tasks/sentiment", GOOD, headers=keys["root"], timeout=0.3)
        until(lambda: server.engine().active == 0)
        query = "SELECT COUNT(*) FROM requests WHERE route = '/v1/tasks/sentiment' AND status = 499"
        until(lambda: store.read(query)[0][0] == 1)
    assert server.post("/v1/tasks/sentiment", GOOD, headers=keys["ann"]).status_code == 200
    until(lambda: server.engine().stats["waiting"] == 0)


def asked(worker: TaskWorker, text: str, owner: str = "", task: str = "sentiment") -> Any:
    return worker.add({"op": "task", "task": task, "item": {"text": text}, "settings": {}, "owner": owner})


def test_one_wrong_text_does_not_hurt_those_beside_it(runs: dict[str, Path]) -> None:
    worker = TaskWorker(weft.load(runs["sentiment"]), 8)
    good, long, broken, last = (asked(worker, text) for text in ("喜欢 了", "好 " * 200, "\ud800", "讨厌 了"))
    assert worker.step() == [good, long, broken, last]
    assert [worker.news(one)["record"]["label"] for one in (good, last)] == ["正面", "负面"]
    for wrong in (long, broken):
        with pytest.raises(UsageError):
            worker.news(wrong)


def test_keys_take_turns_and_alike_go_together(runs: dict[str, Path]) -> None:
    worker = TaskWorker(weft.load(runs["sentiment"]), 2)
    first = [asked(worker, "喜欢", "ann") for _ in range(4)]
    other = asked(worker, "讨厌", "bob", task="classify")
    gone = first.pop(1)
    worker.abort(gone)
    assert worker.news(gone)["finish"] == "abort"
    assert worker.stats()["waiting"] == 4
    assert [worker.step() for _ in range(2)] == [first[:2], [other, *first[2:]]]
    assert [worker.news(one)["record"]["label"] for one in (*first, other)] == ["正面"] * 3 + ["负面"]
    with pytest.raises(UsageError, match="continues no text"):
        worker.add({"op": "add"})
    with pytest.raises(UsageError, match="not trained for translate"):
        asked(worker, "a", task="translate")
    with pytest.raises(UsageError, match="Adapters are for decoders"):
        worker.change_adapter("a", "b")


def test_damaged_weights_are_told(runs: dict[str, Path]) -> None:
    model = weft.load(runs["sentiment"])
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    worker = TaskWorker(model, 2)
    request = asked(worker, "喜欢")
    worker.step()
    with pytest.raises(CheckpointError, match="NaN"):
        worker.news(request)


def test_vectors_are_read_with_other_texts(runs: dict[str, Path]) -> None:
    model = weft.load(runs["sentiment"])
    worker = TaskWorker(model, 8)
    documents = [model.tokenizer.encode(text) for text in ("很好 的 书", "bad", "我们 喜欢 了 今天")]
    vectors = [worker.add({"op": "embed", "tokens": one, "owner": "a"}) for one in documents]
    label = asked(worker, "很好")
    wrong = worker.add({"op": "embed", "tokens": [5] * 10_000, "owner": "a"})
    done: list[Any] = []
    while len(done) < 5:
        done += worker.step()
    found = [np.frombuffer(base64.b64decode(worker.news(one)["vector"]), "<f4") for one in vectors]
    np.testing.assert_allclose(found, model.vectors(documents), atol=1e-6)
    assert worker.news(label)["record"]["label"] in model.labels
    with pytest.raises(UsageError, match="tokens and this model reads"):
        worker.news(wrong)
