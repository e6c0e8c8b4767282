"""Named entities, a token and its tag a line: Ramshaw and Marcus 1995 (cmp-lg/9505040), as CoNLL-2003 has it.

``token<space or tab>tag``, a blank line after each sentence; of more columns the first and the last count,
and ``-DOCSTART-`` is no token. Tags are ``O`` or a letter and a label, ``B-PER`` or ``B_PER``: BIO (also IOB1
and IO), BMES, BIOES and BILOU. As in conlleval, whatever cannot continue a span begins one.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from weft.data.examples import Record
from weft.data.labelled.opened import Files, Line, blocks, paths

_BEGIN, _SINGLE, _END = "BSU", "SU", "ESLU"
_TAG = re.compile(r"([BIMESLU])[-_](.+)")
_LANGUAGE = re.compile(r"[a-z]+(-[a-z]+)*:")
_MARKER = "-DOCSTART-"
# Han, kana, bopomofo, full-width forms, and the dashes, dots and quotes that Chinese shares with others.
_CJK = re.compile(
    "[\u2e80-\u312f\u31a0-\u4dbf\u4e00-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff9f\uffe0-\uffe6"
    "\U00020000-\U0003ffff·‘’“”…—]"
)


def read(
    files: Files, *, index_suffix: bool = False, language_prefix: bool = False, bare_labels: bool = False
) -> Iterator[Record]:
    """``{"text", "spans": [{"start", "end", "label"}]}`` of each sentence, in characters, end exclusive.

    ``index_suffix``: a token ends with a digit that is not its own (``科0``, Weibo).
    ``language_prefix``: it begins with a language (``en:word``, WikiANN).
    ``bare_labels``: a tag is ``O`` or the label alone (Few-NERD).
    A sentence with a broken line is reported once, at that line.
    """
    for file in paths(files):
        for block in blocks(file):
            sentence = [line for line in block if not line.text.startswith(_MARKER)]
            if sentence:
                yield _sentence(sentence, index_suffix, language_prefix, bare_labels)


def join(tokens: Sequence[str]) -> tuple[str, list[int]]:
    """The text and where each token begins: one space between two, none if both sides are CJK.

    A sentence in which every token is one character has no spaces.
    """
    characters = all(len(token) == 1 for token in tokens)
    pieces: list[str] = []
    starts: list[int] = []
    end = 0
    for number, token in enumerate(tokens):
        if number and not characters and not (_CJK.match(tokens[number - 1][-1]) and _CJK.match(token[0])):
            pieces.append(" ")
            end += 1
        pieces.append(token)
        starts.append(end)
        end += len(token)
    return "".join(pieces), starts


def _sentence(block: list[Line], index_suffix: bool, language_prefix: bool, bare_labels: bool) -> Record:
    tokens: list[str] = []
    tags: list[tuple[str, str]] = []
    for where, line, flaw in block:
        if flaw is not None:
            return where, None, "invalid_encoding", flaw
        cells = line.rstrip(" \t").split("\t" if "\t" in line.rstrip(" \t") else " ")
        if len(cells) < 2:
            return where, None, "too_few_columns", line[:200]
        token, tag = cells[0].strip(" "), _parsed(cells[-1].strip(" "), bare_labels)
        if language_prefix:
            token = _LANGUAGE.sub("", token, count=1) if _LANGUAGE.match(token) else token
        if index_suffix and token[-1:] in set("0123456789"):
            token = token[:-1]
        if not token:
            return where, None, "no_token", line[:200]
        if tag is None:
            return where, None, "bad_tag", cells[-1][:200]
        tokens.append(token)
        tags.append(tag)
    text, starts = join(tokens)
    spans: list[dict[str, Any]] = []
    for first, last, label in _spans(tags):
        spans.append({"start": starts[first], "end": starts[last] + len(tokens[last]), "label": label})
    return block[0].where, {"text": text, "spans": spans}, None, None


def _spans(tags: Sequence[tuple[str, str]]) -> Iterator[tuple[int, int, str]]:
    """(first token, last token, label) of each span."""
    begun: int | None = None
    for number, (letter, label) in enumerate(tags):
        if begun is not None and (letter == "O" or letter in _BEGIN or label != tags[begun][1]):
            yield begun, number - 1, tags[begun][1]
            begun = None
        if letter != "O" and begun is None:
            begun = number
        if begun is not None and letter in _END:
            yield begun, number, label
            begun = None
    if begun is not None:
        yield begun, len(tags) - 1, tags[begun][1]


@functools.lru_cache(maxsize=4096)
def _parsed(tag: str, bare: bool) -> tuple[str, str] | None:
    """(letter, label); None for what is no tag."""
    if tag == "O":
        return "O", ""
    if bare:
        return ("I", tag) if tag else None
    found = _TAG.fullmatch(tag)
    return (found[1], found[2]) if found else None
