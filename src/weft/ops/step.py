"""A decoder's step in native code: everything between two attentions is one call (``native/decoder.cpp``).

Dimensions: M rows of the step, E width, H query heads, G key-value heads, D head size, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.core.errors import ResourceError
from weft.ops.kernels import decoder
from weft.ops.packed import MatrixStruct, Packed

_CHUNK = 192
"""Rows that go through a half layer together: their activations stay in the caches."""


class _LayerStruct(ctypes.Structure):
    _fields_ = (
        *((name, MatrixStruct) for name in ("qkv", "o", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("attention_norm", "feed_norm", "q_norm", "k_norm")),
    )


class _DecoderStruct(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_LayerStruct)),
        ("output", MatrixStruct),
        *((name, ctypes.c_void_p) for name in ("final_norm", "wide", "activations", "scales", "sums")),
        *(
            (name, ctypes.c_long)
            for name in (
                *("depth", "width", "heads", "groups", "head_size", "feed"),
                *("chunk", "wide_size", "row_bytes", "row_sums", "cache_bf16"),
            )
        ),
        ("eps", ctypes.c_float),
    )


@dataclass(frozen=True)
class PackedLayer:
    """One block: fused matrices, and norms in fp32 ([E], [E], [D], [D])."""

    qkv: Packed
    o: Packed
    gate_up: Packed
    down: Packed
    attention_norm: Tensor
    feed_norm: Tensor
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None


@dataclass(frozen=True)
class Heads:
    """H, G and D."""

    heads: int
    groups: int
    size: int


class Steps:
    """The native decoder over packed layers. One thread may use it: its buffers are its own.

    ``dtype``, bf16 or fp32, is that of q, k, v and attention's answers. Raises ResourceError without the
    native library.
    """

    def __init__(
        self,
        layers: Sequence[PackedLayer],
        final_norm: Tensor,
        output: Packed,
        heads: Heads,
        eps: float,
        dtype: torch.dtype,
    ):
        library = decoder()
        if library is None:
            raise ResourceError("The native decoder is not available here; install g++ or use plain weights.")
        self._library, self.heads, self.dtype = library, heads, dtype
        self._kept = (layers, final_norm, output)
        self.depth, self.width = len(layers), final_norm.numel()
        matrices = [m for layer in layers for m in (layer.qkv, layer.o, layer.gate_up, layer.down)] + [output]
        inputs = -(-max(m.inputs for m in matrices) // 64) * 64
        wide = max([self.width, *(m.outputs for m in matrices[:-1]), *(m.inputs for m in matrices)])
        self._buffers = (
            torch.empty(_CHUNK, wide),
            torch.empty(_CHUNK, inputs * 4, dtype=torch.uint8),
            torch.empty(_CHUNK),
            torch.empty(_CHUNK, inputs // 32, dtype=torch.int32),
        )
        self._layers = (_LayerStruct * len(layers))(*map(_layer_struct, layers))
        feed = layers[0].down.inputs
        self._struct = _DecoderStruct(
            self._layers,
            output.struct(),
            *(x.data_ptr() for x in (final_norm, *self._buffers)),
            *(self.depth, self.width, heads.heads, heads.groups, heads.size, feed),
            *(_CHUNK, wide, inputs * 4, inputs // 32, int(dtype is torch.bfloat16)),
            eps,
        )
        self._address = ctypes.addressof(self._struct)
        step, logits = library.weft_decoder_step, library.weft_decoder_logits
        step.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_long, *[ctypes.c_void_p] * 8]
        logits.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_void_p]
        step.restype = logits.restype = None
        self._step, self._logits = step, logits
        self._outputs = output.outputs

    def pass_through(self, x_ME: Tensor, cos: Tensor, sin: Tensor) -> Pass:
        """Begin a forward pass: fp32 ``x`` [M, E] (overwritten), ``cos`` and ``sin`` fp32 [M, D/2]."""
        return Pass(self, x_ME, cos, sin)

    def logits(self, hidden_ME: Tensor) -> Tensor:
        """fp32 [M, E] -> fp32 [M, V]."""
        hidden = hidden_ME.float().contiguous()
        out = torch.empty(len(hidden), self._outputs)
        self._logits(self._address, hidden.data_ptr(), len(hidden), out.data_ptr())
        return out

    def product(self, matrix: Packed, x_MK: Tensor) -> Tensor:
        """fp32 [M, K] -> fp32 [M, N] with any matrix no wider than the decoder's own; for tests and timing."""
        x = x_MK.float().contiguous()
        out, struct = torch.empty(len(x), matrix.outputs), matrix.struct()
        call = self._library.weft_packed_product
        call.argtypes = [*[ctypes.c_void_p] * 3, ctypes.c_long, ctypes.c_void_p]
        call(self._address, ctypes.addressof(struct), x.data_ptr(), len(x), out.data_ptr())
        return out


class Pass:
    """One forward pass: attention's inputs layer by layer, then the hidden states."""

    def __init__(self, steps: Steps, x_ME: Tensor, cos: Tensor, sin: Tensor):
        rows, heads = len(x_ME), steps.heads
        self._steps, self._rows = steps, rows
        self.q, self.k, self.v = (
            torch.empty(rows, count, heads.size, dtype=steps.dtype)
            for count in (heads.heads, heads.groups, heads.groups)
        )
        self._hidden = torch.empty_like(x_ME)
        # Pointers do not keep tensors alive.
        self._kept = (x_ME, cos, sin)
        self._x = x_ME.data_ptr()
        self._rest = [x.data_ptr() for x in (self.q, self.k, self.v, cos, sin, self._hidden)]
        self._part = 0
        self._run(None)

    def advance(self, mixed: Tensor) -> None:
        """From attention's answer, [M, H, D] contiguous, to the next layer's ``q``, ``k``, ``v`` (in place)."""
        self._run(mixed.data_ptr())

    def hidden(self) -> Tensor:
        """fp32 [M, E] after the final norm; once every layer has advanced."""
        assert self._part == self._steps.depth + 1
        return self._hidden

    def _run(self, mixed: int | None) -> None:
        steps = self._steps
        steps._step(steps._address, self._part, self._rows, self._x, mixed, *self._rest)
        self._part += 1


def _layer_struct(layer: PackedLayer) -> _LayerStruct:
    norms = (layer.attention_norm, layer.feed_norm, layer.q_norm, layer.k_norm)
    matrices = (layer.qkv, layer.o, layer.gate_up, layer.down)
    pointers = (None if norm is None else norm.data_ptr() for norm in norms)
    return _LayerStruct(*(m.struct() for m in matrices), *pointers)
