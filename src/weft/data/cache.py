"""A cache of fixed-size blocks of remote files: bounded on disk, bounded in memory, shared by processes.

A block is one file: its bytes and their CRC-32. The least recently used go first, by the time of change
of the file, which a read renews. The folder may hold other things; only ``*.block`` counts and is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from weft.core.errors import ConfigError
from weft.core.files import disk_errors
from weft.data.config import StreamConfig
from weft.data.ranges import RangeFile

_SUM = 4


class BlockCache:
    """Blocks of files by (key, number). ``fetched`` and ``hits`` count what was read from where."""

    def __init__(
        self,
        folder: str | Path,
        max_bytes: int = 8 << 30,
        block_bytes: int = 4 << 20,
        memory_bytes: int = 64 << 20,
    ) -> None:
        """No more than ``max_bytes`` lie in ``folder`` and ``memory_bytes`` in memory, whatever is read.

        Raises ConfigError when not even two blocks fit, ResourceError when the folder cannot be made.
        """
        if block_bytes < 1 or min(max_bytes, memory_bytes) < 2 * (block_bytes + _SUM):
            raise ConfigError(
                f"stream.max_bytes = {max_bytes} and stream.memory_bytes = {memory_bytes} must each hold two "
                f"blocks of {block_bytes} bytes; raise them or lower stream.block_bytes."
            )
        self.folder, self.max_bytes, self.block_bytes = Path(folder).expanduser(), max_bytes, block_bytes
        self._kept = memory_bytes // (block_bytes + _SUM)
        self._memory: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()
        self.fetched = self.hits = 0
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def of(cls, config: StreamConfig) -> BlockCache:
        """The cache that a run file describes."""
        return cls(config.folder, config.max_bytes, config.block_bytes, config.memory_bytes)

    def read(self, file: RangeFile, key: str, size: int, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset`` of ``file``, which has ``size`` bytes and is known as ``key``."""
        parts = []
        end = offset + length
        while offset < end:
            number, inside = divmod(offset, self.block_bytes)
            part = self._block(file, key, size, number)[inside : inside + end - offset]
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def _block(self, file: RangeFile, key: str, size: int, number: int) -> bytes:
        with self._lock:
            known = self._memory.get((key, number))
            if known is not None:
                self._memory.move_to_end((key, number))
                return known
        place = self.folder / f"{key}-{number}.block"
        first = number * self.block_bytes
        length = min(self.block_bytes, size - first)
        content = _sound(place, length)
        if content is None:
            content = file.read(first, length)
            self._store(place, content)
            self.fetched += 1
        else:
            self.hits += 1
        with self._lock:
            self._memory[(key, number)] = content
            while len(self._memory) > self._kept:
                self._memory.popitem(last=False)
        return content

    def _store(self, place: Path, content: bytes) -> None:
        whole = content + zlib.crc32(content).to_bytes(_SUM, "little")
        with disk_errors(place), self._alone():
            self._make_room(len(whole))
            temporary = place.with_suffix(f".{os.getpid()}.{threading.get_ident()}.block")
            try:
                temporary.write_bytes(whole)
                temporary.replace(place)
            finally:
                temporary.unlink(missing_ok=True)

    def _make_room(self, wanted: int) -> None:
        with os.scandir(self.folder) as entries:
            found = [(e.stat().st_mtime_ns, e.stat().st_size, e.path) for e in entries if _is_block(e)]
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total + wanted <= self.max_bytes:
                return
            Path(path).unlink(missing_ok=True)
            total -= size

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One writer at a time among threads and processes, so that the bound holds for all together."""
        with self._lock, (self.folder / ".lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def _is_block(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith(".block") and entry.is_file(follow_symlinks=False)


def _sound(place: Path, length: int) -> bytes | None:
    """The content of a block file, marked as used; None when it is missing or damaged."""
    try:
        whole = place.read_bytes()
        os.utime(place)
    except OSError:
        # Another process may have removed it between the two; it is then fetched again.
        return None
    content, check = whole[:-_SUM], whole[-_SUM:]
    sound = len(content) == length and zlib.crc32(content).to_bytes(_SUM, "little") == check
    return content if sound else None
