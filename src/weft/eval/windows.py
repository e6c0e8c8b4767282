"""Documents of any length as rows of a model's context, each target scored exactly once.

The stream of a document is ``eos t1 ... tn eos``, and every token after the first is a target, as in
:mod:`weft.data.packing`. A document of up to T targets is one window. A longer one is cut: the first
window scores T targets, each further one scores the next ``T - overlap`` and reads the ``overlap``
positions before them again, so that no target stands without context. With ``overlap`` 0 the windows
are those that training sees. Windows are packed into rows of T under document masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from weft.core.errors import UsageError
from weft.data.batch import IGNORED, Batch
from weft.data.packing import pack

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """W windows: ``document`` [W], targets [``begin``, ``end``) read, of which from ``scored`` on count."""

    document: Ints
    begin: Ints
    scored: Ints
    end: Ints


def cut(lengths: Ints, context: int, overlap: int) -> Windows:
    """The windows of documents with ``lengths`` [documents] targets each, in order.

    Raises UsageError unless ``0 <= overlap < context``.
    """
    if not 0 <= overlap < context:
        raise UsageError(f"An overlap of {overlap} is not possible with windows of {context} tokens.")
    stride = context - overlap
    counts = np.where(lengths > 0, 1 + np.maximum(0, -(-(lengths - context) // stride)), 0)
    document = np.repeat(np.arange(len(lengths)), counts)
    index = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    scored = np.where(index > 0, context + (index - 1) * stride, 0)
    end = np.minimum(context + index * stride, lengths[document])
    return Windows(document, np.where(index > 0, scored - overlap, 0), scored, end)


def batches(
    tokens: npt.NDArray[np.integer], lengths: Ints, eos_id: int, context: int, overlap: int, rows: int
) -> Iterator[tuple[Batch, Ints]]:
    """Packed batches of up to ``rows`` rows, and the document [targets] of each target that counts.

    ``tokens`` holds all documents one after another, each with its end of text, of ``lengths``. Targets
    that are only read again as context are IGNORED; documents follow the targets in row-major order.
    """
    windows = cut(lengths, context, overlap)
    plan = pack(windows.end - windows.begin, context)
    starts = np.cumsum(lengths) - lengths
    for first in range(0, plan.rows, rows):
        last = min(first + rows, plan.rows)
        shape = (last - first, context)
        inputs = np.full(shape, eos_id, np.int64)
        targets = np.full(shape, IGNORED, np.int64)
        document_start = np.tile(np.arange(context, dtype=np.int32), (len(inputs), 1))
        owners: list[Ints] = []
        for row in range(first, last):
            at = 0
            for window in plan.document[plan.row[row] : plan.row[row + 1]].tolist():
                document, begin = windows.document[window], windows.begin[window]
                scored, end = windows.scored[window], windows.end[window]
                base, length = starts[document], int(end - begin)
                place = (row - first, slice(at, at + length))
                inputs[place] = (
                    tokens[base + begin - 1 : base + end - 1]
                    if begin
                    else np.concatenate([[eos_id], tokens[base : base + end - 1]])
                )
                targets[row - first, at + scored - begin : at + length] = tokens[base + scored : base + end]
                document_start[place] = at
                owners.append(np.full(end - scored, document))
                at += length
        yield Batch(inputs, targets, document_start), np.concatenate(owners)
