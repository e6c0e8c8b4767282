"""Parquet parts of a data folder, a row group at a time, with the texts of only those rows that are wanted.

To look at a folder of millions of documents needs their small columns and a few dozen texts, so nothing
here holds more than one row group of small columns, or a few dozen texts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weft.core.errors import DataError
from weft.data.schema import DOCUMENTS, DROPPED, SPLITS, TEXT

_TEXTS = 64


class Place(NamedTuple):
    """Where one row lies."""

    file: Path
    group: int
    row: int


@dataclass(frozen=True)
class Group:
    """The rows of one row group, without their texts."""

    file: Path
    number: int
    rows: pa.Table

    def place(self, row: int) -> Place:
        """Where row number ``row`` of this group lies."""
        return Place(self.file, self.number, row)


def kept_files(data_folder: Path, split: str | None = None) -> list[Path]:
    """The files of one split, or of all of them in the order of the splits."""
    splits = SPLITS if split is None else (split,)
    return [file for name in splits for file in sorted((data_folder / DOCUMENTS / name).glob("*.parquet"))]


def dropped_files(data_folder: Path) -> list[Path]:
    """The files of what was dropped."""
    return sorted((data_folder / DROPPED).glob("*.parquet"))


def groups(files: Iterable[Path], columns: Sequence[str]) -> Iterator[Group]:
    """Every row group of ``files`` with the ``columns`` asked for; DataError for a file that is no good."""
    for file in files:
        with _opened(file, columns) as source:
            for number in range(source.num_row_groups):
                yield Group(file, number, source.read_row_group(number, columns=list(columns)))


def texts(file: Path, group: int, rows: Sequence[int], limit: int | None = None) -> Iterator[str | None]:
    """The texts of the ``rows`` (ascending) of a row group, cut to ``limit`` characters; null where the
    text was never read."""
    with _opened(file, [TEXT]) as source:
        wanted = iter(rows)
        row = next(wanted, None)
        start = 0
        for batch in source.iter_batches(_TEXTS, row_groups=[group], columns=[TEXT], use_threads=False):
            while row is not None and row < start + len(batch):
                value = batch.column(0).slice(row - start, 1)
                yield (value if limit is None else pc.utf8_slice_codeunits(value, 0, limit))[0].as_py()
                row = next(wanted, None)
            if row is None:
                return
            start += len(batch)


def fetch(places: Iterable[Place], columns: Sequence[str], limit: int) -> dict[Place, dict[str, Any]]:
    """The ``columns`` and the text, cut to ``limit`` characters, of some rows, each group read once."""
    found: dict[Place, dict[str, Any]] = {}
    by_group: dict[tuple[Path, int], list[int]] = {}
    for place in sorted(places):
        by_group.setdefault(place[:2], []).append(place.row)
    for (file, number), rows in by_group.items():
        with _opened(file, columns) as source:
            table = source.read_row_group(number, columns=list(columns)).take(rows)
        cut = texts(file, number, rows, limit)
        for row, values, text in zip(rows, table.to_pylist(), cut, strict=True):
            found[Place(file, number, row)] = {**values, TEXT: text}
    return found


@contextlib.contextmanager
def _opened(file: Path, columns: Sequence[str]) -> Iterator[Any]:
    try:
        with pq.ParquetFile(file) as source:
            missing = set(columns) - set(source.schema_arrow.names)
            if missing:
                names = ", ".join(sorted(missing))
                raise DataError(f"The documents {file} have no column {names}; run weft data again.")
            yield source
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"The documents {file} are damaged ({reason}); run weft data again.") from error
