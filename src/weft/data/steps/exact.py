"""Step 11: of documents with the same text, keep the one whose source name comes first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from weft.data.schema import EXACT, ID, REASON, SOURCE, VALUE


def drop_exact_duplicates(rows: pa.Table, known: pa.Array | None = None) -> pa.Table:
    """Set the reason ``exact_duplicate``, with the source of the kept document as value.

    ``rows`` are whole partitions, sorted by id and source. ``known`` are ids of documents kept before, of
    which no copy stays; the value is their id.
    """
    if known is not None:
        old = np.asarray(pc.and_(pc.is_null(rows[REASON]), pc.is_in(rows[ID], known)))
        rows = mark(rows, old, EXACT, rows[ID])
    ids = rows[ID].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    left = np.flatnonzero(np.asarray(pc.is_null(rows[REASON])))
    first = np.ones(len(left), np.bool_)
    first[1:] = ids[left][1:] != ids[left][:-1]
    twin = np.zeros(len(rows), np.bool_)
    twin[left[~first]] = True
    keeper = np.arange(len(rows))
    keeper[left] = np.maximum.accumulate(np.where(first, left, 0))
    return mark(rows, twin, EXACT, rows[SOURCE].take(pa.array(keeper)))


def mark(rows: pa.Table, where: npt.NDArray[np.bool_], reason: str, values: pa.ChunkedArray) -> pa.Table:
    """Set ``reason`` and the values [N] of the rows of ``where`` [N]."""
    if not where.any():
        return rows
    mask = pa.array(where)
    news = {
        REASON: pc.if_else(mask, pa.scalar(reason, pa.large_string()), rows[REASON]),
        VALUE: pc.if_else(mask, values.cast(pa.large_string()), rows[VALUE]),
    }
    for name, column in news.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows
