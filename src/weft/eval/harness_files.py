"""Benchmark files as items: passages with a last word, and questions with options.

A file is given as it is published, plain or compressed: JSON Lines of ``text`` (LAMBADA); a folder or tar of
``dev/*.csv`` and ``test/*.csv`` (MMLU without a header, CMMLU with one); JSON of ``instruction`` and
``answer`` with the options in the instruction (ARC, OpenBookQA and PIQA as LLM-Adapters has them).
"""

from __future__ import annotations

import csv
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from weft.core.errors import DataError, UsageError
from weft.data.labelled.opened import opened

LETTERS = ("A", "B", "C", "D")
_OPTION = re.compile(r"\s*\b(?:Answer|Solution|Ending|Option)(\d+):\s*")
_FORMAT = re.compile(r"\s*\bAnswer format:.*\Z", re.DOTALL)
_LEAD = re.compile(r"\APlease choose the correct \w+ to the question:\s*")


@dataclass(frozen=True)
class Passage:
    """``context`` is the text without its last word; ``word`` that word with the space before it."""

    context: str
    word: str


@dataclass(frozen=True)
class Choice:
    """``options``: what may follow ``context``; ``texts``: what they say; ``gold``: the right one's number.

    ``group``: the subject, where there are several.
    """

    context: str
    options: tuple[str, ...]
    texts: tuple[str, ...]
    gold: int
    group: str = ""


def passages(file: Path) -> list[Passage]:
    """LAMBADA. DataError for a file that is none, or a text of one word."""
    found = []
    with opened(file) as stream:
        for number, line in enumerate(stream):
            if not line.strip():
                continue
            record = _parsed(file, number, line)
            text = record.get("text") if isinstance(record, dict) else None
            context, space, word = text.rpartition(" ") if isinstance(text, str) else ("", "", "")
            if not context.strip() or not word.strip():
                raise DataError(f"{file}#{number} is no passage; LAMBADA has a text of several words a line.")
            found.append(Passage(context, space + word))
    return _some(file, found)


def mmlu(file: Path, shots: int = 0) -> list[Choice]:
    """MMLU: the answer is a letter; ``shots`` solved questions of ``dev`` stand before each."""

    def rows(text: str) -> list[list[str]]:
        return list(csv.reader(io.StringIO(text, newline="")))

    return _subjects(file, shots, rows, "Answer:", _described)


def cmmlu(file: Path, shots: int = 0) -> list[Choice]:
    """CMMLU, as :func:`mmlu`. The instruction names no subject: files have their English names only."""

    def rows(text: str) -> list[list[str]]:
        table = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
        return [[row.get(name) or "" for name in ("Question", *LETTERS, "Answer")] for row in table]

    return _subjects(
        file, shots, rows, "答案：", lambda subject: "以下是单项选择题，请直接给出正确答案的选项。\n\n"
    )


def arc(file: Path, shots: int = 0) -> list[Choice]:
    """ARC: the answer is a text."""
    return _instructions(file, shots, "Question: {}\nAnswer:")


def piqa(file: Path, shots: int = 0) -> list[Choice]:
    """PIQA: the answer is one of two texts."""
    return _instructions(file, shots, "Question: {}\nAnswer:")


def openbookqa(file: Path, shots: int = 0) -> list[Choice]:
    """OpenBookQA: the answer ends the question."""
    return _instructions(file, shots, "{}")


def _described(subject: str) -> str:
    name = subject.replace("_", " ")
    return f"The following are multiple choice questions (with answers) about {name}.\n\n"


def _subjects(
    file: Path,
    shots: int,
    rows: Callable[[str], list[list[str]]],
    ask: str,
    describe: Callable[[str], str],
) -> list[Choice]:
    tables: dict[str, dict[str, list[list[str]]]] = {"dev": {}, "test": {}}
    for name, text in _tables(file):
        split = PurePosixPath(name).parent.name
        if split in tables:
            subject = PurePosixPath(name).stem.removesuffix(f"_{split}")
            tables[split][subject] = _checked(name, rows(text))
    found = []
    for subject, questions in sorted(tables["test"].items()):
        solved = tables["dev"].get(subject, [])
        if len(solved) < shots:
            raise UsageError(f"{subject} has {len(solved)} solved examples; ask for no more shots.")
        before = describe(subject) + "".join(f"{_asked(row, ask)} {row[5]}\n\n" for row in solved[:shots])
        for row in questions:
            options = tuple(f" {letter}" for letter in LETTERS)
            gold = LETTERS.index(row[5])
            found.append(Choice(before + _asked(row, ask), options, tuple(row[1:5]), gold, subject))
    return _some(file, found)


def _asked(row: Sequence[str], ask: str) -> str:
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, row[1:5], strict=True))
    return f"{row[0].strip()}\n{listed}\n{ask}"


def _checked(name: str, rows: list[list[str]]) -> list[list[str]]:
    for number, row in enumerate(rows):
        if len(row) != 6 or row[5].strip() not in LETTERS:
            raise DataError(f"{name}#{number} is no question, four options and a letter; check the format.")
    return [[*row[:5], row[5].strip()] for row in rows]


def _tables(file: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of every CSV in a folder or tar."""
    if file.is_dir():
        for inner in sorted(file.rglob("*.csv")):
            yield inner.relative_to(file).as_posix(), inner.read_text(encoding="utf-8")
        return
    if not file.is_file():
        raise DataError(f"There is no file {file}; check the path.")
    try:
        with opened(file) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.name.endswith(".csv") else None
                if content is not None:
                    yield member.name, content.read().decode("utf-8")
    except (tarfile.TarError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is no tar of CSV files in UTF-8: {error}.") from error


def _instructions(file: Path, shots: int, form: str) -> list[Choice]:
    if shots:
        raise UsageError("Solved examples are there for mmlu and cmmlu only; leave --harness-shots out.")
    with opened(file) as stream:
        table = _parsed(file, 0, stream.read())
    if not isinstance(table, list):
        raise DataError(f"{file} is no list of instructions with answers; check the format.")
    return _some(file, [_instructed(f"{file.name}#{n}", record, form) for n, record in enumerate(table)])


def _instructed(where: str, record: Any, form: str) -> Choice:
    text, answer = (
        record.get(name) if isinstance(record, Mapping) else None for name in ("instruction", "answer")
    )
    pieces = _OPTION.split(_FORMAT.sub("", text)) if isinstance(text, str) else []
    question, texts = "".join(pieces[:1]), tuple(piece.strip() for piece in pieces[2::2])
    gold = re.search(r"(\d+)\Z", answer) if isinstance(answer, str) else None
    if len(texts) < 2 or gold is None or not 0 < int(gold[1]) <= len(texts):
        raise DataError(f"{where} has no options and an answer among them; check the format.")
    context = form.format(_LEAD.sub("", question).strip())
    return Choice(context, tuple(f" {one}" for one in texts), texts, int(gold[1]) - 1)


def _parsed(file: Path, number: int, content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise DataError(f"{file}#{number} is no JSON: {error}.") from error


def _some(file: Path, found: list[Any]) -> list[Any]:
    if not found:
        raise DataError(f"{file} has no item of this benchmark; check the format.")
    return found
