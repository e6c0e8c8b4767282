"""Step 3: lines or paragraphs that many documents share: navigation, notices, signatures are removed.

A line counts once a document, by the hash of its letters (see :func:`weft.data.words.line_hashes`), so the
result depends neither on the order of documents nor on the engine. Hashes are written to disk, partitioned by
their high bits, and counted one partition at a time by the engine, so memory is bounded by a partition; what
is common is small and is read by every worker from one file.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from weft.core.files import disk_errors
from weft.data import kinds
from weft.data.config_quality import LinesConfig
from weft.data.engine import batch_function, daft, write_errors
from weft.data.schema import KIND, REASON, SOURCE, TEXT, VALUE
from weft.data.words import Hashes, line_hashes

COMMON_LINES = "common_lines"
"""Lines (or paragraphs) removed from a document, int64."""
INDEX = "common.npz"

_T = daft.DataType
_PART = "part"
_CUT = {"line": "\n", "paragraph": "\n\n"}
_NOTHING_LEFT = "nothing_left"
_REMOVED = _T.struct({TEXT: _T.string(), COMMON_LINES: _T.int64(), _NOTHING_LEFT: _T.bool()})


def find_common_lines(frame: Any, config: LinesConfig, folder: Path, parts: int = 1) -> int:
    """Write ``folder/common.npz``, the hashes of lines in more than ``max_documents``; returns their number.

    ``frame`` has source, kind, text and reason; ``folder`` exists and takes ``parts`` partitions of hashes,
    about a quarter of the bytes of the text in all.
    """
    col = daft.col
    rows = frame.where(col(REASON).is_null() & (col(KIND) != daft.lit(kinds.CODE)) & ~col(TEXT).is_null())
    rows = rows.select(col(SOURCE), _hashes(col(TEXT), config).alias("line")).explode("line")
    rows = rows.where(~col("line").is_null()).with_column(_PART, _partition(col("line"), parts))
    hashes, firsts = [np.zeros(0, np.uint64)], [np.zeros(0, object)]
    with write_errors(folder):
        rows.write_parquet(str(folder / "hashes"), compression="zstd", partition_cols=[_PART])
    for part in sorted((folder / "hashes").glob(f"{_PART}=*")):
        counted = (
            daft.read_parquet(str(part / "*.parquet"))
            .groupby("line")
            .agg(col(SOURCE).count().alias("documents"), col(SOURCE).min().alias("first"))
            .where(col("documents") > config.max_documents)
            .select("line", "first")
            .to_arrow()
        )
        hashes.append(counted["line"].to_numpy().astype(np.uint64))
        firsts.append(np.array(counted["first"].to_pylist(), object))
    common, first = np.concatenate(hashes), np.concatenate(firsts).astype(str)
    order = np.argsort(common)
    with disk_errors(folder), (folder / INDEX).open("wb") as stream:
        np.savez(stream, common=common[order], first=first[order])
    return len(common)


def remove_common_lines(frame: Any, config: LinesConfig, folder: Path) -> Any:
    """Remove what :func:`find_common_lines` found; adds the column common_lines.

    A text of which nothing would be left stays as it is and gets the reason ``common_lines``, with the number
    of its lines that others have as value.
    """
    col, when = daft.col, daft.functions.when
    file = folder / INDEX
    # With its time, because a worker keeps what it has read under this name.
    index = f"{file.stat().st_mtime_ns} {file}"
    removed = _remove(col(TEXT), col(KIND), col(SOURCE), col(REASON), index, config)
    frame = frame.with_column("removed", removed)
    gone, count = col("removed").get(_NOTHING_LEFT), col("removed").get(COMMON_LINES)
    return frame.with_columns(
        {
            TEXT: col("removed").get(TEXT),
            COMMON_LINES: count,
            REASON: when(gone, daft.lit(COMMON_LINES)).otherwise(col(REASON)),
            VALUE: when(gone, count.cast(_T.string())).otherwise(col(VALUE)),
        }
    ).exclude("removed")


def distinct_lines(texts: pa.Array, config: LinesConfig) -> pa.Array:
    """The different hashes of the lines of each text [N] that are long enough, a list of uint64 [N]."""
    lists = pc.split_pattern(texts, _CUT[config.unit])
    hashes, letters = line_hashes(lists.flatten())
    owner = np.repeat(np.arange(len(texts)), np.diff(lists.offsets.to_numpy()))
    chosen = letters >= config.min_letters
    pairs = np.unique(np.stack([owner[chosen].astype(np.uint64), hashes[chosen]]), axis=1)
    counts = np.bincount(pairs[0].astype(np.int64), minlength=len(texts))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(pairs[1]))


def without_lines(
    texts: pa.Array, sources: pa.Array, common: Hashes, first: npt.NDArray[np.str_], config: LinesConfig
) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """``(texts, lines removed)`` of a large_string array [N]; ``common`` is sorted, ``first`` beside it."""
    lists = pc.split_pattern(texts, _CUT[config.unit])
    lines = lists.flatten()
    hashes, letters = line_hashes(lines)
    sizes = np.diff(lists.offsets.to_numpy())
    owner = np.repeat(np.arange(len(texts)), sizes)
    place = np.minimum(np.searchsorted(common, hashes), max(len(common) - 1, 0))
    gone = (letters >= config.min_letters) & (common[place] == hashes if len(common) else False)
    if config.keep == "first" and gone.any():
        rows = np.flatnonzero(gone)
        names = np.array(sources.to_pylist(), object)[owner[rows]]
        gone[rows[names == first[place[rows]]]] = False
    removed = np.bincount(owner[gone], minlength=len(texts))
    if not removed.any():
        return texts, removed
    kept = np.bincount(owner[~gone], minlength=len(texts))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
    rest = pa.LargeListArray.from_arrays(pa.array(offsets), lines.filter(pa.array(~gone)))
    joined = pc.binary_join(rest, pa.scalar(_CUT[config.unit], pa.large_string()))
    return pc.if_else(pa.array(removed > 0), joined, texts), removed


@batch_function(_T.list(_T.uint64()), rows=256)
def _hashes(texts: Any, config: LinesConfig) -> Any:
    return distinct_lines(texts.to_arrow().cast(pa.large_string()), config)


@batch_function(_T.int32())
def _partition(hashes: Any, parts: int) -> Any:
    high = hashes.to_arrow().to_numpy(zero_copy_only=False).astype(np.uint64) >> np.uint64(40)
    return pa.array((high % np.uint64(parts)).astype(np.int32))


@batch_function(_REMOVED, rows=256)
def _remove(texts: Any, sorts: Any, sources: Any, reasons: Any, index: str, config: LinesConfig) -> Any:
    whole = texts.to_arrow().cast(pa.large_string())
    common, first = load_index(index)
    prose = pc.and_(
        pc.is_null(reasons.to_arrow()), pc.fill_null(pc.not_equal(sorts.to_arrow(), kinds.CODE), True)
    )
    prose = pc.and_(prose, pc.is_valid(whole))
    chosen, removed = without_lines(
        whole.filter(prose), sources.to_arrow().filter(prose), common, first, config
    )
    counts = np.zeros(len(whole), np.int64)
    counts[np.asarray(prose)] = removed
    left = pc.replace_with_mask(whole, prose, chosen)
    blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(left)), 0)
    gone = pc.and_(pc.fill_null(blank, False), pa.array(counts > 0))
    columns = [pc.if_else(gone, whole, left), pa.array(counts), gone]
    return pa.StructArray.from_arrays(columns, names=[TEXT, COMMON_LINES, _NOTHING_LEFT])


@functools.lru_cache(2)
def load_index(index: str) -> tuple[Hashes, npt.NDArray[np.str_]]:
    """The common hashes, sorted, and the first source of each; ``index`` is a time and a path."""
    with np.load(index.partition(" ")[2]) as arrays:
        return arrays["common"], arrays["first"]
