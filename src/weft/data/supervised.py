"""Shards of supervised examples: conversations or pairs as tokens, and where the answers lie.

The folder is one of shards like any other (:mod:`weft.data.shards`), whose sidecar has one more column,
``answers``: for each document ``[start, stop, start, stop, ...]`` in tokens. A pair is stored as its
source, an end of text, its target, an end of text; the target with its end is the answer. What could not
be used is in ``dropped.parquet`` with the reason, and counted in the manifest.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from weft.core import config, manifest
from weft.core.errors import DataError
from weft.core.files import atomic_directory, disk_errors, hash_file
from weft.data.config import SplitConfig
from weft.data.conversations import parse
from weft.data.examples import Record, records
from weft.data.indexed import token_type, write_index
from weft.data.schema import BYTES, ID, LANGUAGE, REASON, SOURCE, SPLITS, TOKENS, VALUE
from weft.data.shards import COMMAND
from weft.tokenizer import Tokenizer
from weft.tokenizer.answers import Encoded, encode_answers

ANSWERS = "answers"
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
    """What the examples are. ``fields``: the names of source and target in records of pairs."""

    form: Literal["chat", "pairs"] = "chat"
    fields: tuple[str, ...] = ("source", "target")
    split: SplitConfig = field(default_factory=SplitConfig)

    def __post_init__(self) -> None:
        if len(self.fields) != 2:
            raise DataError(f"A pair has two fields, not {list(self.fields)}; name source and target.")


def prepare(
    files: Sequence[str | Path], tokenizer: Tokenizer, out: Path, settings: SupervisedConfig | None = None
) -> dict[str, Any]:
    """A folder that training reads: the examples as ``out/shards``, see :func:`write`, and the tokenizer."""
    record = write(files, tokenizer, out / "shards", settings)
    with disk_errors(out):
        tokenizer.save(out / "tokenizer")
    return record


def write(
    files: Sequence[str | Path], tokenizer: Tokenizer, out: Path, settings: SupervisedConfig | None = None
) -> dict[str, Any]:
    """Encode the examples of ``files`` into ``out`` and return the manifest; does nothing when it is done.

    A conversation is rendered with the tokenizer's chat template. Equal examples are kept once, and the
    split is drawn by their content. Raises DataError when a file cannot be read or nothing is left.
    """
    settings = settings or SupervisedConfig()
    spelled = config.dump(settings)
    names = sorted(str(file) for file in files)
    inputs = {"tokenizer": tokenizer.fingerprint, "files": _fingerprint(names)}
    if manifest.is_done(out, command=COMMAND, config=spelled, inputs=inputs):
        return manifest.read(out) or {}
    with atomic_directory(out) as folder, contextlib.ExitStack() as stack:
        writers = {split: _SplitWriter(folder, split, tokenizer) for split in SPLITS}
        for writer in writers.values():
            stack.callback(writer.release)
        dropped: list[dict[str, str | None]] = []
        for where, made, text in _encoded(records(names, _pair(settings)), tokenizer, settings, dropped):
            identity = hashlib.blake2b(text, digest_size=16).hexdigest()
            writers[_split(identity, settings.split)].add(identity, where, made, len(text))
        counts = Counter(row[REASON] for row in dropped)
        figures: dict[str, Any] = {split: writer.close() for split, writer in writers.items()}
        if not sum(figures[split]["documents"] for split in SPLITS):
            raise DataError(f"No example is left of {', '.join(names)}: {dict(counts)}.")
        pq.write_table(pa.Table.from_pylist(dropped, _DROPPED), folder / "dropped.parquet")
        figures |= {
            "vocab_size": tokenizer.vocab_size,
            "eos_id": tokenizer.eos_id,
            "token_type": np.dtype(token_type(tokenizer.vocab_size)).name,
            "form": settings.form,
            "dropped": dict(counts),
        }
        outputs = tuple(f"{split}.{suffix}" for split in SPLITS for suffix in ("bin", "idx", "parquet"))
        return manifest.write(
            folder, command=COMMAND, config=spelled, inputs=inputs, figures=figures, outputs=outputs
        )


class _SplitWriter:
    """One split of the folder, written as examples come."""

    def __init__(self, folder: Path, split: str, tokenizer: Tokenizer) -> None:
        self._folder, self._split = folder, split
        self._dtype = token_type(tokenizer.vocab_size)
        self._stream = (folder / f"{split}.bin").open("wb")
        self._sidecar = pq.ParquetWriter(folder / f"{split}.parquet", _SIDECAR, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._lengths: list[int] = []
        self._bytes = 0

    def add(self, identity: str, where: str, made: Encoded, size: int) -> None:
        self._stream.write(np.asarray(made.ids, self._dtype).tobytes())
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
        """Close both files; a second time does nothing."""
        self._stream.close()
        self._sidecar.close()

    def _flush(self) -> None:
        self._sidecar.write_table(pa.Table.from_pylist(self._rows, _SIDECAR))
        self._rows = []


def _encoded(
    found: Iterator[Record],
    tokenizer: Tokenizer,
    settings: SupervisedConfig,
    dropped: list[dict[str, str | None]],
) -> Iterator[tuple[str, Encoded, bytes]]:
    """(where, tokens, canonical text) of each good example; the others are added to ``dropped``."""
    seen: dict[bytes, str] = {}

    def drop(where: str, reason: str | None, value: str | None) -> None:
        dropped.append({SOURCE: where, REASON: reason, VALUE: value})

    while group := list(itertools.islice(found, _GROUP)):
        kept: list[tuple[str, Any, bytes]] = []
        for where, record, reason, value in group:
            example = None
            if reason is None:
                example, reason, value = _example(record, settings)
            if example is None:
                drop(where, reason, value)
                continue
            text = json.dumps(example, ensure_ascii=False, sort_keys=True).encode("utf-8")
            first = seen.setdefault(hashlib.blake2b(text, digest_size=16).digest(), where)
            if first == where:
                kept.append((where, example, text))
            else:
                drop(where, "exact_duplicate", first)
        encode = _encode_pairs if settings.form == "pairs" else encode_answers
        encoded = encode(tokenizer, [example for _, example, _ in kept])
        for (where, _, text), made in zip(kept, encoded, strict=True):
            if isinstance(made, DataError):
                drop(where, "chat_template", str(made))
            else:
                yield where, made, text


def _example(record: Any, settings: SupervisedConfig) -> tuple[Any, str | None, str | None]:
    """``(messages or (source, target), reason, value)`` of a record."""
    if settings.form == "chat":
        return parse(record)
    given = [record.get(name) if isinstance(record, dict) else None for name in settings.fields]
    texts = [text for text in given if isinstance(text, str)]
    if len(texts) < 2:
        found = ", ".join(list(map(str, record))[:8]) if isinstance(record, dict) else type(record).__name__
        return None, "no_pair", found
    empty = [name for name, text in zip(settings.fields, texts, strict=True) if not text.strip()]
    if empty:
        return None, "empty", empty[0]
    try:
        "".join(texts).encode("utf-8")
    except UnicodeEncodeError:
        return None, "invalid_encoding", "lone surrogate"
    return texts, None, None


def _encode_pairs(tokenizer: Tokenizer, pairs: Sequence[Sequence[str]]) -> list[Encoded | DataError]:
    ids = tokenizer.encode_batch([text for pair in pairs for text in pair])
    end = [tokenizer.eos_id]
    return [
        Encoded(source + end + target + end, [len(source) + 1, len(source) + len(target) + 2])
        for source, target in zip(ids[::2], ids[1::2], strict=True)
    ]


def _split(identity: str, shares: SplitConfig) -> str:
    """Where an example goes: a draw from its content, test first and validation after it."""
    draw = (int(identity[16:], 16) & ((1 << 53) - 1)) / (1 << 53)
    if draw < shares.test:
        return "test"
    return "valid" if draw < shares.test + shares.valid else "train"


def _pair(settings: SupervisedConfig) -> tuple[str, str]:
    source, target = settings.fields
    return source, target


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
