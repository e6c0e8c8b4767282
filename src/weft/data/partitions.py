"""Partitions of the cleaned documents, by content hash: equal texts share one, so each is judged alone.

On disk a partition is ``<part>/bucket=<n>/*.parquet`` of every part (:mod:`weft.data.cleaning`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from weft.core.progress import Progress
from weft.data.engine import batch_function, daft, spread, write_errors

_PREFIX = "bucket="


def numbers(clean: Path) -> list[int]:
    """The partitions that hold a document, ascending."""
    return sorted({int(folder.name.removeprefix(_PREFIX)) for folder in clean.glob(f"*/{_PREFIX}*")})


def files(clean: Path, number: int) -> list[Path]:
    """The files of one partition, in order."""
    return sorted(clean.glob(f"*/{_PREFIX}{number}/*.parquet"))


def read(clean: Path, number: int, columns: Sequence[str]) -> pa.Table:
    """The rows of one partition with those of ``columns`` that it has; text is large_string."""
    return pa.concat_tables(_tables(files(clean, number), columns))


def _tables(chosen: Sequence[Path], columns: Sequence[str]) -> Iterator[pa.Table]:
    for file in chosen:
        # read_table would take the name of the folder for a column.
        with pq.ParquetFile(file) as source:
            wanted = [name for name in dict.fromkeys(columns) if name in source.schema_arrow.names]
            table = source.read(columns=wanted).select(wanted)
        yield table.cast(pa.schema([_large(field) for field in table.schema]))


def _large(field: pa.Field) -> pa.Field:
    return field.with_type(pa.large_string()) if pa.types.is_string(field.type) else field


def each(label: str, chosen: Sequence[int], work: Callable[[int], None], folder: Path) -> None:
    """Call ``work``, which writes into ``folder``, with each of the partitions, on the engine's machines.

    ``work`` is pickled where the engine runs elsewhere. As many partitions lie in memory as there are cores.
    """
    if not chosen:
        return

    @batch_function(daft.DataType.int64(), rows=1)
    def run(column: Any) -> pa.Array:
        done = column.to_pylist()
        for number in done:
            work(number)
        return pa.array(done, pa.int64())

    frame = spread(daft.from_pydict({"number": list(chosen)}), len(chosen))
    with Progress(label, len(chosen), "parts") as progress, write_errors(folder):
        for _ in frame.select(run(daft.col("number"))).iter_rows():
            progress.advance()
