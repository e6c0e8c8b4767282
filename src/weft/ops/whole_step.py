"""A decoder's whole step, from tokens to scores, in one native call (``native/decoder.cpp``).

Dimensions: N rows of the step, M of them whose scores are wanted, E width, D head size, V vocabulary.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from weft.core.errors import UsageError
from weft.ops.cache import NativeAttention
from weft.ops.rope import rotation
from weft.ops.step import Steps

_ANGLES = 4096
"""Positions whose angles are computed together."""
_BUFFERS = ("x", "cos", "sin", "hidden", "q", "k", "v", "mixed")


class _WholeStruct(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("output", "embedding", "angles")),
        *((name, ctypes.c_void_p) for name in ("tokens", "positions", "wanted", *_BUFFERS, "scores")),
        *((name, ctypes.c_long) for name in ("rows", "count")),
        *((name, ctypes.c_void_p) for name in ("attend", "cache", "step")),
    )


class _Room(NamedTuple):
    """Buffers for so many rows, and the description that names them to the kernel."""

    rows: int
    hidden: Tensor
    q: Tensor
    struct: _WholeStruct
    address: int
    kept: tuple[Tensor, ...]


class WholeStep:
    """A dense decoder's step from tokens to scores in one native call, with buffers that stay for the next.

    ``embedding`` [V, E] has the dtype of q, k and v; ``frequencies`` fp32 [D/2] are the angles of a position.
    """

    def __init__(self, steps: Steps, embedding: Tensor, frequencies: Tensor):
        self._steps, self._embedding, self._frequencies = steps, embedding, frequencies
        self._output, self._outputs = steps.output.struct(), steps.output.outputs
        self._call = steps.library.weft_decoder_whole
        self._call.argtypes, self._call.restype = [ctypes.c_void_p, ctypes.c_void_p], None
        self._angles = torch.empty(0, steps.heads.size)
        self._room = self._made(1)
        self._turn(1)

    @property
    def q(self) -> Tensor:
        """Queries as the next step's attention gets them, [N, H, D]."""
        return self._room.q

    def run(
        self, tokens: Sequence[int], wanted: Sequence[int], attention: NativeAttention
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`weft.ops.cache.NativeModel.step`."""
        if len(tokens) > self._room.rows:
            self._room = self._made(len(tokens))
        if attention.longest > len(self._angles):
            self._turn(attention.longest)
        if max(tokens) >= len(self._embedding):
            raise UsageError(
                f"Token {max(tokens)} is none of the {len(self._embedding)} that the model knows."
            )
        room = self._room
        ids, rows = array("q", tokens), array("i", wanted)
        scores, struct = torch.empty(len(rows), self._outputs), room.struct
        struct.tokens, struct.wanted = ids.buffer_info()[0], rows.buffer_info()[0]
        struct.rows, struct.count = len(ids), len(rows)
        struct.positions, struct.scores = attention.positions, scores.data_ptr()
        struct.attend, struct.cache, struct.step = attention.function, attention.cache, attention.step
        struct.angles = self._angles.data_ptr()
        self._call(self._steps.address, room.address)
        return room.hidden, scores

    def _made(self, rows: int) -> _Room:
        """Room for so many rows, and some more.

        Made anew as a whole: when memory ends, or somebody interrupts, half way, the old one is still right.
        """
        steps, size = self._steps, self._steps.heads.size
        heads, groups, dtype = steps.heads.heads, steps.heads.groups, steps.dtype
        rows = 1 << (rows - 1).bit_length()
        x, hidden = (torch.empty(rows, steps.width) for _ in range(2))
        cos, sin = (torch.empty(rows, size // 2) for _ in range(2))
        q, mixed = (torch.empty(rows, heads, size, dtype=dtype) for _ in range(2))
        k, v = (torch.empty(rows, groups, size, dtype=dtype) for _ in range(2))
        struct = _WholeStruct(ctypes.addressof(self._output), self._embedding.data_ptr())
        buffers = (x, cos, sin, hidden, q, k, v, mixed)
        for name, buffer in zip(_BUFFERS, buffers, strict=True):
            setattr(struct, name, buffer.data_ptr())
        return _Room(rows, hidden, q, struct, ctypes.addressof(struct), buffers)

    def _turn(self, positions: int) -> None:
        """Angles of so many positions, and some more: cosines and sines are slow to compute."""
        # In pieces of one size, so that an angle does not depend on when it was computed.
        starts = range(len(self._angles), max(positions, 2 * len(self._angles)), _ANGLES)
        pieces = (rotation(torch.arange(first, first + _ANGLES), self._frequencies) for first in starts)
        self._angles = torch.cat([self._angles, *(torch.cat(pair, dim=-1) for pair in pieces)])
