"""Calls of tools in what a model writes: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``.

The markup is that of Qwen and Hermes. What is no whole call stays text, as the model wrote it.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass

OPEN, CLOSE = "<tool_call>", "</tool_call>"


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
    """Tells text from calls while text comes; ``names`` are the tools there are."""

    def __init__(self, names: frozenset[str]):
        self._names = names
        self._held = ""
        self.found = 0

    def push(self, text: str, *, last: bool = False) -> tuple[str, list[Call]]:
        """The text that may be shown now and the calls that are complete."""
        self._held += text
        shown: list[str] = []
        calls: list[Call] = []
        while True:
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
            if end < 0:
                shown.append(self._held)
                self._held = ""
                break
            call = self._parse(self._held[start + len(OPEN) : end])
            whole = end + len(CLOSE)
            if call is None:
                shown.append(self._held[:whole])
            else:
                shown.append(self._held[:start])
                calls.append(call)
                self.found += 1
            self._held = self._held[whole:]
        content = "".join(shown)
        # The line breaks that the markup puts between calls are no content.
        return ("" if self.found and not content.strip() else content), calls

    def _parse(self, text: str) -> Call | None:
        try:
            call = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(call, dict) or call.get("name") not in self._names:
            return None
        arguments = call.get("arguments", call.get("parameters", {}))
        if isinstance(arguments, str):
            return Call(call["name"], arguments, _name())
        if not isinstance(arguments, dict):
            return None
        return Call(call["name"], json.dumps(arguments, ensure_ascii=False), _name())


def _name() -> str:
    return f"call_{secrets.token_hex(12)}"


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of ``text`` that begins ``mark``."""
    longest = min(len(mark) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if text.endswith(mark[:size])), 0)
