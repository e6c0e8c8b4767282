"""Chat templates of other makers: Jinja in a sandbox that also bounds time and size."""

from __future__ import annotations

import functools
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

import jinja2
import jinja2.nodes
import jinja2.parser
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from weft.core.errors import DataError

LARGEST_TEXT = 2**24
"""Characters that a template may write, or make in one operation."""

_LARGEST_NUMBER = 10**5
_WIDE = re.compile(r"\d{6,}")
_SIZING = ("center", "indent", "wordwrap", "batch", "slice", "format", "round", "truncate")


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    *,
    add_generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]] | None = None,
    deadline: float | None = None,
) -> str:
    """The text of ``messages``; ``names`` are the variables ``bos_token``, ``eos_token`` and the like.

    Templates see what those of ``transformers`` see, ``raise_exception`` and ``tojson`` included, and can
    neither reach Python's insides nor change what they are given, nor write more than LARGEST_TEXT, nor
    run past ``deadline`` (``time.monotonic``). Raises DataError when the template is broken, refuses the
    messages, or goes too far.
    """
    compiled = _compiled(template)
    before = sys.gettrace()
    try:
        if deadline is not None:
            sys.settrace(_stopwatch(deadline))
        pieces: list[str] = []
        size = 0
        for piece in compiled.generate(
            messages=[dict(message) for message in messages],
            add_generation_prompt=add_generation_prompt,
            tools=[dict(tool) for tool in tools] if tools else None,
            **names,
        ):
            pieces.append(piece)
            size += len(piece)
            if size > LARGEST_TEXT:
                raise jinja2.TemplateError("it writes too much")
    except (
        jinja2.TemplateError,
        TypeError,
        ValueError,
        KeyError,
        AttributeError,
        OverflowError,
        RecursionError,
        ArithmeticError,
        MemoryError,
        IndexError,
    ) as error:
        raise DataError(f"The chat template refuses the messages: {_first_line(error)}.") from None
    finally:
        if deadline is not None:
            sys.settrace(before)
    return "".join(pieces)


@functools.lru_cache(maxsize=8)
def reads(template: str, name: str) -> bool:
    """Whether ``template`` looks at the variable ``name`` anywhere. Raises DataError when it is broken."""
    _compiled(template)
    found = _environment().parse(template).find_all(jinja2.nodes.Name)
    return any(one.name == name and one.ctx == "load" for one in found)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Also refuses the operations that make much out of little."""

    intercepted_binops = frozenset(("*", "**", "%"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Numbers may be multiplied; texts and lists only up to a size."""
        if operator == "%" and isinstance(left, str):
            _check_format(left)
        elif operator == "**" and not (isinstance(right, (int, float)) and abs(right) <= 64):
            raise jinja2.TemplateError("its power is too high")
        elif operator == "*":
            sized = [item for item in (left, right) if hasattr(item, "__len__")]
            if sized and len(sized[0]) * max(_numbers((left, right)), default=0) > LARGEST_TEXT:
                raise jinja2.TemplateError("it makes a text that is too long")
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A text is checked before it can be used as a format."""
        if attribute in ("format", "format_map"):
            _check_format(obj)
        return super().getattr(obj, attribute)

    def call(self, context: Any, function: Any, /, *arguments: Any, **named: Any) -> Any:
        """Methods such as ``ljust`` take no huge numbers."""
        _check_numbers((*arguments, *named.values()))
        return super().call(context, function, *arguments, **named)


class _Generation(Extension):
    """``{% generation %}`` marks what ``transformers`` trains on; here its body is written as it is."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it so

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """As in transformers, what the body sets ends with it."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> jinja2.Template:
    return _environment().from_string(template)


@functools.cache
def _environment() -> jinja2.Environment:
    extensions = ["jinja2.ext.loopcontrols", _Generation]
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = time.strftime
    environment.filters["tojson"] = _to_json
    for name in _SIZING:
        environment.filters[name] = _bounded(environment.filters[name], formats=name == "format")
    return environment


def _compiled(template: str) -> jinja2.Template:
    try:
        return _compile(template)
    except (jinja2.TemplateError, RecursionError, ValueError, MemoryError, OverflowError) as error:
        raise DataError(f"The chat template refuses the messages: {_first_line(error)}.") from None


def _stopwatch(deadline: float) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that raises at a line of a template after ``deadline``; other code is not traced."""

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > deadline:
            raise jinja2.TemplateError("it takes too long")
        return line

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        return line if frame.f_code.co_filename == "<template>" else None

    return enter


def _bounded(filter_: Callable[..., Any], *, formats: bool) -> Callable[..., Any]:
    @functools.wraps(filter_)
    def checked(*arguments: Any, **named: Any) -> Any:
        if formats:
            _check_format(arguments[0])
        _check_numbers((*arguments, *named.values()))
        return filter_(*arguments, **named)

    return checked


def _check_format(text: object) -> None:
    if isinstance(text, str) and ("%" in text or "{" in text) and _WIDE.search(text):
        raise jinja2.TemplateError("it formats with a width that is too large")


def _check_numbers(values: Sequence[Any]) -> None:
    if any(number > _LARGEST_NUMBER for number in _numbers(values)):
        raise jinja2.TemplateError("it asks for a size that is too large")


def _numbers(values: Sequence[Any]) -> list[int]:
    return [abs(value) for value in values if isinstance(value, int)]


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """Jinja's own filter would escape what HTML knows."""
    return json.dumps(value, **{"ensure_ascii": False, "indent": indent, **options})


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__
