"""Records of conversations in the forms that are in use, as messages with roles and texts.

OpenAI: ``{"messages": [{"role": "user", "content": "..."}, ...]}``. ShareGPT: ``{"conversations": [{"from":
"human", "value": "..."}, ...], "system": "..."}``. Alpaca: ``{"instruction": "...", "input": "...",
"output": "...", "history": [["...", "..."], ...], "system": "..."}``.
"""

from __future__ import annotations

from typing import Any

Messages = list[dict[str, str]]
Parsed = tuple[Messages | None, str | None, str | None]
"""``(messages, reason, value)``: messages, or why the record is dropped and what was found."""

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_call": "assistant",
}


def parse(record: Any) -> Parsed:
    """The messages of a record of any of the forms, at least one of them an answer that says something."""
    if not isinstance(record, dict):
        return None, "no_conversation", type(record).__name__
    if isinstance(record.get("messages"), list):
        found = _turns(record["messages"], "role", "content")
    elif isinstance(record.get("conversations"), list):
        found = _turns(record["conversations"], "from", "value")
    elif "instruction" in record and "output" in record:
        found = _alpaca(record)
    else:
        return None, "no_conversation", ", ".join(list(map(str, record))[:8])
    messages, reason, value = found
    if messages is None:
        return found
    system = record.get("system")
    if isinstance(system, str) and system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    if not any(m["role"] == "assistant" and m["content"].strip() for m in messages):
        return None, "no_answer", str(len(messages))
    if not _spells_utf8(messages):
        return None, "invalid_encoding", "lone surrogate"
    return messages, reason, value


def _turns(turns: list[Any], role_key: str, text_key: str) -> Parsed:
    messages: Messages = []
    for place, turn in enumerate(turns):
        if not isinstance(turn, dict):
            return None, "bad_message", f"message {place} is {type(turn).__name__}"
        # Some sets mix the two spellings.
        role = turn.get(role_key, turn.get("role", turn.get("from")))
        text = _text(turn.get(text_key, turn.get("content", turn.get("value"))))
        if not isinstance(role, str) or role not in _ROLES:
            return None, "unknown_role", f"message {place}: {role!r:.40}"
        if text is None or turn.get("tool_calls"):
            what = "tool_calls" if turn.get("tool_calls") else "no text"
            return None, "bad_message", f"message {place}: {what}"
        messages.append({"role": _ROLES[role], "content": text})
    return (messages, None, None) if messages else (None, "no_answer", "0")


def _text(content: Any) -> str | None:
    """The text of a message; of a list of parts all texts, and None when a part is something else."""
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if any(not isinstance(text, str) for text in texts):
            return None
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else None


def _alpaca(record: dict[str, Any]) -> Parsed:
    instruction, answer = record["instruction"], record["output"]
    asked = record.get("input") or ""
    if not all(isinstance(text, str) for text in (instruction, answer, asked)):
        return None, "bad_message", "instruction, input and output must be texts"
    messages: Messages = []
    for place, pair in enumerate(record.get("history") or []):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            return None, "bad_message", f"turn {place} of the history is no pair of texts"
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    question = f"{instruction}\n{asked}" if asked else instruction
    messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages, None, None


def _spells_utf8(messages: Messages) -> bool:
    try:
        "".join(message["content"] for message in messages).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
