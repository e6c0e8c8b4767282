"""Chat templates of other makers: Jinja in a sandbox."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from weft.core.errors import DataError


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    *,
    add_generation_prompt: bool,
) -> str:
    """The text of ``messages``; ``names`` are the variables ``bos_token``, ``eos_token`` and the like.

    Templates see what those of ``transformers`` see, ``raise_exception`` and ``tojson`` included, and can
    neither reach Python's insides nor change what they are given. Raises DataError when the template is
    broken or refuses the messages.
    """
    try:
        text = _compiled(template).render(
            messages=[dict(message) for message in messages],
            add_generation_prompt=add_generation_prompt,
            **names,
        )
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise DataError(f"The chat template refuses the messages: {_first_line(error)}.") from None
    return text


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    environment.filters["tojson"] = _to_json
    return environment.from_string(template)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """Jinja's own filter would escape what HTML knows."""
    return json.dumps(value, **{"ensure_ascii": False, "indent": indent, **options})


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__
