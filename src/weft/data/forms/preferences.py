"""Two answers to one prompt, of which one is preferred.

Records are read as they are published. ``{"prompt": ..., "chosen": ..., "rejected": ...}``, each a text or a
list of messages (``question``, or ``instruction`` and ``input``, name the prompt too). LLaMA-Factory:
``{"conversations": [...], "chosen": {"from": "gpt", "value": ...}, "rejected": {...}}``. Anthropic's HH-RLHF
(arXiv:2204.05862): two whole dialogues as texts, ``"\\n\\nHuman: ...\\n\\nAssistant: ..."``.

An example becomes two documents, the chosen conversation and behind it the rejected one. What both share from
the beginning is the prompt; the assistant's messages behind it are the answers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from weft.core.errors import DataError
from weft.data.conversations import parse
from weft.data.forms.base import Made, Parsed, Unlabelled, names_of
from weft.tokenizer import Tokenizer
from weft.tokenizer.answers import ASSISTANT, Encoded, encode_answers

Messages = list[dict[str, str]]

_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": ASSISTANT}


class Preferences(Unlabelled):
    """An example is ``[chosen, rejected]``, two conversations with the same beginning."""

    name = "preferences"

    def example(self, record: Any) -> Parsed:
        """``([chosen, rejected], reason, value)``."""
        if not isinstance(record, dict) or not {"chosen", "rejected"} <= record.keys():
            return None, "no_pair", names_of(record)
        sides: list[Messages] = []
        for name in ("chosen", "rejected"):
            messages, reason, value = parse(_conversation(record, record[name]))
            if messages is None:
                return None, reason, f"{name}: {value}"
            sides.append(messages)
        return _compared(*sides)

    def texts(self, example: Any) -> Sequence[str]:
        """Of each message, those of the prompt once."""
        chosen, rejected = example
        return [message["content"] for message in chosen + rejected[_shared(chosen, rejected) :]]

    def encode(self, tokenizer: Tokenizer, examples: Sequence[Any]) -> list[list[Made] | DataError]:
        """Two documents each, the chosen one first."""
        made = iter(encode_answers(tokenizer, [side for example in examples for side in example]))
        return [_documents(example, next(made), next(made)) for example in examples]


def _conversation(record: dict[str, Any], answer: Any) -> dict[str, Any] | None:
    """One side as a record that :func:`weft.data.conversations.parse` reads; None when it cannot be one."""
    turns = _prompt(record)
    if isinstance(answer, str):
        answer = _dialogue(answer) or [{"role": ASSISTANT, "content": answer}]
    elif isinstance(answer, dict):
        answer = [answer]
    if turns is None or not isinstance(answer, list):
        return None
    messages, _, _ = parse({"messages": answer})
    # A list that begins with something else than an answer repeats the prompt.
    whole = answer if messages and messages[0]["role"] != ASSISTANT else [*turns, *answer]
    return {"messages": whole, "system": record.get("system")}


def _prompt(record: dict[str, Any]) -> list[Any] | None:
    """The turns before the answers, none where the answers bring them; None for what is no prompt."""
    for name in ("conversations", "messages", "prompt", "question", "instruction"):
        found = record.get(name)
        if isinstance(found, list):
            return found
        if isinstance(found, str):
            more = record.get("input") if name == "instruction" else None
            text = f"{found}\n{more}" if isinstance(more, str) and more else found
            return _dialogue(text) or [{"role": "user", "content": text}]
        if found is not None:
            return None
    return []


def _dialogue(text: str) -> Messages:
    """The turns of a dialogue in HH-RLHF's spelling; none when the text is something else."""
    before, *rest = _SPEAKER.split(text)
    if before or not rest:
        return []
    speakers, said = rest[0::2], rest[1::2]
    turns = [
        {"role": _ROLES[speaker], "content": words.strip()}
        for speaker, words in zip(speakers, said, strict=True)
    ]
    # A prompt may end with the name of who is to speak.
    return turns[:-1] if turns[-1] == {"role": ASSISTANT, "content": ""} and len(turns) > 1 else turns


def _shared(chosen: Messages, rejected: Messages) -> int:
    """How many messages both have in common from the beginning."""
    place = 0
    while place < min(len(chosen), len(rejected)) and chosen[place] == rejected[place]:
        place += 1
    return place


def _compared(chosen: Messages, rejected: Messages) -> Parsed:
    if chosen == rejected:
        return None, "no_preference", "chosen and rejected are the same"
    prompt = _shared(chosen, rejected)
    for side in (chosen[prompt:], rejected[prompt:]):
        if not side or side[0]["role"] != ASSISTANT:
            return None, "prompts_differ", f"message {prompt}"
        if side[-1]["role"] != ASSISTANT or not side[-1]["content"].strip():
            return None, "no_answer", side[-1]["role"]
    if not prompt:
        return None, "no_prompt", f"{len(chosen)} messages"
    return [chosen, rejected], None, None


def _documents(example: Any, *made: Encoded | DataError) -> list[Made] | DataError:
    """Both documents of an example, with the answers behind the prompt."""
    prompt, documents = _shared(*example), []
    for messages, encoded in zip(example, made, strict=True):
        if isinstance(encoded, DataError):
            return encoded
        said = [place for place, message in enumerate(messages) if message["role"] == ASSISTANT]
        if len(encoded.answers) != 2 * len(said):
            return DataError("The chat template joins answers, so those of the prompt cannot be told apart.")
        kept = sum(place >= prompt for place in said)
        documents.append(Made(encoded.ids, encoded.answers[-2 * kept :]))
    return documents
