"""A decoder's whole step, from tokens to scores, in one native call (``native/decoder.cpp``).

Dimensions: N rows of the step, M of them whose scores are wanted, E width, D head size, V vocabulary.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

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


class WholeStep:
    """A dense decoder's step from tokens to scores in one native call, with buffers that stay for the next.

    ``embedding`` [V, E] has the dtype of q, k and v; ``frequencies`` fp32 [D/2] are the angles of a position.
    """

    def __init__(self, steps: Steps, embedding: Tensor, frequencies: Tensor):
        self._steps, self._embedding, self._frequencies = steps, embedding, frequencies
        self._output, self._outputs = steps.output.struct(), steps.output.outputs
        self._call = steps.library.weft_decoder_whole
        self._call.argtypes, self._call.restype = [ctypes.c_void_p, ctypes.c_void_p], None
        self._struct = _WholeStruct(ctypes.addressof(self._output), embedding.data_ptr())
        self._ends = steps.address, ctypes.addressof(self._struct)
        self._rows, self._angles = 0, torch.empty(0, steps.heads.size)
        self._grow(1)
        self._turn(1)

    def run(
        self, tokens: Sequence[int], wanted: Sequence[int], attention: NativeAttention
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`weft.ops.cache.NativeModel.step`."""
        if len(tokens) > self._rows:
            self._grow(len(tokens))
        if attention.longest > len(self._angles):
            self._turn(attention.longest)
        ids, rows = array("q", tokens), array("i", wanted)
        scores, struct = torch.empty(len(rows), self._outputs), self._struct
        struct.tokens, struct.wanted = ids.buffer_info()[0], rows.buffer_info()[0]
        struct.rows, struct.count = len(ids), len(rows)
        struct.positions, struct.scores = attention.positions, scores.data_ptr()
        struct.attend, struct.cache, struct.step = attention.function, attention.cache, attention.step
        self._call(*self._ends)
        return self._hidden, scores

    def _grow(self, rows: int) -> None:
        """Buffers for so many rows, and some more."""
        steps, size = self._steps, self._steps.heads.size
        heads, groups, dtype = steps.heads.heads, steps.heads.groups, steps.dtype
        self._rows = rows = 1 << (rows - 1).bit_length()
        self._x, self._hidden = (torch.empty(rows, steps.width) for _ in range(2))
        self._cos, self._sin = (torch.empty(rows, size // 2) for _ in range(2))
        self.q, self._mixed = (torch.empty(rows, heads, size, dtype=dtype) for _ in range(2))
        self._k, self._v = (torch.empty(rows, groups, size, dtype=dtype) for _ in range(2))
        buffers = (self._x, self._cos, self._sin, self._hidden, self.q, self._k, self._v, self._mixed)
        for name, buffer in zip(_BUFFERS, buffers, strict=True):
            setattr(self._struct, name, buffer.data_ptr())

    def _turn(self, positions: int) -> None:
        """Angles of so many positions, and some more: cosines and sines are slow to compute."""
        # In pieces of one size, so that an angle does not depend on when it was computed.
        starts = range(len(self._angles), max(positions, 2 * len(self._angles)), _ANGLES)
        pieces = (rotation(torch.arange(first, first + _ANGLES), self._frequencies) for first in starts)
        self._angles = torch.cat([self._angles, *(torch.cat(pair, dim=-1) for pair in pieces)])
        self._struct.angles = self._angles.data_ptr()
