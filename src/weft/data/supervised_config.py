"""What supervised examples are, as the command line says it, and the files of each split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from weft.core.errors import DataError
from weft.data import labelled
from weft.data.config import SplitConfig
from weft.data.examples import Record, records
from weft.data.forms import Chat, Classify, Extractive, Form, Pairs, Preferences, Similar, Span, Tag
from weft.data.forms.similar import FIELDS as SIMILAR_FIELDS
from weft.data.sentences import Unit


@dataclass(frozen=True)
class SupervisedConfig:
    """What the examples are.

    ``fields``: the names of source and target in records of pairs, also of extractive ones, of query and
    positive in those of similar texts, or of text and label. ``reader``: the format of the files
    (:mod:`weft.data.labelled`), by default what their names end in; ``options`` are ``key=value`` for it.
    ``languages`` and ``both_ways`` are for pairs, ``window`` for spans, ``unit`` for extractive summaries:
    what they will be made of. ``names`` gives labels other names, as ``1=positive``.
    """

    form: Literal["chat", "preferences", "pairs", "similar", "classify", "tag", "span", "extractive"] = "chat"
    fields: tuple[str, ...] = ()
    split: SplitConfig = field(default_factory=SplitConfig)
    languages: tuple[str, ...] = ()
    both_ways: bool = False
    window: int = 0
    unit: Unit = "sentence"
    names: tuple[str, ...] = ()
    reader: str = ""
    options: tuple[str, ...] = ()

    def made(self) -> Form:
        """The form. DataError for fields or languages that are not two."""
        if self.form == "chat":
            return Chat()
        if self.form == "preferences":
            return Preferences()
        if self.form == "pairs":
            return Pairs(self.fields or ("source", "target"), self.languages, self.both_ways)
        if self.form == "similar":
            return Similar(self.fields or SIMILAR_FIELDS)
        if self.form == "classify":
            return Classify(self.fields or ("text", "label"))
        if self.form == "extractive":
            return Extractive(self.fields or ("source", "target"))
        return Tag() if self.form == "tag" else Span(self.window)

    def __post_init__(self) -> None:
        self.made()

    @property
    def renamed(self) -> dict[str, str]:
        """Labels and the names they get. DataError for what is no ``label=name``."""
        pairs = [text.partition("=") for text in self.names]
        wrong = [
            text for text, (_, equals, name) in zip(self.names, pairs, strict=True) if not equals or not name
        ]
        if wrong:
            raise DataError(f"{wrong[0]!r} is no name of a label; write label=name, for instance 1=positive.")
        return {label: name for label, _, name in pairs}


Files = Sequence[str | Path]


@dataclass(frozen=True)
class Given:
    """The files of each split. Where ``valid`` or ``test`` is empty it is drawn from ``train``; no example of
    ``valid``, ``test`` or ``exclude`` (:mod:`weft.data.excluded`) is left in training."""

    train: Files
    valid: Files = ()
    test: Files = ()
    exclude: Files = ()

    def parts(self) -> list[tuple[str, Files]]:
        """The splits with files, in the order in which they are read: training last."""
        parts = [("test", self.test), ("valid", self.valid), ("train", self.train)]
        return [(name, files) for name, files in parts if files]


def raw_records(files: Files, settings: SupervisedConfig) -> Iterator[Record]:
    """The records of ``files`` as ``settings`` say that they are to be read, labels as they stand there."""
    if settings.reader:
        options = dict(text.partition("=")[::2] for text in settings.options)
        return labelled.read(settings.reader, files, **options)
    usual = SIMILAR_FIELDS if settings.form == "similar" else ("source", "target")
    first, second = settings.fields or usual
    return records(sorted(str(file) for file in files), (first, second))


def named(record: Any, settings: SupervisedConfig) -> Any:
    """The record with the names that its labels get."""
    names = settings.renamed
    if not names or not isinstance(record, dict):
        return record
    key = settings.fields[1] if len(settings.fields) == 2 else "label"
    changed: dict[str, Any] = {key: names.get(str(record[key]), record[key])} if key in record else {}
    spans = record.get("spans")
    if isinstance(spans, list):
        changed["spans"] = [
            {**span, "label": names.get(span["label"], span["label"])}
            if isinstance(span, dict) and isinstance(span.get("label"), str)
            else span
            for span in spans
        ]
    return record | changed
