"""What a well-behaved client gets."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from weft.server import long_list


def events(text: str) -> list:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_models(client):
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert listed["data"][0]["id"] == "tiny"
    assert listed["data"][0]["max_model_len"] == 128
    assert client.get("/v1/models/tiny").json() == listed["data"][0]
    assert client.get("/v1/models/other").status_code == 404


def test_health(client):
    answer = client.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["/health", "/", "/page/app.js"])
def test_head_is_get_without_a_body(client, path):
    got, head = client.get(path), client.http.head(path)
    assert head.status_code == got.status_code == 200 and head.content == b""
    for name in ("content-type", "content-length"):
        assert head.headers[name] == got.headers[name]


@pytest.mark.parametrize(
    ("prompt", "choices"),
    [("今天天气", 1), (["a", "b", "😀"], 3), ([5, 6, 7], 1), ([[5, 6], [7]], 2), ("", 1)],
)
def test_completions_of_texts_and_token_ids(client, prompt, choices):
    answer = client.post("/v1/completions", {"model": "tiny", "prompt": prompt, "max_tokens": 5}).json()
    assert answer["object"] == "text_completion"
    assert [choice["index"] for choice in answer["choices"]] == list(range(choices))
    assert all(choice["finish_reason"] in ("length", "stop") for choice in answer["choices"])
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] <= 5 * choices


def test_sixteen_tokens_by_default_as_openai_does(client):
    answer = client.post("/v1/completions", {"prompt": [5], "temperature": 0, "seed": 1}).json()
    assert answer["usage"]["completion_tokens"] <= 16


@pytest.mark.parametrize("seed", range(6))
def test_a_completion_streams_the_same_text(client, seed):
    body = {"prompt": "今天天气很好", "max_tokens": 60, "seed": seed, "n": 3, "temperature": 1.5}
    whole = client.post("/v1/completions", body).json()
    streamed = client.post(
        "/v1/completions", {**body, "stream": True, "stream_options": {"include_usage": True}}
    )
    assert streamed.headers["content-type"].startswith("text/event-stream")
    parts = events(streamed.text)
    assert parts.pop() == "[DONE]"
    last = parts.pop()
    assert last["choices"] == [] and last["usage"] == whole["usage"]
    texts, reasons = ["", "", ""], [None] * 3
    for part in parts:
        assert part["usage"] is None
        (choice,) = part["choices"]
        texts[choice["index"]] += choice["text"]
        reasons[choice["index"]] = reasons[choice["index"]] or choice["finish_reason"]
    assert texts == [choice["text"] for choice in whole["choices"]]
    assert reasons == [choice["finish_reason"] for choice in whole["choices"]]
    assert len(set(texts)) == 3


def test_chat_whole_and_streamed(client):
    body = {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": "你是助手"},
            {"role": "user", "content": [{"type": "text", "text": "你好 😀"}]},
        ],
        "max_completion_tokens": 30,
        "seed": 3,
    }
    whole = client.post("/v1/chat/completions", body).json()
    assert whole["object"] == "chat.completion"
    message = whole["choices"][0]["message"]
    assert message["role"] == "assistant"
    parts = events(client.post("/v1/chat/completions", {**body, "stream": True}).text)
    assert parts.pop() == "[DONE]"
    assert all(part["object"] == "chat.completion.chunk" and "usage" not in part for part in parts)
    assert parts[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(part["choices"][0]["delta"].get("content", "") for part in parts)
    assert text == message["content"]
    assert parts[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


def test_chat_may_fill_the_context(client):
    body = {"messages": [{"role": "user", "content": "a"}], "temperature": 0}
    usage = client.post("/v1/chat/completions", body).json()["usage"]
    assert usage["total_tokens"] <= 128
    assert usage["completion_tokens"] > 16 or usage["total_tokens"] < 128


def test_stop_strings_and_extensions(client):
    body = {"prompt": [5], "max_tokens": 60, "seed": 4, "top_k": 20, "min_p": 0.01, "repetition_penalty": 1.2}
    free = client.post("/v1/completions", body).json()["choices"][0]["text"]
    stop = free[4:6]
    for form in (stop, [stop, "never"]):
        cut = client.post("/v1/completions", {**body, "stop": form}).json()["choices"][0]
        assert (cut["text"], cut["finish_reason"]) == (free[: free.index(stop)], "stop")


def test_null_is_the_default_and_neutral_values_are_welcome(client):
    body = {"prompt": [5], "seed": 1, "max_tokens": 8}
    null = dict.fromkeys(("temperature", "top_p", "n", "stop", "stream", "logprobs", "echo", "suffix"))
    neutral = {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "best_of": 1}
    expected = client.post("/v1/completions", body).json()["choices"]
    assert client.post("/v1/completions", {**body, **null, **neutral}).json()["choices"] == expected


def test_null_in_any_field_of_openai_changes_nothing(client):
    body = {"messages": [{"role": "user", "content": "你好"}], "seed": 1, "max_tokens": 4, "temperature": 0}
    expected = client.post("/v1/chat/completions", body).json()["choices"]
    null = dict.fromkeys(CompletionCreateParamsBase.__annotations__.keys() - body.keys() - {"model"})
    neutral = {
        "verbosity": "medium",
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "modalities": ["text"],
        "reasoning_effort": "none",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "in_memory",
        "safety_identifier": "u",
        "top_logprobs": 0,
        "max_completion_tokens": 4,
    }
    parts = [{"type": "text", "text": "你好", "prompt_cache_breakpoint": None}]
    in_parts = {"messages": [{"role": "user", "content": parts}]}
    for more in (null, neutral, {"stream_options": None}, in_parts):
        answer = client.post("/v1/chat/completions", {**body, **more})
        assert answer.json().get("choices") == expected, answer.text
    for name in null.keys() & {"audio", "functions", "prediction", "reasoning_effort", "web_search_options"}:
        refused = client.post("/v1/chat/completions", {**body, name: "high"})
        assert refused.status_code == 400 and refused.json()["error"]["param"] == name
    null = {"metadata": None, "service_tier": None}
    assert client.post("/v1/completions", {"prompt": [5], "max_tokens": 1, **null}).status_code == 200


def test_documents_may_be_objects_with_a_text(client):
    body = {"query": "今天", "return_documents": True}
    plain = client.post("/v1/rerank", {**body, "documents": ["the", "今天"]}).json()
    mixed = client.post("/v1/rerank", {**body, "documents": ["the", {"text": "今天"}]}).json()
    assert mixed["results"] == plain["results"] and mixed["results"][0]["document"] == {"text": "今天"}
    for wrong in ({"image": "a"}, {"text": "a", "title": "b"}, {"text": 5}, 5):
        refused = client.post("/v1/rerank", {**body, "documents": ["the", wrong]}).json()["error"]
        assert refused["message"].startswith("documents.1: ") and refused["param"] == "documents"


def test_no_document_is_closer_than_its_own_text(client):
    """In fp32 the product of a vector with itself is now and then more than 1, as of this one."""
    ask = {"query": "今天", "documents": ["a", "今天", "b"]}
    first, *_ = client.post("/v1/rerank", ask).json()["results"]
    assert first["index"] == 1 and 0.999 < first["relevance_score"] <= 1


def test_many_at_once_equal_one_by_one(client):
    bodies = [{"prompt": [i + 1, 5], "max_tokens": 20, "seed": i} for i in range(12)]

    async def together():
        async with httpx.AsyncClient(base_url=client.address, timeout=60) as http:
            return await asyncio.gather(*(http.post("/v1/completions", json=body) for body in bodies))

    answers = [answer.json()["choices"] for answer in asyncio.run(together())]
    assert answers == [client.post("/v1/completions", body).json()["choices"] for body in bodies]


def test_long_answers_are_written_beside_the_event_loop(client, monkeypatch):
    """Answer by answer, vector by vector: else everybody waits for millions of numbers."""
    write, loops = long_list._json, []

    def seen(value):
        loops.append(asyncio._get_running_loop())
        return write(value)

    monkeypatch.setattr(long_list, "_json", seen)
    ask = {"prompt": "今天", "max_tokens": 4, "n": 3, "logprobs": 2, "echo": True}
    answer = client.post("/v1/completions", ask)
    assert answer.headers["content-type"] == "application/json"
    assert [choice["index"] for choice in answer.json()["choices"]] == [0, 1, 2]
    vectors = client.post("/v1/embeddings", {"input": ["a", "b"]}).json()
    assert [one["index"] for one in vectors["data"]] == [0, 1] and vectors["object"] == "list"
    # Beside each item, what stands around the list and its name.
    assert loops == [None] * (3 + 2 + 2 + 2)


def test_the_page_is_whole_and_asks_nobody_else(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for file in ("style.css", "app.js", "index.html"):
        answer = client.get(f"/page/{file}")
        assert answer.status_code == 200
        assert "http://" not in answer.text and "https://" not in answer.text
        assert file == "index.html" or f"/page/{file}" in page.text


def test_the_schema_is_published_and_no_page_loads_scripts_from_elsewhere(client):
    assert "/v1/completions" in client.get("/openapi.json").json()["paths"]
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404
