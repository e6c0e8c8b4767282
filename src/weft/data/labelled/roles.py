"""Semantic roles in the brackets of CoNLL-2005 (Carreras and Màrquez 2005), a word a line.

Columns: id, word, lemma, part of speech, lemma of the predicate or ``-``, roleset or ``-``, then one column a
predicate: ``(ARG0*`` begins a role, ``*)`` ends it, ``(V*)`` is the predicate. A blank line ends a sentence,
``#`` at the start of a line makes it a comment.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

from weft.data.examples import Record
from weft.data.labelled.opened import Files, blocks, paths

_FIXED = 6
_WORD = 1
_ROLESET = 5
_PREDICATE = "V"
_CELL = re.compile(r"((?:\([^()*]+)*)\*(\)*)")


def read(files: Files) -> Iterator[Record]:
    """``{"text", "predicate": {"start", "end"}, "roles": [{"start", "end", "label"}]}`` of each predicate.

    Characters, end exclusive; words are joined by one space. ``V`` is no role; ``C-V``, its second part, is
    one. A sentence without predicates gives nothing; one whose rows differ in length, or that has not as many
    columns as rolesets, is reported once.
    """
    for file in paths(files):
        for block in blocks(file):
            yield from _sentence([line for line in block if not line.text.startswith("#")])


def _sentence(block: Sequence[tuple[str, str, str | None]]) -> Iterator[Record]:
    rows: list[list[str]] = []
    for where, line, flaw in block:
        if flaw is not None:
            yield where, None, "invalid_encoding", flaw
            return
        cells = line.rstrip().split("\t") if "\t" in line else line.split()
        if len(cells) < (len(rows[0]) if rows else _FIXED) or not cells[_WORD]:
            yield where, None, "too_few_columns", line[:200]
            return
        if rows and len(cells) > len(rows[0]):
            yield where, None, "too_many_columns", line[:200]
            return
        rows.append(cells)
    if not rows:
        return
    words = [row[_WORD] for row in rows]
    starts = list(itertools.accumulate((len(word) + 1 for word in words), initial=0))
    rolesets, columns = sum(row[_ROLESET] != "-" for row in rows), len(rows[0]) - _FIXED
    if rolesets != columns:
        yield block[0][0], None, "predicate_columns", f"{columns} columns, {rolesets} rolesets"
        return
    for column in range(_FIXED, len(rows[0])):
        where = f"{block[0][0]}.{column - _FIXED}"
        spans = _spans([row[column].strip() for row in rows])
        if spans is None:
            yield where, None, "bad_brackets", " ".join(row[column] for row in rows)[:200]
            continue
        placed = [
            {"start": starts[first], "end": starts[last] + len(words[last]), "label": label}
            for first, last, label in spans
        ]
        predicates = [span for span in placed if span["label"] == _PREDICATE]
        if len(predicates) != 1:
            yield where, None, "no_predicate" if not predicates else "many_predicates", str(len(predicates))
            continue
        predicate = {"start": predicates[0]["start"], "end": predicates[0]["end"]}
        roles = [span for span in placed if span["label"] != _PREDICATE]
        yield where, {"text": " ".join(words), "predicate": predicate, "roles": roles}, None, None


def _spans(cells: Sequence[str]) -> list[tuple[int, int, str]] | None:
    """(first word, last word, label) of each bracket, in order of the text; None when they do not match."""
    begun: list[tuple[int, str]] = []
    spans: list[tuple[int, int, str]] = []
    for number, cell in enumerate(cells):
        found = _CELL.fullmatch(cell)
        if found is None:
            return None
        begun += [(number, label) for label in found[1].split("(")[1:]]
        if len(found[2]) > len(begun):
            return None
        for _ in found[2]:
            first, label = begun.pop()
            spans.append((first, number, label))
    return None if begun else sorted(spans)
