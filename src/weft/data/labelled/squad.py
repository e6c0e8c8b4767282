"""Questions about a text, whose answers stand in it: the JSON of SQuAD (Rajpurkar et al. 2016, 2018).

``{"data": [{"paragraphs": [{"context", "qas": [...]}]}]}`` with questions ``{"id", "question", "answers":
[{"text", "answer_start"}]}``, in version 2 with ``is_impossible``; CMRC 2018 and DRCD have the same form.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weft.core.errors import DataError
from weft.data.examples import Record
from weft.data.labelled.opened import Files, flaw, opened, paths, spelled


def read(files: Files) -> Iterator[Record]:
    """``{"id", "context", "question", "answers": [{"text", "start"}]}`` of each question, in characters.

    A question that cannot be answered has no answers; one without an id is called by where it was. An answer
    that is not at its offset is looked for nearby; each that is nowhere is reported as
    ``answer_not_in_context``, and the question goes on with the others if there are any. ``where`` counts
    articles, paragraphs, questions and, in a report, answers.
    """
    for file in paths(files):
        for number, article in enumerate(_articles(file)):
            at = f"{file.name}#{number}"
            paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
            if not isinstance(paragraphs, list):
                yield at, None, "no_paragraphs", spelled(article)
                continue
            for count, paragraph in enumerate(paragraphs):
                yield from _of_paragraph(f"{at}.{count}", paragraph)


def _articles(file: Path) -> list[Any]:
    with opened(file) as stream:
        content = stream.read()
    try:
        whole = json.loads(content.decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"The questions {file} are not JSON: {error}.") from error
    articles = whole.get("data") if isinstance(whole, dict) else None
    if not isinstance(articles, list):
        raise DataError(f"The questions {file} are not in the form of SQuAD: there is no list under 'data'.")
    return articles


def _of_paragraph(at: str, paragraph: Any) -> Iterator[Record]:
    context = paragraph.get("context") if isinstance(paragraph, dict) else None
    if not isinstance(context, str):
        yield at, None, "no_context", spelled(paragraph)
        return
    questions = paragraph.get("qas")
    if not isinstance(questions, list):
        yield at, None, "no_questions", spelled(paragraph)
        return
    for number, question in enumerate(questions):
        yield from _of_question(f"{at}.{number}", context, question)


def _of_question(where: str, context: str, given: Any) -> Iterator[Record]:
    if not isinstance(given, dict) or not isinstance(given.get("question"), str):
        yield where, None, "no_question", spelled(given)
        return
    question, answers, name = given["question"], given.get("answers"), given.get("id")
    name = str(name) if isinstance(name, str | int) else where
    if (broken := flaw(context) or flaw(question) or flaw(name)) is not None:
        yield where, None, "invalid_encoding", broken
        return
    if given.get("is_impossible") is True:
        answers = []
    if not isinstance(answers, list):
        yield where, None, "no_answers", spelled(given)
        return
    placed: list[dict[str, Any]] = []
    for number, answer in enumerate(answers):
        text = answer.get("text") if isinstance(answer, dict) else None
        if not isinstance(text, str) or not text:
            yield f"{where}.{number}", None, "empty_answer", spelled(answer)
        elif (start := _nearest(context, text, answer.get("answer_start"))) is None:
            yield f"{where}.{number}", None, "answer_not_in_context", spelled(text)
        else:
            placed.append({"text": text, "start": start})
    if placed or not answers:
        yield where, {"id": name, "context": context, "question": question, "answers": placed}, None, None


def _nearest(context: str, text: str, start: Any) -> int | None:
    """Where ``text`` stands in ``context``, as near to ``start`` as possible, if it does."""
    at = min(max(start, 0), len(context)) if isinstance(start, int) else 0
    before, after = context.rfind(text, 0, at + len(text)), context.find(text, at)
    found = [place for place in (before, after) if place >= 0]
    return min(found, key=lambda place: abs(place - at)) if found else None
