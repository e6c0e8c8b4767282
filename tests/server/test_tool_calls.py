"""Calls of tools over HTTP: forced and free, one and several, whole and cut off, beside forms of answers."""

from __future__ import annotations

import json

import openai
import pytest
from servers import until

from weft.engine.grammar import Grammars
from weft.engine.params import Grammar
from weft.server.formats import constraint_of
from weft.server.limits import Limits
from weft.server.schema import ChatRequest

FLAG = {
    "type": "object",
    "properties": {"sure": {"type": "boolean"}},
    "required": ["sure"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "tell", "parameters": FLAG}}
CALL = '<tool_call>\\n{\\"name\\": \\"tell\\", \\"arguments\\": {\\"sure\\": true}}\\n</tool_call>'
ASK = {"model": "tiny", "messages": [{"role": "user", "content": "?"}], "tools": [TOOL], "seed": 1}
TWO = {"response_format": {"type": "grammar", "grammar": f'start: "so: " "{CALL}" "\\n" "{CALL}"'}}


@pytest.fixture
def api(endless):
    """The description of the tools alone has more tokens than the context of the other server."""
    with openai.OpenAI(base_url=f"{endless.address}/v1", api_key="unused", max_retries=0) as api:
        yield api
    until(endless.idle)


def ask(api, stream: bool = False, **more):
    """The only choice, whole, or as the client puts it together from a stream."""
    extra = (
        {"extra_body": {"response_format": more.pop("response_format")}} if "response_format" in more else {}
    )
    body = {**ASK, "max_tokens": 900, **more, **extra}
    if not stream:
        return api.chat.completions.create(**body).choices[0]
    with api.chat.completions.stream(**body) as parts:
        parts.until_done()
        return parts.get_final_completion().choices[0]


@pytest.mark.parametrize("stream", [False, True])
def test_one_call_and_no_more_where_they_may_not_be_parallel(api, stream):
    free = ask(api, stream, **TWO)
    assert (free.message.content, len(free.message.tool_calls)) == ("so: ", 2)
    one = ask(api, stream, **TWO, parallel_tool_calls=False)
    assert (one.message.content, len(one.message.tool_calls)) == ("so: ", 1)
    assert one.finish_reason == free.finish_reason == "tool_calls"


def test_the_rest_behind_the_only_call_is_not_written(api, endless):
    usage = [
        api.chat.completions.create(**ASK, extra_body=TWO, **more).usage.completion_tokens
        for more in ({}, {"parallel_tool_calls": False})
    ]
    assert usage[1] < usage[0]
    ended = endless.get("/metrics").text
    assert 'status="499"' not in ended and 'status="500"' not in ended


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "tell"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_call_is_one_call(api, choice, stream):
    found = ask(api, stream, tool_choice=choice, parallel_tool_calls=False)
    (call,) = found.message.tool_calls
    assert found.finish_reason == "tool_calls" and isinstance(
        json.loads(call.function.arguments)["sure"], bool
    )


