"""Step 6: near duplicates, by MinHash with locality-sensitive hashing, verified by exact Jaccard.

Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4. A document is the
set of its word n-grams; each Han character is a word. Documents that agree in one band of their
signature are candidates; a candidate pair counts when its true Jaccard similarity reaches the
threshold. Connected components of such pairs are clusters, and the member with the smallest content
hash stays.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from weft.data.config import DuplicatesConfig
from weft.data.engine import batch_function, daft
from weft.data.schema import ID, REASON, SOURCE, TEXT, VALUE
from weft.data.shingles import jaccard, shingle_sets

_HASHES = 128
_RECALL = 0.995
_ALL_PAIRS = 32
_T = daft.DataType


def drop_near_duplicates(frame: Any, texts: Any, config: DuplicatesConfig) -> Any:
    """Set the reason ``near_duplicate``, with the id of the kept document as value.

    ``texts`` has the columns source and text; it is read, never held as a whole.
    """
    if not config.near:
        return frame
    col, lit = daft.col, daft.lit
    kept = frame.where(col(REASON).is_null()).select(SOURCE, ID)
    words = texts.join(kept, on=SOURCE).select(col(ID), spaced_words(col(TEXT)).alias(TEXT))
    pairs = candidate_pairs(words, config)
    verified = _verify(words, pairs, config)
    clusters = components(verified)
    if not clusters:
        return frame
    members = sorted(clusters)
    table = pa.table({ID: members, "kept": [clusters[member] for member in members]})
    frame = frame.join(daft.from_arrow(table), on=ID, how="left")
    near = col(REASON).is_null() & ~col("kept").is_null()
    return frame.with_columns(
        {
            REASON: daft.functions.when(near, lit("near_duplicate")).otherwise(col(REASON)),
            VALUE: daft.functions.when(near, col("kept")).otherwise(col(VALUE)),
        }
    ).exclude("kept")


def spaced_words(text: Any) -> Any:
    """Lower-case words, each Han character one, with one space between: what the engine splits on."""
    apart = daft.functions.regexp_replace(text, r"(\p{Han})", " $1 ")
    single = daft.functions.regexp_replace(apart, r"\s+", " ")
    return daft.functions.lower(daft.functions.strip(single))


def bands(threshold: float) -> tuple[int, int]:
    """``(bands, rows)``: most rows a band such that a pair at ``threshold`` is found 99.5 % of the time."""
    fitting = [
        (_HASHES // rows, rows)
        for rows in range(1, _HASHES + 1)
        if 1 - (1 - threshold**rows) ** (_HASHES // rows) >= _RECALL
    ]
    return fitting[-1]


def candidate_pairs(words: Any, config: DuplicatesConfig) -> list[tuple[str, str]]:
    """Sorted pairs of ids that share a band; ``words`` has the columns id and text (spaced words)."""
    number, rows = bands(config.jaccard)
    signature = daft.functions.minhash(
        daft.col(TEXT), num_hashes=number * rows, ngram_size=config.ngram, seed=1, hash_function="xxhash3_64"
    )
    buckets = (
        words.select(daft.col(ID), _band_hashes(signature, rows).alias("band"))
        .explode("band")
        .groupby("band")
        .agg(daft.col(ID).list_agg().alias("ids"), daft.col(ID).count().alias("members"))
        .where(daft.col("members") > 1)
        .select("ids")
    )
    pairs: set[tuple[str, str]] = set()
    for ids in buckets.to_arrow().column("ids").to_pylist():
        members = sorted(set(ids))
        if len(members) <= _ALL_PAIRS:
            pairs.update(itertools.combinations(members, 2))
        else:
            # All pairs of a large bucket would be quadratic: a star and a chain connect it as well.
            pairs.update((members[0], member) for member in members[1:])
            pairs.update(itertools.pairwise(members))
    return sorted(pairs)


def components(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """For each id that is not the smallest of its connected component, the smallest."""
    parent: dict[str, str] = {}

    def root(member: str) -> str:
        while (above := parent.setdefault(member, member)) != member:
            parent[member] = parent[above]
            member = above
        return member

    for left, right in pairs:
        first, second = sorted((root(left), root(right)))
        parent[second] = first
    return {member: root(member) for member in list(parent) if root(member) != member}


def _verify(words: Any, pairs: list[tuple[str, str]], config: DuplicatesConfig) -> list[tuple[str, str]]:
    if not pairs:
        return []
    wanted = daft.from_arrow(pa.table({ID: sorted({member for pair in pairs for member in pair})}))
    table = words.join(wanted, on=ID, how="semi").to_arrow()
    ids = table.column(ID).to_pylist()
    sets = dict(zip(ids, shingle_sets(table.column(TEXT).combine_chunks(), config.ngram), strict=True))
    return [(left, right) for left, right in pairs if jaccard(sets[left], sets[right]) >= config.jaccard]


@batch_function(_T.list(_T.uint64()))
def _band_hashes(signatures: Any, rows: int) -> Any:
    column = signatures.to_arrow()
    count = len(column)
    flat: npt.NDArray[np.uint64] = column.flatten().to_numpy(zero_copy_only=False).astype(np.uint64)
    blocks = flat.reshape(count, -1, rows)
    number = blocks.shape[1]
    # A multiplicative hash over the rows of a band, which starts from the band's own number.
    value = np.broadcast_to(np.arange(1, number + 1, dtype=np.uint64), (count, number)).copy()
    for row in range(rows):
        value = (value ^ blocks[:, :, row]) * np.uint64(0x9E3779B97F4A7C15)
        value ^= value >> np.uint64(29)
    offsets = np.arange(0, (count + 1) * number, number, dtype=np.int64)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(value.ravel()))
