"""Grammars of calls of tools, in the markup that :mod:`weft.server.tools` reads.

Arguments are held to the schema of their tool, ``strict`` or not: where a grammar is there, it costs nothing.
Of a tool that is not ``strict`` keywords that the compiler does not know are left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from weft.server.errors import ApiError
from weft.server.schema import ResponseFormat, Tool
from weft.server.tools import CLOSE, OPEN

Constraint = dict[str, str]
_WHITE = {"whitespace_pattern": r"\n? {0,16}"}
_SPACED = {"x-guidance": _WHITE}
"""White space as in other JSON of constrained answers: not for ever, which some models would write."""


def only(tools: Sequence[Tool]) -> Constraint:
    """One call of one of ``tools``. Raises ApiError 400 for schemas nested too deep, as all here."""
    return _lark("start: call", tools)


def within_text(tools: Sequence[Tool]) -> Constraint:
    """Any text, in which calls may stand; what begins as a call goes on as one."""
    # The first text ends where the mark does; the last one holds none.
    rules = (
        f'start: (opened "\\n" called "\\n{CLOSE}")* LAST?\n'
        f"opened[lazy]: /(.|\\n)*{OPEN}/\n"
        f"LAST: /(.|\\n)+/ & ~/(.|\\n)*{OPEN}(.|\\n)*/"
    )
    return _lark(rules, tools)


def instead_of(form: ResponseFormat, tools: Sequence[Tool]) -> Constraint | None:
    """Calls, or an answer of ``form``. None for a regular expression or a grammar: that is the client's own
    word on all that may be written."""
    if form.type == "json_object":
        rule = f"%json {written({'type': 'object', **_SPACED})}"
    elif form.json_schema is not None:
        rule = f"%json {written({**form.json_schema.schema_, **_SPACED})}"
    elif form.choice is not None:
        # As one terminal: of alternatives in a rule only so many may begin alike.
        rule = "CHOICE\nCHOICE: " + " | ".join(map(written, form.choice))
    else:
        return None
    return _lark(f'start: call ("\\n" call)* | answer\nanswer: {rule}', tools)


def written(value: Any) -> str:
    """``value`` as JSON. Raises ApiError 400 for what is nested too deep to be worked on, and for numbers
    that are none in JSON."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except RecursionError:
        raise ApiError(400, "The schema is nested too deep.", param="response_format") from None
    except ValueError:
        message = "The schema holds a number that JSON does not know, NaN or an infinite one."
        raise ApiError(400, message, param="response_format") from None


def _lark(start: str, tools: Sequence[Tool]) -> Constraint:
    """The rules of ``start``, ``call`` and ``called``, and of each tool."""
    rules = [
        start,
        f'call: "{OPEN}\\n" called "\\n{CLOSE}"',
        "called: " + " | ".join(f"tool{index}" for index in range(len(tools))),
    ]
    for index, tool in enumerate(tools):
        before = written(f'{{"name": "{tool.function.name}", "arguments": ')
        lenient = not tool.function.strict
        how = {**_WHITE, "lenient": lenient, "coerce_one_of": lenient}
        schema = {"type": "object", **(tool.function.parameters or {}), "x-guidance": how}
        # Each schema by itself, since what it refers to counts from its own root.
        rules += [
            f'tool{index}: {before} arguments{index} "}}"',
            f"arguments{index}: %json {written(schema)}",
        ]
    return {"kind": "lark", "text": "\n".join(rules) + "\n"}
