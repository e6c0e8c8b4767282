"""The allocator keeps its memory: glibc gives large blocks back to the system and faults them in again."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def keep_memory() -> bool:
    """Raise glibc's mmap and trim thresholds in this process; False where there is no glibc.

    Training allocates the same large activations each step. By default each becomes an mmap of fresh
    zero pages, and the page faults cost more than the arithmetic on small machines.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    gibibyte = 1 << 30
    done = [mallopt(_MMAP_THRESHOLD, gibibyte), mallopt(_TRIM_THRESHOLD, 2 * gibibyte - 1)]
    return all(done) and bool(mallopt(_TOP_PAD, 64 << 20))
