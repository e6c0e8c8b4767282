"""A loader of labelled documents: packed rows whose targets are labels, and whose tokens stand in place.

Beside the tokens of a split lies ``<split>.labels``, int32, one number a token: a label, or IGNORED where
there is none. What the numbers mean is up to the form (:mod:`weft.data.forms`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from weft.core import manifest
from weft.core.errors import DataError
from weft.data.answers import Long, fitted
from weft.data.batch import IGNORED, Batch
from weft.data.hiding import Hiding
from weft.data.loader import Loader
from weft.data.rows import Learnt, MappedTokens, Rows
from weft.data.supervised_writer import LABELS

Ints = npt.NDArray[np.int64]


class LabelLoader(Loader):
    """Labelled documents packed under document masks.

    ``tokens`` of its batches are the text in place, ``targets`` the labels. A document longer than a row is
    dropped or cut, as ``long`` says; :attr:`counts` says how many were kept, cut or too long.
    ``markers``: the tokens before and after a predicate, none where no text has one. ``hiding`` hides some of
    the tokens of :meth:`take`, and none of :meth:`sequential`.
    """

    def __init__(
        self,
        shards_folder: str | Path,
        split: str,
        sequence_length: int,
        batch_rows: int = 1,
        seed: int = 0,
        *,
        form: str,
        long: Long = "drop",
        hiding: Hiding | None = None,
    ) -> None:
        """DataError for shards of another ``form``, and when no document fits; else as :class:`Loader`."""
        self._long, self.form, self._hiding, self._seed = long, form, hiding, seed
        self.counts: dict[str, int] = {}
        record = manifest.read(Path(shards_folder)) or {}
        figures = record.get("figures", {})
        if figures.get("form") != form:
            raise DataError(
                f"{shards_folder} holds {figures.get('form', 'plain text')}, and objective.name = {form} "
                f"learns from {form}; make it with weft data supervised --form {form}."
            )
        self.labels: tuple[str, ...] = tuple(figures["labels"])
        self.shares: tuple[float, ...] = tuple(figures["shares"])
        self.markers: tuple[int, ...] = tuple(figures.get("markers", ()))
        super().__init__(
            *(shards_folder, split, sequence_length, batch_rows, seed),
            max_padding=1.0,
            # A text stands there once for each predicate: side by side a batch would see few texts.
            mixed=bool(self.markers),
        )
        reader = self._shards.reader
        stored = np.memmap(reader.prefix.with_name(f"{reader.prefix.name}.{LABELS}"), np.int32, mode="r")
        if len(stored) != len(reader.tokens):
            raise DataError(
                f"The labels of {reader.prefix} are not those of its tokens; make the folder again."
            )
        self._labels = Rows(self._rows.plan, reader.starts, MappedTokens(stored), self._shards.eos_id)

    def take(self, places: Ints) -> Batch:
        """The rows at these places [n] of the endless sequence of epochs."""
        plain = self._labelled(self._order.at(places))
        if self._hiding is None:
            return plain
        return dataclasses.replace(plain, tokens=self._hiding.hidden(plain.tokens, places, self._seed))

    def sequential(self, batch_rows: int | None = None) -> Iterator[Batch]:
        """Every row exactly once in the order of the plan; the last batch may have fewer rows."""
        size = batch_rows or self.batch_rows
        for first in range(0, self.rows, size):
            yield self._labelled(np.arange(first, min(first + size, self.rows)))

    def _labelled(self, rows: Ints) -> Batch:
        plain, labels = self._rows.assemble(rows), self._labels.assemble(rows).targets
        inside = plain.targets != IGNORED
        text = np.where(inside, plain.targets, self._shards.eos_id)
        return Batch(text, np.where(inside, labels, IGNORED), plain.document_start)

    def _choose(self) -> Learnt | None:
        reader, width = self._shards.reader, self.sequence_length
        lengths, self.counts = fitted(self._lengths, np.zeros(len(reader), np.int64), width, self._long)
        if not lengths.any():
            raise DataError(
                f"No document of {reader.prefix} fits into {width} tokens ({self.counts}); give longer rows."
            )
        self._lengths = lengths
        self._choice = f"labels {self._long} {width}"
        return None
