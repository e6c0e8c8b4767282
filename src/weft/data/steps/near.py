"""Step 12: near duplicates, by MinHash with locality-sensitive hashing, verified by exact Jaccard.

A document is the set of its word n-grams; each Han character is a word. Documents that agree in one band of
their signature (:mod:`weft.data.minhash`, computed while the text was at hand, step 10) are candidates; a
candidate pair counts when its true Jaccard similarity reaches the threshold. Connected components of such
pairs are clusters, and the member with the smallest content hash stays.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weft.data.config import DuplicatesConfig
from weft.data.engine import batch_function, daft, write_errors
from weft.data.minhash import band_hashes, bands
from weft.data.schema import ID, NEAR, REASON, TEXT
from weft.data.shingles import ShingleFile, shingle_hashes, shingle_sets
from weft.data.steps.exact import mark

KEPT = "kept"
_BAND = "band"
_ALL_PAIRS = 32
_VERIFY_ROWS = 1024
_ROWS = 2 << 20
_T = daft.DataType


def sign(frame: Any, config: DuplicatesConfig) -> Any:
    """Add a column a band, null for a document that is dropped already or has no words."""
    if not config.near:
        return frame
    text = daft.functions.when(daft.col(REASON).is_null(), daft.col(TEXT))
    signed = frame.with_column("bands", _signer(config)(text.otherwise(daft.lit(None).cast(_T.string()))))
    return signed.select(*frame.column_names, daft.functions.unnest(daft.col("bands")))


def find_near_duplicates(
    signed: Any, texts: Any, config: DuplicatesConfig, work: Path, earlier: Any = None
) -> dict[str, str]:
    """For each document that is a near duplicate the id of the one that stays.

    ``signed`` has the columns id and those of :func:`sign`, no two rows with one id; ``texts`` id and text of
    all documents, ``earlier`` of documents that were kept before and win over these. They are read, never
    held as a whole. What is compared lies in files in the empty folder ``work``.
    """
    columns = band_columns(config)
    if earlier is not None:
        nothing = daft.lit(None).cast(_T.string())
        signed = signed.concat(sign(earlier.with_column(REASON, nothing), config).select(ID, *columns))
        texts = texts.concat(earlier)
    pairs = candidate_pairs(signed.where(~daft.col(columns[0]).is_null()), columns, work / "bands")
    pairs = _verify(texts, pairs, config, work / "shingles")
    older = set() if earlier is None else _among(earlier, pairs)
    return components(pairs, older)


def mark_near_duplicates(rows: pa.Table, clusters: pa.Table) -> pa.Table:
    """Set the reason ``near_duplicate``, with the id of the kept document as value.

    ``clusters`` has the columns id and kept, of the documents to drop.
    """
    at = pc.index_in(rows[ID], clusters[ID])
    where = np.asarray(pc.and_(pc.is_null(rows[REASON]), pc.is_valid(at)))
    return mark(rows, where, NEAR, clusters[KEPT].take(at))


def candidate_pairs(signed: Any, columns: Sequence[str], folder: Path) -> list[tuple[str, str]]:
    """Sorted pairs of ids that share a band; ``signed`` has the columns id and ``columns``.

    The bands go to files in ``folder`` and are compared some at a time: as many as make two million rows, or
    of more documents than that a share of one band, by its value.
    """
    with write_errors(folder.parent):
        signed.write_parquet(str(folder))
    signatures = daft.read_parquet(str(folder / "*.parquet"))
    count = max(1, signatures.count_rows())
    together, shares = max(1, _ROWS // count), -(-count // _ROWS)
    pairs: set[tuple[str, str]] = set()
    for start, share in itertools.product(range(0, len(columns), together), range(shares)):
        # The number of a band is part of its hash, so bands of different places never meet.
        rows = signatures.unpivot([ID], list(columns[start : start + together]), value_name=_BAND)
        if shares > 1:
            rows = rows.where(daft.col(_BAND) % shares == share)
        shared = rows.groupby(_BAND).agg(daft.col(ID).count().alias("members")).where(daft.col("members") > 1)
        table = rows.join(shared, on=_BAND, how="semi").select(_BAND, ID).to_arrow()
        for members in _members(table):
            pairs.update(_pairs_of(members))
    return sorted(pairs)


def _members(table: pa.Table) -> Iterator[list[str]]:
    """The sorted distinct ids of each band of a table of band and id."""
    table = table.sort_by([(_BAND, "ascending"), (ID, "ascending")])
    for _, group in itertools.groupby(
        zip(table[_BAND].to_pylist(), table[ID].to_pylist(), strict=True), key=operator.itemgetter(0)
    ):
        yield [name for name, _ in itertools.groupby(name for _, name in group)]


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
    texts: Any, pairs: list[tuple[str, str]], config: DuplicatesConfig, file: Path
) -> list[tuple[str, str]]:
    if not pairs:
        return []
    with ShingleFile(file) as sets:
        for part in texts.join(_members_of(pairs), on=ID, how="semi").to_arrow_iter():
            table = pa.table(part) if isinstance(part, pa.RecordBatch) else part
            for batch in table.to_batches(_VERIFY_ROWS):
                column = batch.column(TEXT).cast(pa.large_string())
                sets.add(batch.column(ID).to_pylist(), shingle_sets(column, config.ngram))
        similar = sets.similarities(pairs) >= config.jaccard
    return [pair for pair, chosen in zip(pairs, similar, strict=True) if chosen]


def _among(earlier: Any, pairs: list[tuple[str, str]]) -> set[str]:
    """The ids of ``pairs`` that documents kept before have."""
    if not pairs:
        return set()
    found = earlier.select(ID).join(_members_of(pairs), on=ID, how="semi")
    return set(found.to_arrow().column(ID).to_pylist())


def _members_of(pairs: list[tuple[str, str]]) -> Any:
    return daft.from_arrow(pa.table({ID: sorted(set(itertools.chain.from_iterable(pairs)))}))


def band_columns(config: DuplicatesConfig) -> list[str]:
    """The names of the columns of :func:`sign`."""
    number, _ = bands(config.jaccard)
    return [f"band_{index:02d}" for index in range(number)]


@functools.cache
def _signer(config: DuplicatesConfig) -> Any:
    """The batch function of this configuration: as many fields as the threshold needs bands."""
    fields = {name: _T.uint64() for name in band_columns(config)}

    @batch_function(_T.struct(fields), rows=256)
    def signer(texts: Any) -> Any:
        shingles, places = shingle_hashes(texts.to_arrow(), config.ngram)
        hashes = band_hashes(shingles, places, config.jaccard)
        wordless = places[1:] == places[:-1]
        columns = [pa.array(hashes[:, band], mask=wordless) for band in range(hashes.shape[1])]
        return pa.StructArray.from_arrays(columns, names=list(fields))

    return signer