def test_what_the_compiler_does_not_know_counts_for_strict_tools_alone(api):
    """As pydantic writes a set of numbers, and a union with a discriminator."""
    fields = {
        "n": {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "maxItems": 2},
        "u": {"oneOf": [{"type": "boolean"}, {"type": ["boolean", "null"]}]},
    }
    schema = {"type": "object", "properties": fields, "required": ["n", "u"], "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "tell", "parameters": schema}}
    ask = {**ASK, "tools": [tool], "tool_choice": "required", "max_tokens": 100}
    (call,) = api.chat.completions.create(**ask).choices[0].message.tool_calls
    assert set(json.loads(call.function.arguments)) == {"n", "u"}
    tool["function"]["strict"] = True
    with pytest.raises(openai.BadRequestError, match="uniqueItems"):
        api.chat.completions.create(**ask)


def test_no_tools_make_no_parallel_calls(api):
    body = {"model": "tiny", "messages": ASK["messages"], "max_tokens": 2}
    assert api.chat.completions.create(**body, parallel_tool_calls=False).choices[0].finish_reason


def test_the_client_hears_that_a_call_is_done(api):
    strict = {**TOOL, "function": {**TOOL["function"], "strict": True}}
    with api.chat.completions.stream(**{**ASK, "tools": [strict]}, tool_choice="required") as parts:
        events = list(parts)
    (done,) = (event for event in events if event.type == "tool_calls.function.arguments.done")
    assert done.name == "tell" and isinstance(done.parsed_arguments["sure"], bool)
    last = [event.chunk.choices[0] for event in events if event.type == "chunk"][-1]
    assert last.finish_reason == "tool_calls" and last.delta.tool_calls is None


@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_call_that_is_cut_off_shows_no_markup(api, stream):
    body = {**ASK, "tool_choice": "required", "temperature": 0}
    whole = api.chat.completions.create(**body).usage.completion_tokens
    found = []
    for most in range(1, whole, 3):
        # The client refuses to put together what the length cut off.
        if stream:
            parts = [
                part.choices[0] for part in api.chat.completions.create(**body, max_tokens=most, stream=True)
            ]
            deltas = [part.delta for part in parts]
            calls = [call for delta in deltas for call in delta.tool_calls or ()]
            content, reason = "".join(delta.content or "" for delta in deltas), parts[-1].finish_reason
        else:
            (choice,) = api.chat.completions.create(**body, max_tokens=most).choices
            calls, content, reason = (
                choice.message.tool_calls or (),
                choice.message.content,
                choice.finish_reason,
            )
        assert not content and reason == "length"
        found += [call.function.arguments for call in calls]
    # The model puts white space between the parts.
    parts = {"".join(part.split()) for part in found}
    assert '{"sure":' in parts
    assert all('{"sure":true}'.startswith(part) or '{"sure":false}'.startswith(part) for part in parts)


STRICT = {**TOOL, "function": {**TOOL["function"], "strict": True}}
FORM = {"type": "json_schema", "json_schema": {"name": "form", "schema": FLAG}}


def accepted(constraint, text: str, tokenizer) -> bool:
    """Whether an answer may be ``text``, whole, under a constraint of the server's."""
    state = Grammars(tokenizer, [tokenizer.eos_id]).constraint(Grammar(**constraint))
    for token in [*tokenizer.encode(text), tokenizer.eos_id]:
        mask = state.mask([])
        if not mask[token // 8] >> token % 8 & 1:
            return False
        state.push(token)
    return True


def constraint(**more):
    return constraint_of(ChatRequest.model_validate({**ASK, **more}), Limits())


RIGHT = '<tool_call>\n{"name": "tell", "arguments": {"sure": true}}\n</tool_call>'
WRONG = RIGHT.replace("true", "1")


@pytest.mark.parametrize(
    ("text", "may"),
    [
        ("", True),
        ("今天 <b>天气</b> <tool_cal 好\r\n", True),
        (RIGHT, True),
        (f"Let me see. 好\n{RIGHT}\n{RIGHT} so", True),
        (WRONG, False),
        (f"{RIGHT}\n{WRONG}", False),
        ("a <tool_call> b", False),
        ("<tool_call>", False),
        (RIGHT.replace("tell", "other"), False),
    ],
)
def test_with_a_strict_tool_calls_keep_to_their_schemas_and_text_is_free(tiny_tokenizer, text, may):
    assert accepted(constraint(tools=[STRICT]), text, tiny_tokenizer) == may
    assert constraint(tools=[TOOL]) is None and constraint(tools=[STRICT], tool_choice="none") is None


@pytest.mark.parametrize(
    ("form", "answer"),
    [
        (FORM, '{"sure": false}'),
        ({"type": "json_object"}, '{"a": [1]}'),
        ({"type": "choice", "choice": ["是", "no"]}, "是"),
    ],
)
def test_an_answer_has_its_form_or_is_calls(tiny_tokenizer, form, answer):
    either = constraint(response_format=form)
    for text, may in [
        (answer, True),
        (RIGHT, True),
        (f"{RIGHT}\n{RIGHT}", True),
        (WRONG, False),
        ("x", False),
    ]:
        assert accepted(either, text, tiny_tokenizer) == may, text
    assert not accepted(either, answer + RIGHT, tiny_tokenizer)
    alone = constraint(response_format=form, tool_choice="none")
    assert accepted(alone, answer, tiny_tokenizer) and not accepted(alone, RIGHT, tiny_tokenizer)


def test_schemas_may_refer_to_their_own_definitions(tiny_tokenizer):
    schema = {"type": "object", "$defs": {"flag": FLAG}, "properties": {"it": {"$ref": "#/$defs/flag"}}}
    schema |= {"required": ["it"], "additionalProperties": False}
    tools = [TOOL, {"type": "function", "function": {"name": "nest", "parameters": schema}}, {**TOOL}]
    forced = constraint(tools=tools[:2], tool_choice="required")
    call = '<tool_call>\n{"name": "nest", "arguments": {"it": {"sure": true}}}\n</tool_call>'
    assert accepted(forced, call, tiny_tokenizer) and accepted(forced, RIGHT, tiny_tokenizer)
    assert not accepted(forced, call.replace("true", "0"), tiny_tokenizer)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_form_beside_tools_over_http(api, stream, seed):
    found = ask(api, stream, response_format=FORM, seed=seed, temperature=1.5)
    if found.message.tool_calls:
        texts = [call.function.arguments for call in found.message.tool_calls]
        assert found.finish_reason == "tool_calls"
    else:
        texts = [found.message.content]
        assert found.finish_reason == "stop"
    assert all(isinstance(json.loads(text)["sure"], bool) for text in texts)


def test_an_engine_without_grammars_says_what_to_leave_out(api, endless, monkeypatch):
    facts = endless.engine().facts
    monkeypatch.setitem(facts, "supported", [name for name in facts["supported"] if name != "grammar"])
    for more, said in (
        ({"tools": [STRICT]}, "tools: this engine cannot do this; leave strict out"),
        ({"tool_choice": "required"}, "tool_choice: this engine cannot do this; leave the field out"),
        ({"response_format": FORM}, "response_format: this engine cannot do this; leave the field out"),
    ):
        with pytest.raises(openai.BadRequestError, match=said):
            ask(api, **more)


def test_a_deep_schema_beside_tools_is_refused(endless):
    schema: dict = {}
    for _ in range(400):
        schema = {"items": schema}
    for more in (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}]},
    ):
        assert endless.post("/v1/chat/completions", {**ASK, "max_tokens": 2, **more}).status_code == 400
