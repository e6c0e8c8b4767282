"""Conversations as token ids, with the parts that a model shall learn to say: the assistant's answers.

A message never becomes markup: only what the template writes around it may turn into special tokens, so
an answer that spells ``<|im_end|>`` is learnt as those characters. Each message is encoded for itself, which
is what the model meets when a prompt ends before its answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from weft.core.errors import DataError
from weft.tokenizer.encode import Tokenizer
from weft.tokenizer.special import CHATML_TEMPLATE, TURN_END, TURN_START
from weft.tokenizer.template import render

Messages = Sequence[Mapping[str, str]]
ASSISTANT = "assistant"
_MARK = "\ue000{}\ue001"
_MARKS = re.compile("\ue000(\\d+)\ue001")


@dataclass(frozen=True)
class Part:
    """A stretch of a conversation: markup of the template, or the plain text of a message."""

    text: str
    markup: bool
    learnt: bool


@dataclass(frozen=True)
class Encoded:
    """``ids``, which an end of text closes; ``answers``: where to learn, ``[start, stop, start, stop, ...]``.

    Where the template has no end of a turn, the last answer is learnt with the end of text.
    """

    ids: list[int]
    answers: list[int]


def encode_answers(tokenizer: Tokenizer, conversations: Sequence[Messages]) -> list[Encoded | DataError]:
    """Each conversation by the tokenizer's own chat template, on all cores, or why it cannot be encoded."""
    split: list[list[Part] | DataError] = []
    for messages in conversations:
        try:
            split.append(parts(tokenizer, messages))
        except DataError as error:
            split.append(error)
    good = [item for found in split if not isinstance(found, DataError) for item in found]
    plain = tokenizer.encode_batch([item.text for item in good if not item.markup])
    markup = tokenizer.encode_batch([item.text for item in good if item.markup], allow_special=True)
    streams = {False: iter(plain), True: iter(markup)}
    return [
        found
        if isinstance(found, DataError)
        else _joined(tokenizer, [(next(streams[item.markup]), item.learnt) for item in found])
        for found in split
    ]


def parts(tokenizer: Tokenizer, messages: Messages) -> list[Part]:
    """The stretches of a conversation in order; DataError when the template cannot write it."""
    for message in messages:
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise DataError(f"A chat message needs a text role and a text content, not {dict(message)!r}.")
    template = tokenizer.chat_template
    if template is None or template == CHATML_TEMPLATE:
        return _chatml(tokenizer, messages)
    return _of_template(tokenizer, template, messages)


def _chatml(tokenizer: Tokenizer, messages: Messages) -> list[Part]:
    if tokenizer.token_id(TURN_START) is None or tokenizer.token_id(TURN_END) is None:
        raise DataError(
            f"The tokenizer has no chat template, and no {TURN_START} and {TURN_END} to write turns with."
        )
    found = []
    for message in messages:
        role, learnt = message["role"], message["role"] == ASSISTANT
        # Where the answer begins there is a cut, as after a prompt; other messages are encoded with the
        # line end of their role, as in prompts.
        opening = [f"{role}\n", message["content"]] if learnt else [f"{role}\n{message['content']}"]
        found.append(Part(TURN_START, markup=True, learnt=False))
        found += [Part(text, markup=False, learnt=learnt and place > 0) for place, text in enumerate(opening)]
        found.append(Part(TURN_END, markup=True, learnt=learnt))
        found.append(Part("\n", markup=False, learnt=False))
    return found


def _of_template(tokenizer: Tokenizer, template: str, messages: Messages) -> list[Part]:
    """The template is rendered with marks in place of the texts, and cut at the marks."""
    names = tokenizer.template_names
    texts = [message["content"] for message in messages]
    marked = [{**message, "content": _MARK.format(i)} for i, message in enumerate(messages)]
    frame = render(template, marked, names, add_generation_prompt=False)
    whole = render(template, messages, names, add_generation_prompt=False)
    pieces = _MARKS.split(frame)
    order = [int(number) for number in pieces[1::2]]
    if _filled(pieces, texts) != whole:
        texts = [text.strip() for text in texts]
    if _filled(pieces, texts) != whole:
        raise DataError("The chat template changes the text of the messages, so no answer can be told apart.")
    found = [Part(pieces[0], markup=True, learnt=False)]
    for place, index in enumerate(order):
        learnt = messages[index]["role"] == ASSISTANT
        found.append(Part(texts[index], markup=False, learnt=learnt))
        after = pieces[2 * place + 2]
        end = _end_of_turn(tokenizer, after) if learnt else 0
        found.append(Part(after[:end], markup=True, learnt=learnt))
        found.append(Part(after[end:], markup=True, learnt=False))
    return found


def _filled(pieces: list[str], texts: list[str]) -> str:
    return "".join(piece if place % 2 == 0 else texts[int(piece)] for place, piece in enumerate(pieces))


def _end_of_turn(tokenizer: Tokenizer, text: str) -> int:
    """Where the first special token in ``text`` ends; 0 without one."""
    names = [tokenizer.decode([index]) for index in tokenizer.special_ids]
    ends = [text.index(name) + len(name) for name in names if name in text]
    return min(ends, default=0)


def _joined(tokenizer: Tokenizer, pieces: Sequence[tuple[list[int], bool]]) -> Encoded:
    ids: list[int] = []
    answers: list[int] = []
    for piece, learnt in pieces:
        if learnt and answers and answers[-1] == len(ids):
            answers[-1] += len(piece)
        elif learnt and piece:
            answers += [len(ids), len(ids) + len(piece)]
        ids += piece
    open_end = bool(answers) and answers[-1] == len(ids) and ids[-1] not in tokenizer.special_ids
    if not ids or ids[-1] != tokenizer.eos_id:
        ids.append(tokenizer.eos_id)
        answers[-1:] = [answers[-1] + open_end] if answers else []
    return Encoded(ids, answers)
