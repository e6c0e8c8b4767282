"""What a general compressor needs for the test text when it has read the training text.

``bits(test | train)`` is ``size(train + test) - size(train)`` of raw LZMA2, with a dictionary that holds
everything, so the compressor can copy from anywhere before. Documents follow each other without a
separator (the compressor does not pay for their ends; the language models do).

Compressing twice is not needed: a child process compresses the training text once, and after each
test document it forks; the fork only flushes, which tells the size up to there, and the encoder's
state in the child goes on. So one pass on one core gives the exact size after every document, and
their differences are the bits of each document given the training text and the test documents before
it. The preset is 9 with the extreme flag, the strongest there is, with literal contexts for text
(lc=4, pb=0).
"""

from __future__ import annotations

import json
import lzma
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError, ResourceError
from weft.core.files import disk_errors

PRESET = 9 | lzma.PRESET_EXTREME
LARGEST_DICTIONARY = 1536 * 2**20
"""What LZMA2 allows, in bytes."""

_HEADER = struct.Struct("<QQ")
_CHUNK = 2**20


class LzmaBits:
    """The computation under way in a process of its own; leaving the ``with`` block early ends it.

    It takes one core (about a second a megabyte) and about 12 times the text in memory.
    """

    def __init__(self, train: Sequence[bytes], test: Sequence[bytes]) -> None:
        """Start it. Raises DataError when the text is larger than LZMA2's dictionary."""
        self._total = sum(map(len, train)) + sum(map(len, test))
        if self._total > LARGEST_DICTIONARY:
            raise DataError(
                f"{self._total / 1e9:.1f} GB of text do not fit the dictionary of LZMA "
                f"({LARGEST_DICTIONARY / 1e9:.1f} GB); give less training text to this baseline."
            )
        # A file, not a pipe: nobody has to stand by and feed it.
        with tempfile.TemporaryFile() as source, disk_errors(Path(tempfile.gettempdir())):
            source.write(_HEADER.pack(sum(map(len, train)), len(test)))
            source.write(struct.pack(f"<{len(test)}Q", *map(len, test)))
            source.writelines((*train, *test))
            source.seek(0)
            command = [sys.executable, "-m", "weft.eval.baselines.lzma_"]
            self._process = subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE)

    def result(self) -> npt.NDArray[np.float64]:
        """float64 [test documents]: bits of each after all of ``train`` and the test documents before it.

        Waits for the end. Raises ResourceError when the process failed.
        """
        answer, _ = self._process.communicate()
        if self._process.returncode or not answer:
            raise ResourceError(
                f"The LZMA baseline's process ended with code {self._process.returncode}; it needs about "
                f"{12 * self._total / 1e6:.0f} MB of memory: free some or give it less training text."
            )
        sizes: list[int] = json.loads(answer)
        return 8.0 * np.diff(np.array(sizes, dtype=np.float64))

    def __enter__(self) -> LzmaBits:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.__exit__(kind, error, trace)


def _serve(source: BinaryIO) -> list[int]:
    """Compressed sizes in bytes after the training text and after each test document read from ``source``."""
    train_bytes, count = _HEADER.unpack(source.read(_HEADER.size))
    lengths = struct.unpack(f"<{count}Q", source.read(8 * count))
    total = train_bytes + sum(lengths)
    options = {
        "id": lzma.FILTER_LZMA2,
        "preset": PRESET,
        "dict_size": min(max(total, 4096), LARGEST_DICTIONARY),
        "lc": 4,
        "lp": 0,
        "pb": 0,
    }
    encoder = lzma.LZMACompressor(format=lzma.FORMAT_RAW, filters=[options])
    written, sizes = 0, []
    for length in (train_bytes, *lengths):
        left = length
        while left:
            chunk = source.read(min(left, _CHUNK))
            if not chunk:
                raise EOFError("the text ended early")
            written += len(encoder.compress(chunk))
            left -= len(chunk)
        sizes.append(written + _flushed_size(encoder))
    return sizes


def _flushed_size(encoder: lzma.LZMACompressor) -> int:
    """Bytes that ``encoder`` still holds; it is flushed in a fork, so here it can go on."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, struct.pack("<Q", len(encoder.flush())))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        content = answer.read()
    os.waitpid(child, 0)
    if not content:
        raise MemoryError("the fork could not flush the encoder")
    size: int = struct.unpack("<Q", content)[0]
    return size


if __name__ == "__main__":
    try:
        print(json.dumps(_serve(sys.stdin.buffer)))
    except KeyboardInterrupt:
        sys.exit(130)
