"""The batch: what the loader gives and every objective reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IGNORED = -100
"""Target value of a position that carries no loss (padding)."""


@dataclass(frozen=True)
class Batch:
    """Packed rows. B = rows, T = positions a row.

    ``tokens`` int64 [B, T]: inputs. ``targets`` int64 [B, T]: the next token of the same document, or
    IGNORED. ``document_start`` int32 [B, T]: the index in the row where the document of each position
    begins; position i may attend to j only when ``document_start[i] <= j <= i``. Padding positions form
    documents of one token each.
    """

    tokens: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    document_start: npt.NDArray[np.int32]

    @property
    def target_count(self) -> int:
        """Positions that carry loss."""
        return int((self.targets != IGNORED).sum())

    def part(self, rank: int, ranks: int) -> Batch:
        """The rows of process ``rank`` of ``ranks``, equally many for each.

        Where they do not come out even, the last ones get row 0 again, without targets.
        """
        index, beyond = _part(len(self.tokens), rank, ranks)
        targets = self.targets[index]
        targets[beyond] = IGNORED
        return Batch(self.tokens[index], targets, self.document_start[index])


@dataclass(frozen=True)
class PairBatch:
    """Rows for a model with an encoder and a decoder. B = rows, S = source positions, T = target positions.

    ``source`` int64 [B, S]: tokens the encoder reads. ``source_pair`` int32 [B, S]: the number of the pair
    within its row, -1 on padding; encoder position i sees j when their numbers are equal. ``tokens``,
    ``targets`` and ``document_start`` [B, T]: the decoder's, as in :class:`Batch`. ``target_pair`` int32
    [B, T]: the pair of each decoder position, -1 on padding, whose source it sees.
    """

    source: npt.NDArray[np.int64]
    source_pair: npt.NDArray[np.int32]
    tokens: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    document_start: npt.NDArray[np.int32]
    target_pair: npt.NDArray[np.int32]

    @property
    def target_count(self) -> int:
        """Positions that carry loss."""
        return int((self.targets != IGNORED).sum())

    def part(self, rank: int, ranks: int) -> PairBatch:
        """The rows of process ``rank`` of ``ranks``, as :meth:`Batch.part`."""
        index, beyond = _part(len(self.tokens), rank, ranks)
        targets = self.targets[index]
        targets[beyond] = IGNORED
        return PairBatch(
            self.source[index],
            self.source_pair[index],
            self.tokens[index],
            targets,
            self.document_start[index],
            self.target_pair[index],
        )


def _part(rows: int, rank: int, ranks: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """(the rows, which of them are there only to make all parts equally long)."""
    each = -(-rows // ranks)
    index = np.arange(rank * each, (rank + 1) * each)
    beyond = index >= rows
    index[beyond] = 0
    return index, beyond
