"""Step 5: of documents with the same text, keep the one whose source name comes first."""

from __future__ import annotations

from typing import Any

from weft.data.engine import daft
from weft.data.schema import ID, REASON, SOURCE, VALUE

_FIRST = "first_source"


def drop_exact_duplicates(frame: Any) -> Any:
    """Set the reason ``exact_duplicate``, with the source of the kept document as value."""
    col, lit = daft.col, daft.lit
    kept = frame.where(col(REASON).is_null()).groupby(ID).agg(col(SOURCE).min().alias(_FIRST))
    frame = frame.join(kept, on=ID, how="left")
    twin = col(REASON).is_null() & (col(SOURCE) != col(_FIRST))
    return frame.with_columns(
        {
            REASON: daft.functions.when(twin, lit("exact_duplicate")).otherwise(col(REASON)),
            VALUE: daft.functions.when(twin, col(_FIRST)).otherwise(col(VALUE)),
        }
    ).exclude(_FIRST)
