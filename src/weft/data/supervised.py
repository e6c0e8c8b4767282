"""Shards of supervised examples: conversations, pairs or labelled texts as tokens, and what to learn of them.

The folder is one of shards like any other (:mod:`weft.data.shards`). Where answers are learnt its sidecar
has one more column, ``answers``: for each document ``[start, stop, start, stop, ...]`` in tokens. Where
labels are learnt there is one more file a split, ``<split>.labels`` (:mod:`weft.data.labels`). What could
not be used is in ``dropped.parquet`` with the reason, and counted in the manifest.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from weft.core import config, manifest
from weft.core.errors import DataError, WeftError
from weft.core.files import atomic_directory, disk_errors, hash_file
from weft.data import labelled
from weft.data.config import SplitConfig
from weft.data.examples import Record, records
from weft.data.excluded import Excluded
from weft.data.forms import Chat, Classify, Extractive, Form, Made, Pairs, Preferences, Similar, Span, Tag
from weft.data.forms.similar import FIELDS as SIMILAR_FIELDS
from weft.data.forms.tag import markers
from weft.data.indexed import token_type, write_index
from weft.data.schema import BYTES, ID, LANGUAGE, REASON, SOURCE, SPLITS, TOKENS, VALUE
from weft.data.sentences import Unit
from weft.data.shards import COMMAND
from weft.tokenizer import Tokenizer, train

LABELLED = ("classify", "tag", "span", "extractive")
"""Forms that give labels to tokens."""

ENCODED = (*LABELLED, "similar")
"""Forms that encoders learn."""

ANSWERS = "answers"
LABELS = "labels"
_GROUP = 1000
_SIDECAR = pa.schema(
    [
        (ID, pa.string()),
        (SOURCE, pa.string()),
        (LANGUAGE, pa.string()),
        (TOKENS, pa.int32()),
        (BYTES, pa.int64()),
        (ANSWERS, pa.list_(pa.int32())),
    ]
)
_DROPPED = pa.schema([(SOURCE, pa.string()), (REASON, pa.string()), (VALUE, pa.string())])


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


def prepare(
    files: Files | Given, tokenizer: Tokenizer | int, out: Path, settings: SupervisedConfig | None = None
) -> dict[str, Any]:
    """A folder that training reads: the examples as ``out/shards``, see :func:`write`, and the tokenizer.

    ``tokenizer``: one to use, or the size of one to train on the training examples. Does nothing when it is
    done.
    """
    chosen = settings or SupervisedConfig()
    given = files if isinstance(files, Given) else Given(sorted(files, key=str))
    size = None
    if isinstance(tokenizer, int):
        # Its training reads every example, so it is not repeated to find that all is done.
        size, kept = tokenizer, _kept(out / "tokenizer")
        if kept is None or not _is_done(out / "shards", chosen, _inputs(given, kept, size)):
            texts = list(_Reading(given, None, chosen).texts())
            kept = train(texts, size, encoder=chosen.form in ENCODED)
        tokenizer = kept
    record = write(given, tokenizer, out / "shards", chosen, vocab_size=size)
    with disk_errors(out):
        tokenizer.save(out / "tokenizer")
    return record


def _kept(folder: Path) -> Tokenizer | None:
    """The tokenizer that an earlier call left, None where there is none."""
    if not folder.exists():
        return None
    with contextlib.suppress(WeftError):
        return Tokenizer.load(folder)
    return None


def _inputs(given: Given, tokenizer: Tokenizer, vocab_size: int | None) -> dict[str, str]:
    """What a folder of shards is made from; ``vocab_size`` when the tokenizer was trained on the examples."""
    prints = {name: _fingerprint([str(file) for file in found]) for name, found in given.parts()}
    inputs = {"tokenizer": tokenizer.fingerprint, "files": prints["train"]}
    inputs |= {name: found for name, found in prints.items() if name != "train"}
    if given.exclude:
        inputs["exclude"] = _fingerprint([str(file) for file in given.exclude])
    return inputs if vocab_size is None else inputs | {"vocab_size": str(vocab_size)}


def _is_done(out: Path, settings: SupervisedConfig, inputs: dict[str, str]) -> bool:
    return manifest.is_done(out, command=COMMAND, config=config.dump(settings), inputs=inputs)


def write(
    files: Files | Given,
    tokenizer: Tokenizer,
    out: Path,
    settings: SupervisedConfig | None = None,
    *,
    vocab_size: int | None = None,
) -> dict[str, Any]:
    """Encode the examples of ``files`` into ``out`` and return the manifest; does nothing when it is done.

    A conversation is rendered with the tokenizer's chat template. Equal training examples are kept once, and
    a split that is not given is drawn by their content. ``vocab_size`` is noted: the size that was asked of a
    tokenizer trained on the examples. Raises DataError when a file cannot be read or nothing is left.
    """
    settings = settings or SupervisedConfig()
    given = files if isinstance(files, Given) else Given(sorted(files, key=str))
    inputs = _inputs(given, tokenizer, vocab_size)
    if _is_done(out, settings, inputs):
        return manifest.read(out) or {}
    reading = _Reading(given, tokenizer, settings)
    with atomic_directory(out) as folder, contextlib.ExitStack() as stack:
        writers = {split: _SplitWriter(folder, split, tokenizer, reading.labelled) for split in SPLITS}
        for writer in writers.values():
            stack.callback(writer.release)
        for split, where, identity, made, size in reading.documents():
            writers[split].add(identity, where, made, size)
        figures = {split: writer.close() for split, writer in writers.items()} | reading.figures()
        if not sum(figures[split]["documents"] for split in SPLITS):
            raise DataError(
                f"No example is left of {', '.join(map(str, given.train))}: {figures['dropped']}."
            )
        pq.write_table(pa.Table.from_pylist(reading.dropped, _DROPPED), folder / "dropped.parquet")
        suffixes = ("bin", "idx", "parquet", *((LABELS,) if writers["train"].labelled else ()))
        outputs = tuple(f"{split}.{suffix}" for split in SPLITS for suffix in suffixes)
        return manifest.write(
            folder,
            command=COMMAND,
            config=config.dump(settings),
            inputs=inputs,
            figures=figures,
            outputs=outputs,
        )


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


class _Reading:
    """The documents of all splits; what is left out of them is noted in ``dropped``."""

    def __init__(self, given: Given, tokenizer: Tokenizer | None, settings: SupervisedConfig) -> None:
        self._given, self._known, self._settings = given, tokenizer, settings
        self.form = settings.made()
        self.dropped: list[dict[str, str | None]] = []
        self._seen: dict[bytes, str] = {}
        self._counts: Counter[str] = Counter()
        self._excluded = Excluded(given.exclude, self.form)
        self.form = self.form.with_labels(self._classes())

    def documents(self) -> Iterator[tuple[str, str, str, Made, int]]:
        """(split, where, identity, document, bytes of the example) of each that is good."""
        for part, files in self._given.parts():
            found = self._parsed(raw_records(files, self._settings))
            while group := list(itertools.islice(found, _GROUP)):
                yield from self._encoded(part, group)

    def figures(self) -> dict[str, Any]:
        """What the manifest says beside the counts of the splits."""
        total = sum(self._counts.values())
        labels = list(self.form.labels)
        shares = {"labels": labels, "shares": [self._counts[label] / max(total, 1) for label in labels]}
        return {
            "vocab_size": self._tokenizer.vocab_size,
            "eos_id": self._tokenizer.eos_id,
            "token_type": np.dtype(token_type(self._tokenizer.vocab_size)).name,
            "form": self.form.name,
            "dropped": dict(Counter(row[REASON] for row in self.dropped)),
            **(shares if self.labelled else {}),
            **self._markers(),
        }

    def _markers(self) -> dict[str, list[int]]:
        """Which tokens stand around predicates, where there are any."""
        if not isinstance(self.form, Tag) or not self.form.marked:
            return {}
        return {"markers": list(markers(self._tokenizer))}

    @property
    def labelled(self) -> bool:
        """Whether documents have labels for tokens."""
        return self.form.name in LABELLED

    @property
    def _tokenizer(self) -> Tokenizer:
        assert self._known is not None
        return self._known

    def texts(self) -> Iterator[str]:
        """The texts of the training examples."""
        for _, example, _ in self._parsed(raw_records(self._given.train, self._settings)):
            yield from self.form.texts(example)

    def _classes(self) -> list[str]:
        """The classes that training names; other examples are counted when they are read for good."""
        if self.form.name not in ("classify", "tag"):
            return []
        found: set[str] = set()
        for _, example, _ in self._parsed(raw_records(self._given.train, self._settings)):
            found.update(self.form.classes(example))
        self.dropped.clear()
        return sorted(found, key=lambda name: (name.partition("-")[2], name))

    def _parsed(self, found: Iterator[Record]) -> Iterator[tuple[str, Any, bytes]]:
        """(where, example, canonical text) of each good record; the others are noted."""
        for where, record, reason, value in found:
            example = None
            if reason is None:
                example, reason, value = self.form.example(named(record, self._settings))
            if example is None:
                self._drop(where, reason, value)
            else:
                spelled = json.dumps(self.form.key(example), ensure_ascii=False, sort_keys=True)
                yield where, example, spelled.encode("utf-8")

    def _encoded(
        self, part: str, group: Sequence[tuple[str, Any, bytes]]
    ) -> Iterator[tuple[str, str, str, Made, int]]:
        kept = [item for item in group if self._is_new(part, *item)]
        encoded = self.form.encode(self._tokenizer, [example for _, example, _ in kept])
        for (where, example, text), documents in zip(kept, encoded, strict=True):
            if isinstance(documents, DataError):
                self._drop(where, "not_encoded" if self.labelled else "chat_template", str(documents))
                continue
            identity = hashlib.blake2b(text, digest_size=16).hexdigest()
            split = self._split(identity) if part == "train" else part
            if split == "train":
                self._counts.update(self.form.counts(example))
            for number, made in enumerate(documents):
                yield split, where, identity, made, 0 if number else len(text)

    def _is_new(self, part: str, where: str, example: Any, text: bytes) -> bool:
        """Whether an example is taken: in training only what was seen nowhere before."""
        first = self._seen.setdefault(hashlib.blake2b(text, digest_size=16).digest(), f"{part} {where}")
        if part == "train" and first != f"train {where}":
            origin, _, place = first.partition(" ")
            self._drop(where, "exact_duplicate" if origin == "train" else f"in_{origin}", place)
            return False
        if part == "train" and self._excluded.holds(self.form.texts(example)):
            self._drop(where, "excluded", None)
            return False
        unknown = [name for name in self.form.classes(example) if name not in self.form.labels]
        if unknown:
            self._drop(where, "label_not_in_training", unknown[0])
        return not unknown

    def _split(self, identity: str) -> str:
        """Where a training example goes: a draw from its content, test first and validation after it."""
        shares: Mapping[str, float] = {
            name: 0.0 if getattr(self._given, name) else getattr(self._settings.split, name)
            for name in ("test", "valid")
        }
        draw = (int(identity[16:], 16) & ((1 << 53) - 1)) / (1 << 53)
        if draw < shares["test"]:
            return "test"
        return "valid" if draw < shares["test"] + shares["valid"] else "train"

    def _drop(self, where: str, reason: str | None, value: str | None) -> None:
        self.dropped.append({SOURCE: where, REASON: reason, VALUE: value})


class _SplitWriter:
    """One split of the folder, written as examples come."""

    def __init__(self, folder: Path, split: str, tokenizer: Tokenizer, labelled: bool) -> None:
        self._folder, self._split = folder, split
        self._dtype = token_type(tokenizer.vocab_size)
        self._stream = (folder / f"{split}.bin").open("wb")
        self.labelled = labelled
        self._labels = (folder / f"{split}.{LABELS}").open("wb") if labelled else None
        self._sidecar = pq.ParquetWriter(folder / f"{split}.parquet", _SIDECAR, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._lengths: list[int] = []
        self._bytes = 0

    def add(self, identity: str, where: str, made: Made, size: int) -> None:
        self._stream.write(np.asarray(made.ids, self._dtype).tobytes())
        if self._labels is not None:
            self._labels.write(np.asarray(made.labels, np.int32).tobytes())
        self._lengths.append(len(made.ids))
        self._bytes += size
        row = {ID: identity, SOURCE: where, LANGUAGE: None, TOKENS: len(made.ids), BYTES: size}
        self._rows.append(row | {ANSWERS: made.answers})
        if len(self._rows) == _GROUP:
            self._flush()

    def close(self) -> dict[str, int]:
        self._flush()
        self.release()
        write_index(self._folder / f"{self._split}.idx", np.asarray(self._lengths, np.int64), self._dtype)
        return {"documents": len(self._lengths), "tokens": sum(self._lengths), "bytes": self._bytes}

    def release(self) -> None:
        """Close the files; a second time does nothing."""
        self._stream.close()
        if self._labels is not None:
            self._labels.close()
        self._sidecar.close()

    def _flush(self) -> None:
        self._sidecar.write_table(pa.Table.from_pylist(self._rows, _SIDECAR))
        self._rows = []


def _fingerprint(names: Sequence[str]) -> str:
    """Hash of the content of all files given, folders by the files below them."""
    files = [
        file
        for name in names
        for file in (sorted(Path(name).rglob("*")) if Path(name).is_dir() else [Path(name)])
        if file.is_file()
    ]
    spelled = json.dumps([[file.name, hash_file(file)] for file in files])
    return hashlib.sha256(spelled.encode("utf-8")).hexdigest()
