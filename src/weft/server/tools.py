"""Calls of tools in what a model writes: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``.

The markup is that of Qwen and Hermes. What is no call stays text, as the model wrote it.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass

OPEN, CLOSE = "<tool_call>", "</tool_call>"


_BEGUN = re.compile(
    r'\s*\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(.*)', re.DOTALL
)


@dataclass(frozen=True)
class Tools:
    """What an answer may call. ``forced``: it is a call and nothing else; ``single``: it ends behind its
    first call."""

    names: frozenset[str]
    forced: bool = False
    single: bool = False


@dataclass(frozen=True)
class Call:
    """A call; ``arguments`` is JSON as text."""

    name: str
    arguments: str
    id: str

    def record(self, index: int | None = None) -> dict[str, object]:
        """As OpenAI's API spells it; streams number their calls."""
        number = {} if index is None else {"index": index}
        function = {"name": self.name, "arguments": self.arguments}
        return {**number, "id": self.id, "type": "function", "function": function}


class CallReader:
    """Tells text from calls while text comes; ``cut`` says that the last call is not whole."""

    def __init__(self, tools: Tools):
        self._tools = tools
        self._held = ""
        self.found = 0
        self.cut = False
        self._spoken = False

    @property
    def ended(self) -> bool:
        """Whether the one call that may be there is there."""
        return self._tools.single and self.found > 0

    def push(self, text: str, *, last: str | None = None) -> tuple[str, list[Call]]:
        """The text that may be shown now and the calls that are complete.

        ``last`` is why the answer ends here. A call that its length cut off is given as far as it came.
        """
        self._held += text
        shown: list[str] = []
        calls: list[Call] = []
        while not self.ended:
            start = self._held.find(OPEN)
            if start < 0:
                kept = 0 if last else _overlap(self._held, OPEN)
                cut = len(self._held) - kept
                shown.append(self._held[:cut])
                self._held = self._held[cut:]
                break
            end = self._held.find(CLOSE, start)
            if end < 0 and not last:
                shown.append(self._held[:start])
                self._held = self._held[start:]
                break
            call, whole = self._call(start, end, last)
            shown.append(self._held[: whole if call is None else start])
            if call is not None:
                calls.append(call)
                self.found += 1
            self._held = self._held[whole:]
        content = "".join(shown)
        # The line breaks that the markup puts between calls are no content, nor is markup that only begins.
        blank = not content.strip() and (calls or (self.found and not self._spoken))
        if calls or content.strip():
            self._spoken = not calls or bool(shown[-1].strip())
        return "" if self._tools.forced or blank else content, calls

    def _call(self, start: int, end: int, last: str | None) -> tuple[Call | None, int]:
        """The call between two marks, the second of which may be missing at the end, and where it is over."""
        if end >= 0:
            return self._parse(self._held[start + len(OPEN) : end]), end + len(CLOSE)
        begun = self._held[start + len(OPEN) :]
        call = None
        if last == "length" or self._tools.forced:
            call = self._parse(begun[: len(begun) - _overlap(begun, CLOSE)])
            if call is None:
                call = self._begun(begun)
                self.cut = call is not None
        return call, len(self._held)

    def _begun(self, text: str) -> Call | None:
        """A call whose arguments are not whole."""
        found = _BEGUN.match(text)
        if found is None or found[1] not in self._tools.names:
            return None
        return Call(found[1], found[2], _name())

    def _parse(self, text: str) -> Call | None:
        try:
            call = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return None
        name = call.get("name") if isinstance(call, dict) else None
        if not isinstance(name, str) or name not in self._tools.names:
            return None
        arguments = call.get("arguments", call.get("parameters", {}))
        if isinstance(arguments, str):
            return Call(name, arguments, _name()) if _is_text(arguments) else None
        if not isinstance(arguments, dict):
            return None
        written = json.dumps(arguments, ensure_ascii=False)
        # Half a pair of surrogates, which a model may escape, is JSON only as it stood there.
        return Call(name, written if _is_text(written) else json.dumps(arguments), _name())


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _name() -> str:
    return f"call_{secrets.token_hex(12)}"


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of ``text`` that begins ``mark``."""
    longest = min(len(mark) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if text.endswith(mark[:size])), 0)
