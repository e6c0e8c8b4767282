"""Calls of tools in what a model writes: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``.

The markup is that of Qwen and Hermes. What is no call stays text, as the model wrote it.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass

OPEN, CLOSE = "<tool_call>", "</tool_call>"

_OUTSIDE = re.compile(f'"|{CLOSE}')
_WITHIN = re.compile(r'"|\\.', re.DOTALL)
"""What to stop at outside and within the texts of JSON: the mark may stand in those."""

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
        self._at, self._quoted = 0, False
        self.found = 0
        self.cut = False
        self._spoken, self._blank = False, ""

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
                shown.append(self._content(self._held[:cut]))
                self._held = self._held[cut:]
                break
            shown.append(self._content(self._held[:start]))
            self._held = self._held[start:]
            call, over = self._call(last)
            if not over:
                break
            if call is None:
                shown.append(self._content(self._held[:over]))
            else:
                calls.append(call)
                self.found += 1
                self._blank, self._spoken = "", False
            self._held = self._held[over:]
            self._at, self._quoted = 0, False
        if last:
            shown.append(self._blank)
        return "" if self._tools.forced else "".join(shown), calls

    def _content(self, text: str) -> str:
        """What of ``text`` is content now: the line breaks that the markup puts around calls are none."""
        if not self._spoken:
            text = self._blank + text
            if self.found:
                text = text.lstrip()
            self._spoken = bool(text.strip())
            self._blank = "" if self._spoken else text
        return text if self._spoken else ""

    def _call(self, last: str | None) -> tuple[Call | None, int]:
        """The call whose mark is held and where it is over, or how much is text; 0 while nobody can say."""
        begun = self._held[len(OPEN) :]
        first = begun.lstrip()[:1]
        if first and first != "{":
            return None, len(OPEN)
        end = self._end()
        if end < 0 and not last:
            return None, 0
        call = None
        if end >= 0:
            call = self._parse(self._held[len(OPEN) : end])
        else:
            # A model may end, or be stopped, where only the mark is wanting.
            call = self._parse(begun[: len(begun) - _overlap(begun, CLOSE)])
            if call is None and (last == "length" or self._tools.forced):
                call = self._begun(begun)
                self.cut = call is not None
        if call is None:
            return None, self._no_call(end)
        return call, len(self._held) if end < 0 else end + len(CLOSE)

    def _no_call(self, end: int) -> int:
        """How much is text where no call stands before ``end``: up to the next place where one may begin."""
        # Quotes that were none may hide a mark.
        end = self._held.find(CLOSE) if end < 0 else end
        again = self._held.rfind(OPEN, 1, len(self._held) if end < 0 else end)
        if again > 0:
            return again
        return len(self._held) if end < 0 else end + len(CLOSE)

    def _end(self) -> int:
        """Where the mark behind the call begins, -1 while it is not there. Nothing is looked at twice."""
        self._at = max(self._at, len(OPEN))
        while found := (_WITHIN if self._quoted else _OUTSIDE).search(self._held, self._at):
            if found[0] == CLOSE:
                return found.start()
            self._at = found.end()
            self._quoted ^= found[0] == '"'
        tail = int(self._held.endswith("\\")) if self._quoted else len(CLOSE) - 1
        self._at = max(self._at, len(self._held) - tail)
        return -1

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
        written = _as_written(text, arguments)
        return None if written is None else Call(name, written, _name())


def _as_written(text: str, arguments: dict[str, object]) -> str | None:
    """The arguments of a call as the model wrote them, digit by digit, where they stand last; else anew."""
    if found := _BEGUN.match(text):
        _, end = json.JSONDecoder().raw_decode(found[2])
        if found[2][end:].strip() == "}":
            return found[2][:end]
    try:
        return json.dumps(arguments, allow_nan=False)
    except (ValueError, RecursionError):
        return None


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
