"""The texts of labelled files without their labels, as JSON Lines: to be learnt before the labels."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.core.errors import DataError, UsageError
from weft.core.files import write_text_atomic
from weft.data import labelled
from weft.data.examples import records
from weft.data.excluded import Excluded

USUAL = ("text", "context", "source", "target")
"""Fields that are texts where no others are named; a record has some of them."""


@dataclass(frozen=True)
class BareConfig:
    """How files are read, and what becomes of their texts.

    ``reader`` and ``options`` as in :class:`weft.data.supervised_config.SupervisedConfig`; ``fields``: what
    makes the text of a record, in this order. ``labels``: only records with one of these. ``join``: so many
    texts are one document, since a sentence alone is short; ``sample``: so many texts, drawn with ``seed``, 0
    for all. UsageError for impossible numbers.
    """

    reader: str = ""
    options: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    join: int = 1
    sample: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.join < 1:
            raise UsageError(f"--join {self.join} must be at least 1.")
        if self.sample < 0:
            raise UsageError(f"--sample {self.sample} must be at least 0.")


def write(
    files: Sequence[str | Path], out: Path, settings: BareConfig, exclude: Sequence[str | Path] = ()
) -> dict[str, Any]:
    """Write ``{"text"}`` of every document to ``out``, and return what was counted.

    Each text is taken once, and none that stands in the files of ``exclude``. Raises DataError when a file
    cannot be read or nothing is left.
    """
    counts: Counter[str] = Counter()
    texts = list(_wanted(files, settings, Excluded(exclude), counts))
    if settings.sample:
        texts = random.Random(settings.seed).sample(texts, min(settings.sample, len(texts)))
    if not texts:
        raise DataError(f"No text is left of {', '.join(map(str, files))}: {dict(counts)}; name --fields.")
    starts = range(0, len(texts), settings.join)
    joined = ["\n".join(texts[first : first + settings.join]) for first in starts]
    write_text_atomic(out, "".join(json.dumps({"text": one}, ensure_ascii=False) + "\n" for one in joined))
    figures = {"texts": len(texts), "documents": len(joined), "characters": sum(map(len, texts))}
    return figures | {"dropped": dict(counts)}


def _wanted(
    files: Sequence[str | Path], settings: BareConfig, excluded: Excluded, counts: Counter[str]
) -> Iterator[str]:
    seen: set[bytes] = set()
    for _, record, reason, _ in _records(files, settings):
        text = "" if record is None else _text(record, settings.fields)
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if reason is not None or not text:
            counts[reason or "no_text"] += 1
        elif settings.labels and str(record.get("label")) not in settings.labels:
            counts["other_label"] += 1
        elif digest in seen:
            counts["exact_duplicate"] += 1
        elif excluded.holds([text]):
            counts["excluded"] += 1
        else:
            seen.add(digest)
            yield text


def _records(files: Sequence[str | Path], settings: BareConfig) -> Iterator[Any]:
    if settings.reader:
        options = dict(text.partition("=")[::2] for text in settings.options)
        return labelled.read(settings.reader, files, **options)
    first, second = (*settings.fields, "text", "label")[:2]
    return records(sorted(str(file) for file in files), (first, second))


def _text(record: Any, fields: tuple[str, ...]) -> str:
    if not isinstance(record, dict):
        return ""
    parts = [record.get(name) for name in fields or USUAL]
    return "\n".join(part.strip() for part in parts if isinstance(part, str) and part.strip())
