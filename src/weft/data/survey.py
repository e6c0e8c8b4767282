"""A look over a whole data folder in one pass: counts, lengths, folders, clusters and drawn samples.

Works without the data engine, on the small columns; texts are read for the drawn samples only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from weft.core import manifest
from weft.data import documents, parts
from weft.data.clusters import Clusters, find_clusters
from weft.data.sample import Sample
from weft.data.schema import (
    BYTES,
    KIND,
    LANGUAGE,
    REASON,
    SHARDS,
    SOURCE,
    SPLITS,
    TEXT,
    TOKENS,
    VALUE,
)
from weft.data.tally import Count, Tally

_BINS = 64
# "a/b/c.txt" and "a/b/c.jsonl#7" lie in "a/b", "a/c.txt" in "a", "a/c.jsonl#7" in "a/c.jsonl".
_FOLDER = r"(?s)^(?:((?:[a-z][a-z0-9+.-]*://)?[^/#]+/[^/#]+)[/#].*|((?:[a-z][a-z0-9+.-]*://)?[^/#]+)[/#].*)$"


@dataclass(frozen=True)
class Drawn:
    """One drawn document; ``text`` is its beginning, None where it was never read."""

    source: str
    kind: str | None
    language: str | None
    bytes: int
    text: str | None
    value: str | None = None


@dataclass(frozen=True)
class Survey:
    """What a data folder holds."""

    kept: Count
    splits: dict[str, Count]
    languages: dict[str, Count]
    dropped: dict[str, Count]
    """By reason, most documents first."""
    lengths: npt.NDArray[np.int64]
    """Kept documents with 2^k to 2^(k+1) - 1 bytes, [64]; empty ones are under 0."""
    folders: dict[str, Count]
    """Kept documents by the first two folders of their source, most bytes first."""
    folders_dropped: dict[str, Count]
    tokens: dict[str, Count]
    """Tokens by folder, as the shards have them; empty without shards."""
    tokens_by_language: dict[str, Count]
    clusters: Clusters
    samples_kept: list[Drawn]
    samples_dropped: dict[str, list[Drawn]]


def survey(data_folder: Path, samples: int = 5, characters: int = 1500, seed: int = 0) -> Survey:
    """Read ``data_folder``; ``samples`` documents of each reason, and twice as many kept ones, are drawn.

    Raises DataError when there are no finished documents, or a file is damaged.
    """
    documents.record(data_folder)
    kept = _Kept(2 * samples, seed)
    for split in SPLITS:
        for group in parts.groups(parts.kept_files(data_folder, split), [SOURCE, LANGUAGE, BYTES]):
            kept.add(group, split)
    dropped = _Dropped(samples, seed)
    for group in parts.groups(parts.dropped_files(data_folder), [SOURCE, REASON, BYTES]):
        dropped.add(group)
    reasons = dict(sorted(dropped.reasons.counts().items(), key=lambda item: -item[1].documents))
    by_folder, by_language = _tokens(data_folder)
    splits = kept.splits.counts()
    return Survey(
        kept=total(splits.values()),
        splits={name: splits.get(name, Count(0, 0)) for name in SPLITS},
        languages=kept.languages.counts(),
        dropped=reasons,
        lengths=kept.lengths,
        folders=kept.folders.counts(),
        folders_dropped=dropped.folders.counts(),
        tokens=by_folder,
        tokens_by_language=by_language,
        clusters=find_clusters(data_folder),
        samples_kept=_drawn(kept.sample, [], characters),
        samples_dropped={name: _drawn(dropped.samples[name], [VALUE], characters) for name in reasons},
    )


def folders(sources: Any) -> Any:
    """Of each source [N] the first two folders; a file of many documents counts as a folder."""
    return pc.replace_substring_regex(sources, _FOLDER, r"\1\2")


def total(counts: Any) -> Count:
    """The sum of some counts."""
    listed = list(counts)
    return Count(*(sum(getattr(count, name) for count in listed) for name in ("documents", BYTES, TOKENS)))


class _Kept:
    def __init__(self, samples: int, seed: int) -> None:
        self.splits, self.languages, self.folders = Tally(), Tally(), Tally()
        self.lengths: npt.NDArray[np.int64] = np.zeros(_BINS, np.int64)
        self.sample = Sample(samples, seed)

    def add(self, group: parts.Group, split: str) -> None:
        rows = group.rows
        self.splits.add(pa.repeat(split, len(rows)), rows[BYTES])
        self.languages.add(rows[LANGUAGE], rows[BYTES])
        self.folders.add(folders(rows[SOURCE]), rows[BYTES])
        self.lengths += _length_bins(rows[BYTES].to_numpy())
        self.sample.add(group, np.arange(len(rows)))


class _Dropped:
    def __init__(self, samples: int, seed: int) -> None:
        self.reasons, self.folders = Tally(), Tally()
        self.samples: dict[str, Sample] = {}
        self._size, self._seed = samples, seed

    def add(self, group: parts.Group) -> None:
        rows = group.rows
        self.reasons.add(rows[REASON], rows[BYTES])
        self.folders.add(folders(rows[SOURCE]), rows[BYTES])
        reasons = pc.fill_null(rows[REASON], "unknown")
        for reason in pc.unique(reasons).to_pylist():
            sample = self.samples.setdefault(reason, Sample(self._size, self._seed))
            sample.add(group, np.flatnonzero(pc.equal(reasons, reason).to_numpy()))


def _length_bins(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    # frexp, not log2: exact at the powers of two.
    bins = np.frexp(np.maximum(sizes, 1).astype(np.float64))[1] - 1
    return np.bincount(bins, minlength=_BINS).astype(np.int64)


def _drawn(sample: Sample, columns: list[str], characters: int) -> list[Drawn]:
    rows = parts.fetch(sample.places, [SOURCE, KIND, LANGUAGE, BYTES, *columns], characters)
    return [
        Drawn(row[SOURCE], row[KIND], row[LANGUAGE], row[BYTES], row[TEXT], row.get(VALUE))
        for row in (rows[place] for place in sample.places)
    ]


def _tokens(data_folder: Path) -> tuple[dict[str, Count], dict[str, Count]]:
    if manifest.read(data_folder / SHARDS) is None:
        return {}, {}
    by_folder, by_language = Tally(), Tally()
    for rows in _sidecars(data_folder):
        by_folder.add(folders(rows[SOURCE]), rows[BYTES], rows[TOKENS])
        by_language.add(rows[LANGUAGE], rows[BYTES], rows[TOKENS])
    return by_folder.counts(), by_language.counts()


def _sidecars(data_folder: Path) -> Iterator[pa.Table]:
    files = [data_folder / SHARDS / f"{split}.parquet" for split in SPLITS]
    for group in parts.groups([file for file in files if file.is_file()], [SOURCE, LANGUAGE, TOKENS, BYTES]):
        yield group.rows
