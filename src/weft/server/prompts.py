"""Text and conversations to checked token ids, in the process that listens.

It repeats the checks of the engine, so that a wrong prompt is a 400 before it takes a place in a queue.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from weft.core.errors import DataError, UsageError
from weft.tokenizer import Tokenizer, chat
from weft.tokenizer.special import CHATML_TEMPLATE
from weft.tokenizer.template import reads, render

TEMPLATE_SECONDS = 2.0
"""A chat template may take that long; one that loops is cut off."""

Message = Mapping[str, Any]
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}")


class LongPrompt(UsageError):
    """A prompt that the context cannot hold; ``param`` is the field that it came in."""

    def __init__(self, message: str, param: str):
        super().__init__(message)
        self.param = param


class Prompts:
    """Encodes for a model with ``context`` tokens and ``vocabulary`` ids; ``start``: the tokens before a text
    (None: those of the tokenizer)."""

    def __init__(
        self, tokenizer: Tokenizer, context: int, vocabulary: int, start: Sequence[int] | None = None
    ):
        self.tokenizer, self.context, self._vocabulary = tokenizer, context, vocabulary
        self.start = list(tokenizer.start_ids if start is None else start)
        special = [tokenizer.decode([index]) for index in tokenizer.special_ids]
        self._spellings = sorted([*special, *tokenizer.undeclared], key=len, reverse=True)

    def text(self, prompt: str | Sequence[int], *, room: int = 1, param: str = "prompt") -> list[int]:
        """Token ids of a text (begun as documents began in training) or of ids, which stay as they are.

        Raises LongPrompt, with ``param``, for a prompt that leaves less than ``room`` tokens of the context,
        UsageError for no tokens at all and for ids outside the vocabulary, DataError for text that is not
        Unicode.
        """
        if isinstance(prompt, str):
            prompt = [*self.start, *self.tokenizer.encode(prompt)] or [self.tokenizer.eos_id]
        return self._checked(list(prompt), room, param)

    def conversation(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        generate: bool = True,
        room: int = 1,
    ) -> list[int]:
        """Token ids of a conversation, up to where the assistant's turn begins when ``generate``.

        The tokenizer's own template writes it; ChatML is written directly. Tools that the template has no
        place for stand in the system message, and where it knows no calls either they are text. Only what
        the template writes becomes special tokens: a message that spells ``<|im_end|>`` stays text and cannot
        end its turn. Raises as :meth:`text`, and DataError for messages that the template refuses.
        """
        try:
            ids = self._written(messages, tools, generate)
        except RecursionError:
            raise DataError("The messages or tools are nested too deep; make them flatter.") from None
        return self._checked(ids, room, "messages")

    def _written(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], generate: bool
    ) -> list[int]:
        template = self.tokenizer.template(tools=bool(tools))
        if template is None or template == CHATML_TEMPLATE:
            turns = [plain_turn(message) for message in with_tools(messages, tools)]
            ids = chat.encode(self.tokenizer, turns, add_generation_prompt=generate)
            return [*self.tokenizer.start_ids, *ids]
        return self._by_template(template, messages, tools, generate)

    def _by_template(
        self, template: str, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], generate: bool
    ) -> list[int]:
        if not reads(template, "tools"):
            messages, tools = with_tools(messages, tools), ()
            # A template without the word would leave calls out, and refuse the role of their results.
            messages = messages if "tool" in template else [as_text(message) for message in messages]
        text = render(
            template,
            [self._disarmed(message) for message in messages],
            self.tokenizer.template_names,
            add_generation_prompt=generate,
            tools=[self._disarmed(tool) for tool in tools] or None,
            deadline=time.monotonic() + TEMPLATE_SECONDS,
        )
        ids: list[int] = []
        for place, part in enumerate(_MARK.split(text)):
            if place % 2:
                ids += self.tokenizer.encode_message(self._spellings[int(part)])
            else:
                ids += self.tokenizer.encode(part, allow_special=True)
        return ids

    def _disarmed(self, value: Any) -> Any:
        """``value`` with the spellings of special tokens replaced by marks that no text holds."""
        if isinstance(value, str):
            value = value.replace(_OPEN, "").replace(_CLOSE, "")
            for index, spelling in enumerate(self._spellings):
                if spelling in value:
                    value = value.replace(spelling, f"{_OPEN}{index}{_CLOSE}")
            return value
        if isinstance(value, Mapping):
            return {self._disarmed(key): self._disarmed(item) for key, item in value.items()}
        return [self._disarmed(item) for item in value] if isinstance(value, list) else value

    def _checked(self, tokens: list[int], room: int, param: str) -> list[int]:
        if not tokens:
            raise UsageError("The prompt has no tokens; give at least one.")
        if not 0 <= min(tokens) <= max(tokens) < self._vocabulary:
            wrong = next(token for token in tokens if not 0 <= token < self._vocabulary)
            raise UsageError(
                f"The prompt holds token id {wrong}, but the model knows {self._vocabulary} tokens."
            )
        if len(tokens) + room > self.context:
            left = " and at least one must be left for the answer" if room else ""
            raise LongPrompt(
                f"The prompt is too long: it has {len(tokens)} tokens, but the context holds "
                f"{self.context}{left}; shorten it.",
                param,
            )
        return tokens


def with_tools(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """``messages`` with the tools described in the first one, as Qwen's and Hermes' templates do."""
    if not tools:
        return list(messages)
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    text = (
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n"
        f"<tools>\n{listed}\n</tools>\n\n"
        "For each function call, return a json object with function name and arguments within "
        '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": '
        "<args-json-object>}\n</tool_call>"
    )
    if messages and messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{messages[0]['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def plain_turn(message: Message) -> dict[str, str]:
    """A message as ChatML's role and text. The name of a participant stands behind its role, as in OpenAI's
    ChatML; results of tools have none, and come in the order of the calls."""
    turn = as_text(message)
    name = turn.pop("name", None)
    return turn if name is None else {**turn, "role": f"{turn['role']} name={name}"}


def as_text(message: Message) -> dict[str, str]:
    """A message as role and text, and the ``name`` of who speaks: calls and results of tools are written out
    as Qwen writes them."""
    role, content = message["role"], message.get("content") or ""
    if role == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    written = [f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in calls]
    if not isinstance(content, str):
        raise DataError(f"A chat message needs a text content, not {content!r}.")
    text = "\n".join([*([content] if content else []), *written])
    name = message.get("name")
    return {"role": role, "content": text} if name is None else {"role": role, "content": text, "name": name}
