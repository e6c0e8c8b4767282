"""Step 11: of documents with the same text, keep the one whose source name comes first."""

from __future__ import annotations

from typing import Any

from weft.data.engine import daft
from weft.data.schema import ID, REASON, SOURCE, VALUE

_FIRST = "first_source"


def drop_exact_duplicates(frame: Any, earlier: Any = None) -> Any:
    """Set the reason ``exact_duplicate``, with the source of the kept document as value.

    ``earlier`` has the column id of documents kept before, of which no copy stays; the value is their id.
    """
    col = daft.col
    if earlier is not None:
        known = earlier.select(ID).distinct().with_column(_FIRST, col(ID))
        frame = _mark(frame.join(known, on=ID, how="left"), ~col(_FIRST).is_null())
    kept = frame.where(col(REASON).is_null()).groupby(ID).agg(col(SOURCE).min().alias(_FIRST))
    return _mark(frame.join(kept, on=ID, how="left"), col(SOURCE) != col(_FIRST))


def _mark(frame: Any, twin: Any) -> Any:
    col, lit = daft.col, daft.lit
    twin = col(REASON).is_null() & twin
    return frame.with_columns(
        {
            REASON: daft.functions.when(twin, lit("exact_duplicate")).otherwise(col(REASON)),
            VALUE: daft.functions.when(twin, col(_FIRST)).otherwise(col(VALUE)),
        }
    ).exclude(_FIRST)
