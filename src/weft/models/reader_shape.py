"""The sizes of a recurrent reader (:mod:`weft.models.reader`).

Dimensions: E model width, X width of a token's vectors.
"""

from __future__ import annotations

LONGEST = 4
"""Tokens of the longest repeated n-gram that a token of a text is told of."""

REACHES = (4, 12, 36)
"""Tokens to each side in which a token of a text is told how much of the question stands there."""


def inputs(read: int, width: int) -> tuple[int, int]:
    """Numbers that the lower and the upper recurrent layers read of a token, from X = ``read`` and E."""
    return 2 * read + LONGEST, 3 * width + len(REACHES)


def matrices(read: int, width: int, gates: int, num_layers: int) -> int:
    """Parameters of all matrices below the classifier, but for the embeddings."""
    cells = sum(gates * width * (first + width // 2) for first in inputs(read, width))
    cells += 2 * (num_layers - 1) * gates * width * (width + width // 2)
    return cells + read * width + 3 * width * width + width


def biases(width: int, gates: int, num_layers: int) -> int:
    """Parameters that stand beside those of :func:`matrices`; cells have two vectors of them."""
    return 2 * num_layers * 2 * gates * width + 4 * width + 1
