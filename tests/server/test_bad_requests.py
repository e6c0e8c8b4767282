"""Hostile and mistaken requests: a 4xx with one sentence in OpenAI's form, never a 5xx or silence."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from weft.server.inputs import DetokenizeRequest, EmbeddingRequest, RerankRequest
from weft.server.schema import ChatRequest, CompletionRequest
from weft.server.task_bodies import TextBody, TranslateBody

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def error(answer, status=400):
    assert answer.status_code == status, answer.text
    record = answer.json()["error"]
    assert set(record) == {"message", "type", "param", "code"}
    assert record["message"].endswith((".", "?")) and "\n" not in record["message"]
    return record


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("temperature", 1e300),
        ("temperature", "0.5"),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", -0.5),
        ("top_k", -1),
        ("top_k", 10**40),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("seed", 2**80),
        ("seed", 1.5),
        ("n", 0),
        ("n", -3),
        ("n", 10**9),
        ("n", 33),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 10**12),
        ("max_tokens", 129),
        ("stop", ""),
        ("stop", [1]),
        ("stop", ["a"] * 17),
        ("stop", "x" * 257),
        ("stream", "yes"),
        ("stream_options", {"include_usage": True}),
        ("stream_options", {"other": 1}),
        ("logprobs", -1),
        ("logprobs", 10**9),
        ("best_of", 0),
        ("best_of", 10**9),
        ("suffix", "end"),
        ("frequency_penalty", 3),
        ("presence_penalty", -2.5),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"five": 1}),
        ("logit_bias", [5]),
        ("stop_token_ids", ["a"]),
        ("min_tokens", -1),
        ("user", "x" * 513),
        ("prompt", []),
        ("prompt", [[]]),
        ("prompt", [[1], []]),
        ("prompt", None),
        ("prompt", 7),
        ("prompt", {"text": "a"}),
        ("prompt", [1, "a"]),
        ("prompt", [10**30]),
        ("prompt", [-1]),
        ("prompt", [512]),
        ("prompt", [True]),
        ("prompt", ["a"] * 33),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_values_that_make_no_sense(client, field, value, stream):
    if field == "stream_options" and stream and "include_usage" in value:
        return
    body = {"prompt": "a", **({"stream": True} if stream else {}), field: value}
    record = error(client.post("/v1/completions", body))
    assert record["type"] == "invalid_request_error"
    assert field.split("_")[0] in record["message"].lower() or record["param"] == field


def test_unknown_fields_are_named_and_never_ignored(client):
    record = error(client.post("/v1/completions", {"prompt": "a", "temprature": 1}))
    assert "temprature" in record["message"] and "temperature?" in record["message"]
    assert (record["param"], record["code"]) == ("temprature", "unknown_field")
    error(client.post("/v1/chat/completions", {**CHAT, "functions": []}))
    error(client.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "a", "x": 1}]}))


@pytest.mark.parametrize("field", ["Temperature", "stop[]", "int"])
def test_unknown_fields_have_names_of_any_look(client, field):
    record = error(client.post("/v1/chat/completions", {**CHAT, field: 1}))
    assert f"The field {field} is not supported" in record["message"] and record["param"] == field
    record = error(client.post("/v1/chat/completions", {"messages": [{**CHAT["messages"][0], field: 1}]}))
    assert f"The field messages.0.{field} is not supported" in record["message"]


@pytest.mark.parametrize(
    ("route", "body", "field", "hint"),
    [
        # Each of these is a field of another route.
        ("/v1/chat/completions", {**CHAT, "echo": True}, "echo", "leave it out."),
        ("/v1/completions", {"prompt": "a", "tools": []}, "tools", "leave it out."),
        ("/v1/embeddings", {"input": "a", "prompts": "b"}, "prompts", "leave it out."),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "documnts": []}, "documnts", "documents?"),
        ("/v1/tasks/translate", {"input": "a", "targt_language": "de"}, "targt_language", "target_language?"),
    ],
)
def test_a_field_is_compared_with_those_of_its_own_route(client, route, body, field, hint):
    record = error(client.post(route, body))
    assert f"The field {field} is not supported" in record["message"] and record["message"].endswith(hint)


@pytest.mark.parametrize(
    ("route", "body", "said", "param"),
    [
        ("completions", {"prompt": ["a", 1]}, "prompt.1: Input should be a valid string", "prompt"),
        ("completions", {"prompt": "a", "stop": ""}, "stop holds an empty text", "stop"),
        ("completions", {"prompt": "a", "top_p": 2}, "top_p = 2", "top_p"),
        ("completions", {"prompt": "a", "max_tokens": 0}, "at least 1; it may be 0 with echo.", "max_tokens"),
        (
            "chat/completions",
            {**CHAT, "max_completion_tokens": 0},
            "max_completion_tokens = 0 must be at least 1.",
            "max_completion_tokens",
        ),
        (
            "chat/completions",
            {**CHAT, "max_completion_tokens": 10**6},
            "max_completion_tokens = 1000000 is more than the context",
            "max_completion_tokens",
        ),
        ("completions", {"prompt": "a", "logit_bias": {"10": 1, "010": 2}}, "token ids", "logit_bias"),
        ("completions", {"prompt": "a", "logit_bias": {"1_0": 1}}, "token ids", "logit_bias"),
        ("completions", {"prompt": "a", "logit_bias": {"٣": 1}}, "token ids", "logit_bias"),
        (
            "chat/completions",
            {**CHAT, "max_tokens": 3, "max_completion_tokens": 4},
            "max_tokens and max_completion_tokens differ",
            "max_tokens",
        ),
        (
            "chat/completions",
            {**CHAT, "tool_choice": {"type": "function", "name": "f"}},
            "tool_choice.function: Field required",
            "tool_choice",
        ),
        (
            "chat/completions",
            {**CHAT, "tool_choice": {"type": "function", "function": {"name": "f", "x": 1}}},
            "The field tool_choice.function.x is not supported",
            "tool_choice.function.x",
        ),
        (
            "chat/completions",
            {**CHAT, "tool_choice": {"type": "allowed_tools", "function": {"name": "f"}}},
            "tool_choice.type: Input should be 'function'",
            "tool_choice",
        ),
        ("chat/completions", {**CHAT, "tool_choice": "any"}, "'none', 'auto' or 'required'", "tool_choice"),
    ],
)
def test_what_is_wrong_and_where_is_said(client, route, body, said, param):
    record = error(client.post(f"/v1/{route}", body))
    assert said in record["message"] and record["param"] == param, record


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (EmbeddingRequest, {"input": [{}] * 1000}),
        (EmbeddingRequest, {"input": [["a"] * 1000]}),
        (RerankRequest, {"query": "a", "documents": [0] * 1000}),
        (DetokenizeRequest, {"tokens": ["a"] * 1000}),
        (CompletionRequest, {"prompt": [None] * 1000}),
        (CompletionRequest, {"prompt": "a", "stop": [0] * 1000}),
        (CompletionRequest, {"prompt": "a", "logit_bias": {str(n): "" for n in range(2000)}}),
        (CompletionRequest, {"prompt": "a", **{f"x{n}": 1 for n in range(1000)}}),
        (ChatRequest, {"messages": [{"role": "user", "content": [{"type": "text", "text": 0}] * 1000}]}),
        (ChatRequest, {"messages": [{"role": "assistant", "tool_calls": [0] * 1000}]}),
        (ChatRequest, {**CHAT, "modalities": [0] * 1000}),
        (TextBody, {"input": [0] * 1000}),
        (TranslateBody, {"input": "a", "glossary": {str(n): 0 for n in range(1000)}}),
    ],
)
def test_of_many_mistakes_few_are_written_down(kind, body):
    with pytest.raises(ValidationError) as found:
        kind.model_validate(body)
    assert found.value.error_count() < 10


def test_the_first_of_many_mistakes_is_said(client):
    bias = {str(token): "" for token in range(1025)}
    found = error(client.post("/v1/completions", {"prompt": "a", "logit_bias": bias}))
    assert found["message"].startswith("logit_bias: ") and "at most 1024" in found["message"]
    unknown = {f"x{n}": n for n in range(100)}
    found = error(client.post("/v1/completions", {**unknown, "prompt": "a"}))
    assert found["param"] == "x0" and found["code"] == "unknown_field"


@pytest.mark.parametrize("number", ["1e999", "NaN"])
def test_a_schema_with_a_number_that_json_does_not_know(client, number):
    form = f'{{"type": "json_schema", "json_schema": {{"schema": {{"const": {number}}}}}}}'
    raw = json.dumps({**CHAT, "response_format": None}).replace("null", form)
    headers = {"Content-Type": "application/json"}
    record = error(client.post("/v1/chat/completions", None, content=raw, headers=headers))
    assert "JSON does not know" in record["message"]


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (PICTURE, "image_url parts are not supported; send parts of type text."),
        ({"type": "input_audio", "input_audio": {}}, "input_audio parts are not supported"),
        (
            {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
            "cache_control is not supported in a part; leave it out.",
        ),
        ({"text": "a"}, "a part without a type is not supported"),
        ("a", "a part of a message must be an object with type and text."),
    ],
)
def test_a_part_that_is_no_text_is_named(client, part, said):
    content = [{"type": "text", "text": "a"}, part]
    record = error(client.post("/v1/chat/completions", {"messages": [{"role": "user", "content": content}]}))
    assert said in record["message"] and "valid string" not in record["message"]


@pytest.mark.parametrize("part", ['{"type": "\\ud83d"}', '{"type": "text", "text": "a", "\\ud83d": 1}'])
def test_half_a_surrogate_in_a_part_is_named_by_its_number(client, part):
    raw = f'{{"messages": [{{"role": "user", "content": [{part}]}}]}}'
    headers = {"Content-Type": "application/json"}
    assert (
        "\\ud83d" in error(client.post("/v1/chat/completions", None, content=raw, headers=headers))["message"]
    )


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{}],
        "hello",
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{"role": "robot", "content": "a"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
        [{"role": "user", "content": "\ud800"}],
        [{"role": "tool"}],
        [{"role": "user", "content": "a", "tool_call_id": "x"}],
        [
            {
                "role": "user",
                "content": "a",
                "tool_calls": [{"id": "x", "function": {"name": "f", "arguments": ""}}],
            }
        ],
    ],
)
def test_messages_that_are_none(client, messages):
    body = json.dumps({"messages": messages})
    answer = client.http.request(
        "POST", "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    error(answer)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("tools", [{"type": "web_search"}]),
        ("tools", [{"type": "function", "function": {"name": "a b"}}]),
        ("top_logprobs", 3),
        ("top_logprobs", 10**9),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "missing"}}),
        ("response_format", "x"),
        ("response_format", {"type": "json_schema"}),
        ("response_format", {"type": "json_object", "regex": "a"}),
        ("response_format", {"type": "choice", "choice": []}),
        ("store", True),
        ("service_tier", "flex"),
        ("functions", []),
        ("audio", {}),
    ],
)
def test_chat_fields_that_make_no_sense_or_are_not_supported(client, field, value):
    error(client.post("/v1/chat/completions", {**CHAT, field: value}))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe\x00",
        b'{"prompt": "\xff"}',
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": Infinity}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a"}{"prompt": "b"}',
    ],
)
def test_malformed_bodies(client, body):
    answer = client.http.request(
        "POST", "/v1/completions", content=body, headers={"content-type": "application/json"}
    )
    error(answer)


def test_a_body_that_is_not_json_by_its_type(client):
    answer = client.http.request(
        "POST", "/v1/completions", content=b'{"prompt": "a"}', headers={"content-type": "text/plain"}
    )
    assert "application/json" in error(answer)["message"]


def test_over_long_prompts_give_the_lengths(client):
    record = error(client.post("/v1/completions", {"prompt": [1] * 500, "max_tokens": 5}))
    assert "500 tokens" in record["message"] and "128" in record["message"]
    long = [{"role": "user", "content": "天气" * 500}]
    assert "128" in error(client.post("/v1/chat/completions", {"messages": long}))["message"]


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        ("/v1/completions", {"prompt": [1] * 500}, "prompt"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "天气" * 500}]}, "messages"),
        ("/tokenize", {"messages": [{"role": "user", "content": "天气" * 500}]}, "messages"),
        ("/v1/embeddings", {"input": ["a", "天气" * 500]}, "input"),
        ("/v1/rerank", {"query": "a", "documents": ["天气" * 500]}, "documents"),
    ],
)
def test_over_long_prompts_have_the_code_that_clients_look_for(client, route, body, param):
    record = error(client.post(route, body))
    assert (record["code"], record["param"]) == ("context_length_exceeded", param)
    # LangChain sees the message alone, and knows these words.
    assert "prompt is too long" in record["message"]


def test_what_a_text_or_a_conversation_has_no_use_for_is_not_ignored(client):
    for body, field in (
        ({"messages": CHAT["messages"], "add_special_tokens": True}, "add_special_tokens"),
        ({"prompt": "a", "add_generation_prompt": True}, "add_generation_prompt"),
    ):
        record = error(client.post("/tokenize", body))
        assert record["param"] == field and record["message"].endswith("leave it out.")
    # As vLLM's clients ask for a conversation.
    ask = {"messages": CHAT["messages"], "add_special_tokens": False, "add_generation_prompt": True}
    assert client.post("/tokenize", ask).status_code == 200


def test_bodies_that_are_too_large(client):
    error(client.post("/v1/completions", {"prompt": "a" * (5 * 2**20)}), 413)

    def chunks():
        for _ in range(80):
            yield b" " * 65536

    answer = client.http.request(
        "POST", "/v1/completions", content=chunks(), headers={"content-type": "application/json"}
    )
    error(answer, 413)


def test_unknown_models_routes_and_methods(client):
    record = error(client.post("/v1/completions", {"model": "gpt", "prompt": "a"}), 404)
    assert record["code"] == "model_not_found" and "tiny" in record["message"]
    error(client.get("/v1/nothing"), 404)
    error(client.get("/v1/completions"), 405)
    error(client.get("/page/../app.py"), 404)
    error(client.get("/page/%2e%2e/app.py"), 404)


def test_nothing_of_this_leaves_work_behind(client):
    assert client.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status_code == 200
    assert client.engine().restarts == 0
