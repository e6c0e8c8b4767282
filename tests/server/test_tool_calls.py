"""Calls of tools over HTTP: forced and free, one and several, whole and cut off, beside forms of answers."""

from __future__ import annotations

import json

import openai
import pytest
from servers import until

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
