"""Shards in an object store or behind HTTP: the index is copied once, tokens come block by block."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weft.core import manifest
from weft.core.errors import DataError
from weft.core.files import hash_file, write_bytes_atomic
from weft.data.cache import BlockCache
from weft.data.indexed import ShardReader
from weft.data.ranges import RangeFile, open_range
from weft.data.shards import Shards, open_split

Ints = npt.NDArray[np.int64]


def is_remote(folder: str) -> bool:
    """Whether this names something that is read through a cache: a URL."""
    return "://" in folder


def open_remote_split(url: str, split: str, cache_folder: Path) -> tuple[Shards, RangeFile, str]:
    """The shards of a split, the file of its tokens, and the key of that file in the cache.

    Manifest, index and sidecar are copied below ``cache_folder``, and the index is checked against its hash.
    The tokens are checked by their length only: their hash would need all of them. Raises DataError when
    something is missing or not what the manifest says, ResourceError when it cannot be reached.
    """
    url = url.rstrip("/")
    raw = _content(f"{url}/{manifest.NAME}")
    folder = cache_folder / "index" / hashlib.sha256(url.encode("utf-8") + raw).hexdigest()[:24]
    write_bytes_atomic(folder / manifest.NAME, raw)
    outputs: dict[str, Any] = (manifest.read(folder) or {}).get("outputs", {})
    for name in (f"{split}.idx", f"{split}.parquet"):
        _copy(f"{url}/{name}", folder / name, outputs.get(name))
    tokens = open_range(f"{url}/{split}.bin")
    shards = open_split(folder, split, verify=False, reader=RemoteIndex(folder / split, tokens))
    return shards, tokens, hashlib.sha256(f"{url} {split} {shards.fingerprint}".encode()).hexdigest()[:24]


class RemoteIndex(ShardReader):
    """The index of a shard whose tokens lie elsewhere; :attr:`tokens` is empty."""

    def __init__(self, prefix: Path, file: RangeFile) -> None:
        """Raises DataError when the tokens are not as long as the index says."""
        self._file = file
        super().__init__(prefix)

    def _map_tokens(self) -> npt.NDArray[np.integer]:
        size, expected = self._file.size(), self.token_count * self.dtype.itemsize
        if size != expected:
            raise DataError(
                f"{self._file.url} has {size} bytes where its index says {expected}; copy it again."
            )
        return np.zeros(0, self.dtype)


class CachedTokens:
    """Tokens of a remote file, through a cache."""

    def __init__(self, file: RangeFile, key: str, cache: BlockCache, dtype: np.dtype[Any]) -> None:
        self._file, self._key, self._cache, self._dtype = file, key, cache, dtype
        self._size = file.size()

    def read(self, begins: Ints, lengths: Ints) -> npt.NDArray[np.integer]:
        """As in :class:`weft.data.rows.Tokens`."""
        item = self._dtype.itemsize
        parts = [
            self._cache.read(self._file, self._key, self._size, begin * item, length * item)
            for begin, length in zip(begins.tolist(), lengths.tolist(), strict=True)
        ]
        return np.frombuffer(b"".join(parts), self._dtype)


def _copy(url: str, file: Path, expected: str | None) -> None:
    """Copy a small file whole, unless it is there; DataError when its hash is not ``expected``."""
    if file.exists() and expected is not None and hash_file(file) == expected:
        return
    write_bytes_atomic(file, _content(url))
    if expected is not None and hash_file(file) != expected:
        file.unlink()
        raise DataError(f"{url} is damaged: its content is not what its manifest recorded; copy it again.")


def _content(url: str) -> bytes:
    file = open_range(url)
    content = file.read(0, file.size())
    if url.endswith(".json"):
        try:
            json.loads(content)
        except ValueError:
            raise DataError(f"{url} is no manifest of shards; check the address.") from None
    return content
