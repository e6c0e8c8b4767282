"""Every target once, with the context that the cutting promises."""

from __future__ import annotations

import numpy as np
import pytest

from weft.core.errors import UsageError
from weft.data.batch import IGNORED
from weft.eval.windows import batches, cut

EOS = 0


def stream(lengths: list[int]) -> np.ndarray:
    """Tokens that are all different, but for the end of text of each document."""
    tokens = np.arange(1, sum(lengths) + 1)
    tokens[np.cumsum(lengths) - 1] = EOS
    return tokens


@pytest.mark.parametrize("overlap", [0, 1, 4, 7])
def test_each_target_counts_once_and_sees_enough(overlap: int) -> None:
    lengths = np.array([1, 3, 8, 9, 30, 17, 2, 64])
    windows = cut(lengths, 8, overlap)
    assert ((windows.end - windows.begin) <= 8).all()
    for document, length in enumerate(lengths):
        own = windows.document == document
        scored = np.concatenate(
            [np.arange(a, b) for a, b in zip(windows.scored[own], windows.end[own], strict=True)]
        )
        assert scored.tolist() == list(range(length))
        assert (windows.scored[own] - windows.begin[own]).tolist() == [0] + [overlap] * (own.sum() - 1)


def test_rows_hold_the_stream_of_each_document() -> None:
    lengths = np.array([5, 21, 2, 8])
    tokens = stream(lengths.tolist())
    starts = np.cumsum(lengths) - lengths
    seen: list[tuple[int, int]] = []
    for batch, owners in batches(tokens, lengths, EOS, context=8, overlap=3, rows=2):
        kept = batch.targets != IGNORED
        assert len(owners) == kept.sum()
        for row, place in zip(*np.nonzero(kept), strict=True):
            before, target = batch.tokens[row, place], batch.targets[row, place]
            assert EOS in (before, target) or before + 1 == target
            assert (before == EOS) == (target in tokens[starts] and place == batch.document_start[row, place])
        seen += list(zip(owners.tolist(), batch.targets[kept].tolist(), strict=True))
    expected = [(d, t) for d, n in enumerate(lengths) for t in tokens[starts[d] : starts[d] + n].tolist()]
    assert sorted(seen) == sorted(expected)


def test_bad_overlap() -> None:
    for overlap in (-1, 8):
        with pytest.raises(UsageError, match="overlap"):
            cut(np.array([3]), 8, overlap)
