"""Texts that must not be learnt: the contents of other files, whatever their columns are called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from weft.data import labelled
from weft.data.examples import kind, records
from weft.data.forms import Form
from weft.data.labelled.opened import lines
from weft.data.nested import strings

LEAST = 8
"""Characters of a text that is recognised; shorter ones stand in any file."""

_TABLES = {".csv": "csv", ".tsv": "tsv"}
_PACKED = (".gz", ".bz2", ".zst")


class Excluded:
    """The texts of files: every string in a record of JSON Lines, JSON, Parquet, CSV or TSV, every line of
    any other, with and without its first word, which may be a label; with a ``form`` also what it makes of a
    record, as a message of an instruction and its input. Texts are the same however they are spaced, cased
    and punctuated."""

    def __init__(self, files: Sequence[str | Path], form: Form | None = None) -> None:
        found = (text for file in files for text in _texts(Path(file), form))
        self._known = {_key(text) for text in found if len(text) >= LEAST}

    def holds(self, texts: Iterable[str]) -> bool:
        """Whether any of the texts is one of them."""
        return any(len(text) >= LEAST and _key(text) in self._known for text in texts)


def _key(text: str) -> bytes:
    # Sets share sentences that one writes "it's" and another "It 's".
    bare = "".join(letter for letter in text.casefold() if letter.isalnum()) or text
    return hashlib.blake2b(bare.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _texts(file: Path, form: Form | None) -> Iterator[str]:
    inner = Path(file.stem) if file.suffix in _PACKED else file
    if inner.suffix in _TABLES:
        found = labelled.read(_TABLES[inner.suffix], file)
    elif kind(file) is not None:
        found = records([file], ("source", "target"))
    else:
        for line in lines(file):
            # Some begin with a label, which is no part of the text.
            yield line.text
            yield line.text.partition(" ")[2]
            yield line.text.partition("\t")[2]
        return
    for _, record, _, _ in found:
        yield from strings(record)
        example = form.example(record)[0] if form is not None and record is not None else None
        if form is not None and example is not None:
            yield from form.texts(example)
