"""What form an answer must have, as the constraint that the engine is given.

A constraint has a ``kind`` ("json_schema", "json_object", "regex", "choice" or "lark") and a ``text``; the
engine compiles it, with its own bounds on the work. Here only size and depth are checked.
"""

from __future__ import annotations

import json
from typing import Any

from weft.engine.repetition import expanded
from weft.server.errors import ApiError
from weft.server.limits import Limits
from weft.server.schema import ChatRequest, NamedTool, ResponseFormat, Tool

Constraint = dict[str, str]
_SPACED = {"x-guidance": {"whitespace_pattern": r"\n? {0,16}"}}
"""White space in JSON that a grammar holds: not for ever, which some models would write."""


def constraint_of(body: ChatRequest, limits: Limits) -> Constraint | None:
    """What ``response_format`` or ``tool_choice`` demands; None when the answer is free."""
    wanted = _of_format(body.response_format) if body.response_format else None
    forced = _of_tools(body)
    if wanted is not None and forced is not None:
        raise ApiError(
            400,
            "tool_choice already says what the answer is; leave response_format out.",
            param="response_format",
        )
    found = wanted or forced
    if found is not None:
        _check(found, limits, "response_format" if wanted else "tools")
    return found


def _of_format(form: ResponseFormat) -> Constraint | None:
    fields = {
        "json_schema": form.json_schema,
        "regex": form.regex,
        "choice": form.choice,
        "grammar": form.grammar,
    }
    for name, value in fields.items():
        if (value is not None) != (name == form.type):
            verb = "needs" if name == form.type else "takes no"
            raise ApiError(
                400, f"response_format of type {form.type} {verb} {name}.", param="response_format"
            )
    if form.type == "text":
        return None
    if form.type == "json_object":
        return {"kind": "json_object", "text": ""}
    if form.json_schema is not None:
        return {"kind": "json_schema", "text": _json(form.json_schema.schema_)}
    if form.choice is not None:
        return {"kind": "choice", "text": _json(form.choice)}
    return {"kind": "lark" if form.type == "grammar" else "regex", "text": form.grammar or form.regex or ""}


def _of_tools(body: ChatRequest) -> Constraint | None:
    choice, tools = body.tool_choice, body.tools or []
    if choice not in (None, "none", "auto") and not tools:
        raise ApiError(400, "tool_choice needs tools.", param="tool_choice")
    if choice == "required":
        return _calls(tools)
    if isinstance(choice, NamedTool):
        named = [tool for tool in tools if tool.function.name == choice.function.name]
        if not named:
            message = f"tool_choice names {choice.function.name!r}, which is not among the tools."
            raise ApiError(400, message, param="tool_choice")
        return _calls(named)
    return None


def _calls(tools: list[Tool]) -> Constraint:
    """One call of one of ``tools``, in the markup that :mod:`weft.server.tools` reads."""
    schemas = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.function.name},
                "arguments": tool.function.parameters or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    schema = _json({**_SPACED, **(schemas[0] if len(schemas) == 1 else {"anyOf": schemas})})
    return {
        "kind": "lark",
        "text": f'start: "<tool_call>\\n" call "\\n</tool_call>"\ncall: %json {schema}\n',
    }


def _check(constraint: Constraint, limits: Limits, param: str) -> None:
    size, most = len(constraint["text"]), limits.constraint_characters
    if size > most:
        raise ApiError(400, f"It asks for a form of {size} characters; {most} are allowed.", param=param)
    # In the text of a schema its patterns stand as they are, but for doubled backslashes.
    most = limits.constraint_expanded
    if (written := expanded(constraint["text"])) > most:
        message = f"Its repetitions, written out, have {written} characters; {most} are allowed."
        raise ApiError(400, message, param=param)


def _json(value: Any) -> str:
    """Raises ApiError 400 for what is nested too deep to be worked on."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise ApiError(400, "The schema is nested too deep.", param="response_format") from None
