"""Bytes that one rank sends for context parallel, per layer and micro-batch. Pure numbers; no torch.

``rows``: of a micro-batch. ``length``: positions a row, over all ranks. ``heads`` and ``groups``: query and
key-value heads of this rank (divided by tp). ``size``: of a head. ``width``: bytes an element travels in
(2 for bf16). ``cp``: ranks of the line. Each rank receives as much as it sends.
"""

from __future__ import annotations

GRADIENT_WIDTH = 4
"""Bytes of an element of the gradients that go round a ring: they are summed in fp32."""


def ring_forward(rows: int, length: int, groups: int, size: int, width: int, cp: int) -> int:
    """Keys and values of every rank are passed on cp - 1 times, in as many messages."""
    return (cp - 1) * _keys(rows, length, groups, size, cp) * width


def ring_backward(rows: int, length: int, groups: int, size: int, width: int, cp: int) -> int:
    """Keys, values and their fp32 gradients, cp - 1 times, in twice as many messages."""
    return (cp - 1) * _keys(rows, length, groups, size, cp) * (width + GRADIENT_WIDTH)


def heads_forward(rows: int, length: int, heads: int, groups: int, size: int, width: int, cp: int) -> int:
    """Queries, keys and values of the others' heads, then outputs of their positions: two all-to-alls."""
    elements = rows * (length // cp) * (2 * heads + 2 * groups) * size
    return elements * width * (cp - 1) // cp


def heads_backward(rows: int, length: int, heads: int, groups: int, size: int, width: int, cp: int) -> int:
    """The gradients go the way back of :func:`heads_forward`."""
    return heads_forward(rows, length, heads, groups, size, width, cp)


def _keys(rows: int, length: int, groups: int, size: int, cp: int) -> int:
    """Elements of one rank's keys and values."""
    return 2 * rows * (length // cp) * groups * size
