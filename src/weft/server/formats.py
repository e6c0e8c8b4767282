"""What form an answer must have, as the constraint that the engine is given.

A constraint has a ``kind`` ("json_schema", "json_object", "regex", "choice" or "lark") and a ``text``; the
engine compiles it, with its own bounds on the work. Here only size and depth are checked.
"""

from __future__ import annotations

from weft.engine.repetition import expanded
from weft.server import calls
from weft.server.calls import Constraint, written
from weft.server.errors import ApiError
from weft.server.limits import Limits
from weft.server.schema import ChatRequest, NamedTool, ResponseFormat, Tool


def constraint_of(body: ChatRequest, limits: Limits) -> Constraint | None:
    """What ``response_format`` and ``tools`` demand; None when the answer is free.

    Raises ApiError 400 for demands that contradict each other, or are too large.
    """
    form = body.response_format
    wanted = _of_format(form) if form else None
    forced = _forced(body)
    if wanted is not None and forced is not None:
        raise ApiError(
            400,
            "tool_choice already says what the answer is; leave response_format out.",
            param="response_format",
        )
    offered = [] if body.tool_choice == "none" else body.tools or []
    found = wanted
    if forced is not None:
        found = calls.only(forced)
    elif form is not None and wanted is not None and offered:
        found = calls.instead_of(form, offered) or wanted
    elif any(tool.function.strict for tool in offered):
        found = calls.within_text(offered)
    if found is not None:
        _check(found, limits, "response_format" if wanted else "tools")
    return found


def demanded_by(body: ChatRequest) -> str:
    """The field that a constraint is there for."""
    if body.response_format is not None and body.response_format.type != "text":
        return "response_format"
    return "tools" if body.tool_choice in (None, "auto") else "tool_choice"


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
        return {"kind": "json_schema", "text": written(form.json_schema.schema_)}
    if form.choice is not None:
        return {"kind": "choice", "text": written(form.choice)}
    return {"kind": "lark" if form.type == "grammar" else "regex", "text": form.grammar or form.regex or ""}


def _forced(body: ChatRequest) -> list[Tool] | None:
    """The tools of which one must be called; None where none must."""
    choice, tools = body.tool_choice, body.tools or []
    if choice not in (None, "none", "auto") and not tools:
        raise ApiError(400, "tool_choice needs tools.", param="tool_choice")
    if choice == "required":
        return tools
    if isinstance(choice, NamedTool):
        named = [tool for tool in tools if tool.function.name == choice.function.name]
        if not named:
            message = f"tool_choice names {choice.function.name!r}, which is not among the tools."
            raise ApiError(400, message, param="tool_choice")
        return named
    return None


def _check(constraint: Constraint, limits: Limits, param: str) -> None:
    size, most = len(constraint["text"]), limits.constraint_characters
    if size > most:
        raise ApiError(400, f"It asks for a form of {size} characters; {most} are allowed.", param=param)
    # In the text of a schema its patterns stand as they are, but for doubled backslashes.
    most = limits.constraint_expanded
    if (size := expanded(constraint["text"])) > most:
        message = f"Its repetitions, written out, have {size} characters; {most} are allowed."
        raise ApiError(400, message, param=param)
