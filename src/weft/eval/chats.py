"""Conversations to measure a chat model with: what is asked, and the answer that was given to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weft.core.errors import DataError
from weft.data.conversations import Messages, parse
from weft.data.examples import records
from weft.tokenizer import Tokenizer
from weft.tokenizer.answers import ASSISTANT, Encoded, encode_answers


@dataclass(frozen=True)
class Chat:
    """``asked``: the messages before the last answer, which is ``reference``; ``where`` it was read."""

    where: str
    asked: Messages
    reference: str

    @property
    def prompt(self) -> str:
        """What is asked as one text: the only message as it is, of several each behind its role."""
        if len(self.asked) == 1 and self.asked[0]["role"] == "user":
            return self.asked[0]["content"]
        return "\n\n".join(f"{message['role']}: {message['content']}" for message in self.asked)

    @property
    def answered(self) -> Messages:
        """The whole conversation."""
        return [*self.asked, {"role": ASSISTANT, "content": self.reference}]


def read_chats(files: Sequence[Path]) -> list[Chat]:
    """Every record of the files, in the forms of :mod:`weft.data.conversations`.

    DataError for a record that is no conversation, and for one whose last message is no answer.
    """
    found = []
    for where, record, reason, value in records(sorted(map(str, files)), ("instruction", "output")):
        messages = None
        if reason is None:
            messages, reason, value = parse(record)
        if messages is None:
            why = f"{reason} ({value})"
            raise DataError(f"{where} is no conversation with an answer: {why}; mend or remove it.")
        *asked, last = messages
        if last["role"] != ASSISTANT or not last["content"].strip() or not asked:
            raise DataError(f"{where} does not end with a question and its answer; mend or remove it.")
        found.append(Chat(where, asked, last["content"]))
    if not found:
        raise DataError(f"There is no conversation in {', '.join(map(str, files))}; give files with some.")
    return found


def encoded(tokenizer: Tokenizer, chats: Sequence[Chat]) -> list[Encoded]:
    """Each conversation with its reference, by the template saved with the tokenizer.

    DataError for one that the template cannot write.
    """
    made = encode_answers(tokenizer, [chat.answered for chat in chats])
    found = []
    for chat, one in zip(chats, made, strict=True):
        if isinstance(one, DataError):
            raise DataError(f"{chat.where}: {one}")
        found.append(one)
    return found


def prompt_ids(tokenizer: Tokenizer, one: Encoded) -> list[int]:
    """What stands before the last answer, as documents began in training."""
    ids, start = one.ids[: one.answers[-2]], list(tokenizer.start_ids)
    return ids if ids[: len(start)] == start else [*start, *ids]
