"""Step 10: name each document by its content, and draw from the same hash where it belongs."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from weft.data.engine import batch_function, daft, xxhash
from weft.data.schema import BYTES, ID, TEXT

DRAW = "draw"
"""Uniform in [0, 1), from the low half of the hash: decides the split."""
BUCKET = "bucket"
"""From the high bits of the hash: decides the partition on disk."""

_T = daft.DataType
_FIELDS = {ID: _T.string(), DRAW: _T.float64(), BUCKET: _T.int32()}


def identify(frame: Any, buckets: int) -> Any:
    """Add id, draw and bucket; documents without a text have the hash of their source name."""
    name = daft.functions.coalesce(daft.col(TEXT), daft.col("source"))
    return frame.with_column("hash", _hash(name, buckets)).select(
        *frame.column_names, daft.functions.unnest(daft.col("hash"))
    )


def measure_bytes(frame: Any) -> Any:
    """Bytes of the text as it is after all changes."""
    size = daft.functions.length_bytes(daft.col(TEXT)).cast(_T.int64())
    return frame.with_column(BYTES, daft.functions.coalesce(size, daft.col(BYTES)))


def bucket_of(name: str, buckets: int) -> int:
    """The partition of a document's id."""
    return int(name[:16], 16) % buckets


@batch_function(_T.int32())
def buckets_of(names: Any, buckets: int) -> Any:
    """The same of a column."""
    return pa.array([bucket_of(name, buckets) for name in names.to_arrow().to_pylist()], pa.int32())


@batch_function(_T.struct(_FIELDS), rows=256)
def _hash(texts: Any, buckets: int) -> Any:
    digests = [
        xxhash.xxh3_128_intdigest(text) for text in texts.to_arrow().cast(pa.large_binary()).to_pylist()
    ]
    columns = [
        pa.array([f"{digest:032x}" for digest in digests], pa.large_string()),
        # 53 bits: what a float64 holds exactly, so that 1.0 never appears.
        pa.array([(digest & ((1 << 53) - 1)) / (1 << 53) for digest in digests], pa.float64()),
        pa.array([(digest >> 64) % buckets for digest in digests], pa.int32()),
    ]
    return pa.StructArray.from_arrays(columns, names=list(_FIELDS))
