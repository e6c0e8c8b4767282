"""The next batches, prepared by a thread while the trainer works."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

from weft.data.loader import shared_rows

B = TypeVar("B", covariant=True)


class Reads(Protocol[B]):
    """What can be read ahead: batches of any kind by the global numbers of their rows."""

    batch_rows: int

    def gather(self, samples: range) -> B:
        """The rows with these global sample numbers."""
        ...


class Ahead(Generic[B]):
    """A loader that foresees what is gathered next: micro-batches of ``micro_rows`` in line.

    Process ``rank`` of ``ranks`` that share each batch. At most ``depth`` batches lie ready, which is what
    it adds to memory. What was not foreseen is gathered at once; what comes out is the same either way.
    """

    def __init__(
        self, loader: Reads[B], micro_rows: int | None = None, depth: int = 2, rank: int = 0, ranks: int = 1
    ) -> None:
        self.loader, self.batch_rows = loader, loader.batch_rows
        self._micro = micro_rows or loader.batch_rows
        self._depth, self._rank, self._ranks = depth, rank, ranks
        self._ready: OrderedDict[range, Future[B]] = OrderedDict()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="weft-ahead")

    def micro_batches(self, step: int) -> list[range]:
        """The rows of each of this process's micro-batches of batch ``step``."""
        rows = shared_rows(self.batch_rows, step, self._rank, self._ranks)
        return [
            range(first, min(first + self._micro, rows.stop))
            for first in range(rows.start, rows.stop, self._micro)
        ]

    def gather(self, samples: range) -> B:
        """The rows with these global sample numbers; errors of the thread come out here."""
        known = self._ready.pop(samples, None)
        if known is None:
            self._forget()
        upcoming = samples
        for _ in range(self._depth):
            upcoming = self._after(upcoming)
            if upcoming not in self._ready:
                self._ready[upcoming] = self._pool.submit(self.loader.gather, upcoming)
        return self.loader.gather(samples) if known is None else known.result()

    def close(self) -> None:
        """Stop the thread; batches that lie ready are lost."""
        self._forget()
        self._pool.shutdown(wait=True)

    def _after(self, samples: range) -> range:
        step = (samples.stop - 1) // self.batch_rows
        later = [rows for rows in self.micro_batches(step) if rows.start >= samples.stop]
        return later[0] if later else self.micro_batches(step + 1)[0]

    def _forget(self) -> None:
        for future in self._ready.values():
            future.cancel()
        self._ready.clear()
