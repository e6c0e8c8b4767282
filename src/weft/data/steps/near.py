"""Step 12: near duplicates, by MinHash with locality-sensitive hashing, verified by exact Jaccard.

Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4. A document is the
set of its word n-grams; each Han character is a word. Documents that agree in one band of their
signature are candidates; a candidate pair counts when its true Jaccard similarity reaches the
threshold. Connected components of such pairs are clusters, and the member with the smallest content
hash stays.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from weft.data.config import DuplicatesConfig
from weft.data.engine import batch_function, daft, write_errors
from weft.data.schema import ID, REASON, SOURCE, TEXT, VALUE
from weft.data.shingles import ShingleFile, jaccard, shingle_sets

_HASHES = 128
_RECALL = 0.995
_ALL_PAIRS = 32
_T = daft.DataType


def drop_near_duplicates(
    frame: Any, texts: Any, config: DuplicatesConfig, work: Path, earlier: Any = None
) -> Any:
    """Set the reason ``near_duplicate``, with the id of the kept document as value.

    ``texts`` has the columns source and text, ``earlier`` id and text of documents that were kept before
    and win over these; they are read, never held as a whole. Signatures and the shingles to compare lie in
    files in the empty folder ``work``.
    """
    if not config.near:
        return frame
    col, lit = daft.col, daft.lit
    kept = frame.where(col(REASON).is_null()).select(SOURCE, ID)
    words = texts.join(kept, on=SOURCE).select(col(ID), spaced_words(col(TEXT)).alias(TEXT))
    older: set[str] = set()
    if earlier is not None:
        words = words.concat(earlier.select(col(ID), spaced_words(col(TEXT)).alias(TEXT)))
        older = set(earlier.select(ID).to_arrow().column(ID).to_pylist())
    pairs = candidate_pairs(words, config, work / "bands")
    verified = _verify(words, pairs, config, work / "shingles")
    clusters = components(verified, older)
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


def candidate_pairs(words: Any, config: DuplicatesConfig, folder: Path) -> list[tuple[str, str]]:
    """Sorted pairs of ids that share a band; ``words`` has the columns id and text (spaced words).

    The bands go to files in ``folder`` and are compared one after another, so no more than one band
    of all documents is held at a time.
    """
    number, rows = bands(config.jaccard)
    signature = daft.functions.minhash(
        daft.col(TEXT), num_hashes=number * rows, ngram_size=config.ngram, seed=1, hash_function="xxhash3_64"
    )
    with write_errors(folder.parent):
        words.select(daft.col(ID), _band_hashes(signature, rows).alias("bands")).write_parquet(str(folder))
    signatures = daft.read_parquet(str(folder / "*.parquet"))
    pairs: set[tuple[str, str]] = set()
    for band in range(number):
        shared = (
            signatures.select(daft.col(ID), daft.col("bands").get(band).alias("band"))
            .groupby("band")
            .agg(daft.col(ID).list_agg().alias("ids"), daft.col(ID).count().alias("members"))
            .where(daft.col("members") > 1)
            .select("ids")
        )
        for ids in shared.to_arrow().column("ids").to_pylist():
            pairs.update(_pairs_of(sorted(set(ids))))
    return sorted(pairs)


def _pairs_of(members: list[str]) -> Iterable[tuple[str, str]]:
    if len(members) <= _ALL_PAIRS:
        return itertools.combinations(members, 2)
    # All pairs of a large bucket would be quadratic: a star and a chain connect it as well.
    star = ((members[0], member) for member in members[1:])
    return itertools.chain(star, itertools.pairwise(members))


def components(pairs: Iterable[tuple[str, str]], older: Set[str] = frozenset()) -> dict[str, str]:
    """For each id that is not the first of its connected component, the first; ``older`` ids come first.

    Two older ids of one component both stay: what was kept before is not judged again.
    """
    parent: dict[str, str] = {}

    def root(member: str) -> str:
        while (above := parent.setdefault(member, member)) != member:
            parent[member] = parent[above]
            member = above
        return member

    for left, right in pairs:
        roots = root(left), root(right)
        first, second = sorted(roots, key=lambda member: (member not in older, member))
        parent[second] = first
    return {member: root(member) for member in list(parent) if root(member) != member and member not in older}


def _verify(
    words: Any, pairs: list[tuple[str, str]], config: DuplicatesConfig, file: Path
) -> list[tuple[str, str]]:
    if not pairs:
        return []
    wanted = daft.from_arrow(pa.table({ID: sorted({member for pair in pairs for member in pair})}))
    with ShingleFile(file) as sets:
        for part in words.join(wanted, on=ID, how="semi").to_arrow_iter():
            table = pa.table(part) if isinstance(part, pa.RecordBatch) else part
            for batch in table.to_batches():
                sets.add(batch.column(ID).to_pylist(), shingle_sets(batch.column(TEXT), config.ngram))
        found = sets.read()
        return [
            (left, right) for left, right in pairs if jaccard(found[left], found[right]) >= config.jaccard
        ]


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
