"""Clusters of duplicates: a kept document and all that was dropped because of it.

N = dropped duplicates. A cluster is named by 64 bits of the id of its kept document, so that clusters take
some 30 bytes a duplicate, whatever the texts.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from weft.data import parts
from weft.data.schema import EXACT, ID, NEAR, REASON, SOURCE, VALUE

Keys = npt.NDArray[np.uint64]
_HEX = 32


@dataclass
class Cluster:
    """One kept document and its duplicates."""

    kept: str | None
    """Source of the kept document; None when a later rule dropped it as well."""
    size: int
    """Documents of the cluster, the kept one included."""
    members: list[tuple[str, str]] = field(default_factory=list)
    """``(source, reason)`` of the first duplicates."""


@dataclass(frozen=True)
class Clusters:
    """The clusters of a data folder."""

    number: int
    duplicates: int
    largest: list[Cluster]


def find_clusters(data_folder: Path, largest: int = 10, members: int = 6) -> Clusters:
    """Count the clusters, and show ``members`` dropped documents of each of the ``largest``."""
    roots = _roots(data_folder)
    names, sizes = np.unique(roots, return_counts=True)
    top = np.argsort(-sizes, kind="stable")[:largest]
    found = {int(names[i]): Cluster(None, int(sizes[i]) + 1) for i in top}
    if found:
        chosen = names[top]
        _name_members(data_folder, roots, chosen, found, members)
        _name_kept(data_folder, chosen, found)
    return Clusters(len(names), len(roots), list(found.values()))


def keys(ids: pa.ChunkedArray) -> Keys:
    """Both halves of each id [N] in 64 bits; of a text that is no id, 64 bits of its hash."""
    column = pc.fill_null(ids, "").combine_chunks().cast(pa.large_binary())
    if not len(column):
        return np.zeros(0, np.uint64)
    offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
    if (np.diff(offsets) == _HEX).all():
        try:
            raw = binascii.unhexlify(memoryview(column.buffers()[2])[offsets[0] : offsets[-1]])
        except binascii.Error:
            pass
        else:
            halves = np.frombuffer(raw, ">u8").astype(np.uint64)
            return halves[::2] ^ halves[1::2]
    return np.array([_key(value) for value in column.to_pylist()], np.uint64)


def _key(name: bytes) -> int:
    """One by one, what :func:`keys` gives for a column."""
    try:
        if len(name) == _HEX:
            raw = binascii.unhexlify(name)
            return int.from_bytes(raw[:8], "big") ^ int.from_bytes(raw[8:], "big")
    except binascii.Error:
        pass
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")


def _duplicates(data_folder: Path, columns: list[str]) -> Iterator[pa.Table]:
    for group in parts.groups(parts.dropped_files(data_folder), columns):
        yield group.rows.filter(pc.is_in(group.rows[REASON], pa.array([EXACT, NEAR])))


def _roots(data_folder: Path) -> Keys:
    """The key of the kept document of every duplicate, [N]."""
    own, kept, near = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)], [np.zeros(0, np.bool_)]
    for rows in _duplicates(data_folder, [ID, REASON, VALUE]):
        is_near = pc.equal(rows[REASON], NEAR).to_numpy()
        ids = keys(rows[ID])
        own.append(ids)
        # Exact duplicates have the id of what was kept.
        kept.append(np.where(is_near, keys(rows[VALUE]), ids))
        near.append(is_near)
    return resolve(np.concatenate(own), np.concatenate(kept), np.concatenate(near))


def resolve(own: Keys, kept: Keys, near: npt.NDArray[np.bool_]) -> Keys:
    """``kept`` [N], where a copy of a near duplicate follows that one to the document kept for it."""
    if not near.any():
        return kept
    order = np.argsort(own[near], kind="stable")
    ids, targets = own[near][order], kept[near][order]
    at = np.minimum(np.searchsorted(ids, kept), len(ids) - 1)
    return np.where(~near & (ids[at] == kept), targets[at], kept)


def _name_members(
    data_folder: Path, roots: Keys, chosen: Keys, found: dict[int, Cluster], members: int
) -> None:
    start = 0
    for rows in _duplicates(data_folder, [SOURCE, REASON]):
        here = roots[start : start + len(rows)]
        start += len(rows)
        for row in np.flatnonzero(np.isin(here, chosen)):
            shown = found[int(here[row])].members
            if len(shown) < members:
                shown.append((rows[SOURCE][row].as_py(), rows[REASON][row].as_py()))


def _name_kept(data_folder: Path, chosen: Keys, found: dict[int, Cluster]) -> None:
    for group in parts.groups(parts.kept_files(data_folder), [ID, SOURCE]):
        ids = keys(group.rows[ID])
        for row in np.flatnonzero(np.isin(ids, chosen)):
            found[int(ids[row])].kept = group.rows[SOURCE][row].as_py()
