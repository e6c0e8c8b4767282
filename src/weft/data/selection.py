"""Choosing documents of a data folder to look at: kept or dropped, by split, by reason, by words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from weft.core.errors import UsageError
from weft.core.registry import lookup
from weft.data import documents, parts
from weft.data.schema import BYTES, ID, KIND, LANGUAGE, REASON, SOURCE, SPLITS, VALUE

ALL = "all"
"""Instead of a reason: whatever the reason."""


@dataclass(frozen=True)
class Selection:
    """Kept documents, of one split or all, or dropped ones, of one reason or ``all``."""

    dropped: str | None = None
    split: str | None = None
    grep: str | None = None
    """Only documents whose text has these words in this spelling."""
    limit: int = 20

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise UsageError(f"A limit of {self.limit} documents shows nothing; give at least 1.")
        if self.grep == "":
            raise UsageError("There are no words to look for; give some, or leave out --grep.")
        if self.split is not None:
            lookup(dict.fromkeys(SPLITS), self.split, "split")
            if self.dropped is not None:
                raise UsageError("Dropped documents belong to no split; give --split or --dropped, not both.")


@dataclass(frozen=True)
class Shown:
    """One document, with its text as far as it was asked for."""

    id: str
    source: str
    kind: str | None
    language: str | None
    bytes: int
    reason: str | None
    value: str | None
    text: str | None
    """None where it was never read (binary or unreadable files)."""
    cut: bool
    """Whether ``text`` is a part only."""


def select(data_folder: Path, wanted: Selection, characters: int | None) -> Iterator[Shown]:
    """The first documents that fit, in the order of the files; texts are cut to ``characters``.

    With words to look for, the cut part begins shortly before their first place. Raises DataError when
    there are no finished documents or a file is damaged, UsageError for a reason that nobody has.
    """
    _check_reason(data_folder, wanted.dropped)
    columns = [ID, SOURCE, KIND, LANGUAGE, BYTES, *([REASON, VALUE] if wanted.dropped else [])]
    if wanted.dropped is None:
        files = parts.kept_files(data_folder, wanted.split)
    else:
        files = parts.dropped_files(data_folder)
    left = wanted.limit
    for group in parts.groups(files, columns):
        for shown in _of_group(group, wanted, characters):
            yield shown
            left -= 1
            if not left:
                return


def excerpt(text: str, grep: str | None, characters: int | None) -> tuple[str, bool]:
    """``(part, cut)``: at most ``characters`` of a text, from a little before the first ``grep`` on."""
    if characters is None or len(text) <= characters:
        return text, False
    at = text.find(grep) if grep else 0
    start = max(0, at - characters // 4) if at + len(grep or "") > characters else 0
    return text[start : start + characters], True


def _of_group(group: parts.Group, wanted: Selection, characters: int | None) -> Iterator[Shown]:
    rows = _fitting(group, wanted)
    table = group.rows.take(rows).to_pylist()
    if wanted.grep is None:
        limit = None if characters is None else characters + 1
        texts = parts.texts(group.file, group.number, rows.tolist(), limit)
    else:
        texts = parts.texts(group.file, group.number, rows.tolist())
    for row, text in zip(table, texts, strict=True):
        if wanted.grep is not None and (text is None or wanted.grep not in text):
            continue
        part, cut = (None, False) if text is None else excerpt(text, wanted.grep, characters)
        yield Shown(
            id=row[ID],
            source=row[SOURCE],
            kind=row[KIND],
            language=row[LANGUAGE],
            bytes=row[BYTES],
            reason=row.get(REASON),
            value=row.get(VALUE),
            text=part,
            cut=cut,
        )


def _fitting(group: parts.Group, wanted: Selection) -> npt.NDArray[np.int64]:
    if wanted.dropped in (None, ALL):
        return np.arange(len(group.rows))
    fits: Any = pc.fill_null(pc.equal(group.rows[REASON], wanted.dropped), False)
    return np.flatnonzero(fits.to_numpy())


def _check_reason(data_folder: Path, reason: str | None) -> None:
    known = documents.record(data_folder)["figures"].get("dropped", {})
    if reason is None or reason == ALL:
        return
    if not known:
        raise UsageError(f"Nothing was dropped in {data_folder}, so no document has the reason {reason!r}.")
    lookup(known, reason, "reason for dropping")
