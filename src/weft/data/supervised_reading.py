"""Supervised examples read from their files and encoded: which are taken, into which split, and why not."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from weft.core.errors import DataError
from weft.data.examples import Record
from weft.data.excluded import Excluded
from weft.data.forms import Made, Tag
from weft.data.forms.tag import markers
from weft.data.indexed import token_type
from weft.data.schema import REASON, SOURCE, VALUE
from weft.data.supervised_config import Given, SupervisedConfig, named, raw_records
from weft.tokenizer import Tokenizer

LABELLED = ("classify", "tag", "span", "extractive")
"""Forms that give labels to tokens."""

_GROUP = 1000


class Reading:
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
        """Which tokens stand around predicates; none where no text has any."""
        if not isinstance(self.form, Tag):
            return {}
        return {"markers": list(markers(self._tokenizer)) if self.form.marked else []}

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
