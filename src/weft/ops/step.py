"""A decoder's step in native code (``native/decoder.cpp``): everything between two attentions is one call.

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

_LANES = 16
_CHUNK = 256
"""Rows that go through a half layer together, in blocks of 32: their activations stay in the caches."""


class _LayerStruct(ctypes.Structure):
    _fields_ = (
        *((name, MatrixStruct) for name in ("qkv", "o", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("attention_norm", "feed_norm", "q_norm", "k_norm")),
    )


class _DecoderStruct(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_LayerStruct)),
        *((name, ctypes.c_void_p) for name in ("final_norm", "wide", "activations", "scales", "sums")),
        *(
            (name, ctypes.c_long)
            for name in (
                *("depth", "width", "heads", "groups", "head_size"),
                *("chunk", "wide_size", "row_bytes", "row_sums", "cache_bf16"),
            )
        ),
        ("eps", ctypes.c_float),
    )


@dataclass(frozen=True)
class PackedFeed:
    """SwiGLU's matrices [2F, E], with the rows of :func:`gates_and_values`, and [E, F]."""

    gate_up: Packed
    down: Packed


def gates_and_values(gate_FE: Tensor, up_FE: Tensor) -> list[Tensor]:
    """SwiGLU's two matrices one below the other, as native code wants them.

    Where F allows it, 16 rows of each in turn: then a panel has the gates of its values, and its product
    makes outputs of them before they leave the registers.
    """
    if len(gate_FE) % _LANES:
        return [gate_FE, up_FE]
    pairs = zip(torch.split(gate_FE, _LANES), torch.split(up_FE, _LANES), strict=True)
    return [part for pair in pairs for part in pair]


@dataclass(frozen=True)
class PackedExperts:
    """Qwen3-MoE's feed-forward: fp32 router [X, E]; each token goes to ``chosen`` of X experts."""

    router: Packed
    experts: tuple[PackedFeed, ...]
    chosen: int
    normalised: bool


@dataclass(frozen=True)
class PackedLayer:
    """One block: fused matrices, norms in fp32 ([E], [E], [D], [D]), and a dense or sparse feed-forward."""

    qkv: Packed
    o: Packed
    feed: PackedFeed | PackedExperts
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
        self.library, self.heads, self.dtype = library, heads, dtype
        self.layers, self.output, self._final_norm, self._eps = tuple(layers), output, final_norm, eps
        self.depth, self.width = len(layers), final_norm.numel()
        matrices = [m for layer in layers for m in _matrices(layer)] + [output]
        inputs = -(-max(m.inputs for m in matrices) // 64) * 64
        wide = max([self.width, *(m.outputs for m in matrices[:-1]), *(m.inputs for m in matrices)])
        # Rows an odd number of lines apart: a column of all rows would else share a few places of the cache.
        wide, row_bytes = -(-wide // 16) * 16 | 16, inputs * 4 + 64
        self._buffers = (
            torch.empty(_CHUNK, wide),
            torch.empty(_CHUNK, row_bytes, dtype=torch.uint8),
            torch.empty(_CHUNK),
            torch.empty(_CHUNK, inputs // 32, dtype=torch.int32),
        )
        self._structs = (_LayerStruct * len(layers))(*map(_layer_struct, layers))
        self._struct = _DecoderStruct(
            self._structs,
            *(x.data_ptr() for x in (final_norm, *self._buffers)),
            *(self.depth, self.width, heads.heads, heads.groups, heads.size),
            *(_CHUNK, wide, row_bytes, inputs // 32, int(dtype is torch.bfloat16)),
            eps,
        )
        self.address = ctypes.addressof(self._struct)
        pointer, number = ctypes.c_void_p, ctypes.c_long
        self._step = library.weft_decoder_step
        self._step.argtypes = [pointer, number, number, number, *[pointer] * 8]
        self._product = library.weft_decoder_product
        self._product.argtypes = [pointer, pointer, pointer, number, pointer]
        self._feed = library.weft_decoder_feed
        self._feed.argtypes = [pointer, pointer, pointer, pointer, number, pointer]
        self._step.restype = self._product.restype = self._feed.restype = None

    def shortened(self, layers: int) -> Steps:
        """The first ``layers``, then the final norm and the output, with buffers of their own."""
        return Steps(self.layers[:layers], self._final_norm, self.output, self.heads, self._eps, self.dtype)

    def pass_through(self, x_ME: Tensor, cos: Tensor, sin: Tensor) -> Pass:
        """Prepare a forward pass: fp32 ``x`` [M, E] (overwritten), ``cos`` and ``sin`` fp32 [M, D/2]."""
        return Pass(self, x_ME, cos, sin)

    def product(self, matrix: Packed, x_MK: Tensor) -> Tensor:
        """fp32 [M, K] -> fp32 [M, N] with one of the decoder's matrices, or one no wider than those."""
        x = x_MK.float().contiguous()
        out, struct = torch.empty(len(x), matrix.outputs), matrix.struct()
        self._product(self.address, ctypes.addressof(struct), x.data_ptr(), len(x), out.data_ptr())
        return out

    def feed(self, feed: PackedFeed, x_ME: Tensor) -> Tensor:
        """fp32 [M, E] -> fp32 [M, E]: down(silu(gate(x)) * up(x))."""
        x = x_ME.contiguous()
        out, gate_up, down = torch.empty_like(x), feed.gate_up.struct(), feed.down.struct()
        places = (ctypes.addressof(gate_up), ctypes.addressof(down), x.data_ptr())
        self._feed(self.address, *places, len(x), out.data_ptr())
        return out

    def experts(self, sparse: PackedExperts, x_ME: Tensor) -> Tensor:
        """fp32 [M, E] -> fp32 [M, E]: for each row the weighted sum over its experts, best first."""
        scores_MX = self.product(sparse.router, x_ME).softmax(-1)
        share_MK, index_MK = scores_MX.topk(sparse.chosen, dim=-1)
        if sparse.normalised:
            share_MK = share_MK / share_MK.sum(-1, keepdim=True)
        rows_MKE = x_ME.new_empty(*index_MK.shape, x_ME.shape[-1])
        for expert in sorted(set(index_MK.flatten().tolist())):
            row, place = (index_MK == expert).nonzero(as_tuple=True)
            rows_MKE[row, place] = self.feed(sparse.experts[expert], x_ME[row])
        out = torch.zeros_like(x_ME)
        for place in range(sparse.chosen):
            out = out + share_MK[:, place, None] * rows_MKE[:, place]
        return out


class Pass:
    """One forward pass: :meth:`begin`, attention's inputs layer by layer, then the hidden states."""

    def __init__(self, steps: Steps, x_ME: Tensor, cos: Tensor, sin: Tensor):
        rows, heads = len(x_ME), steps.heads
        self._steps, self._rows = steps, rows
        self.q, self.k, self.v = (
            torch.empty(rows, count, heads.size, dtype=steps.dtype)
            for count in (heads.heads, heads.groups, heads.groups)
        )
        self._hidden = torch.empty_like(x_ME)
        self._x, self._angles = x_ME, (cos, sin)  # pointers alone would not keep them alive
        tensors = (self.q, self.k, self.v, cos, sin, self._hidden)
        self._rest = [x.data_ptr() for x in tensors]
        self._next = 0

    def begin(self) -> None:
        """Fill ``q``, ``k`` and ``v`` for the first layer."""
        self._run(-1, 0, None)

    def advance(self, mixed: Tensor) -> None:
        """From attention's answer, contiguous [M, H, D], to the next ``q``, ``k`` and ``v``, in place."""
        layer, self._next = self._next, self._next + 1
        feed = self._steps.layers[layer].feed
        if isinstance(feed, PackedFeed):
            self._run(layer, layer + 1, mixed.data_ptr())
            return
        self._run(layer, -1, mixed.data_ptr())
        self._x += self._steps.experts(feed, self._hidden)
        self._run(-1, layer + 1, None)

    def hidden(self) -> Tensor:
        """fp32 [M, E] after the final norm; once every layer has advanced."""
        assert self._next == self._steps.depth
        return self._hidden

    def _run(self, done: int, following: int, mixed: int | None) -> None:
        steps = self._steps
        x = self._x.data_ptr()
        steps._step(steps.address, done, following, self._rows, x, mixed, *self._rest)


def _matrices(layer: PackedLayer) -> list[Packed]:
    feeds = (layer.feed,) if isinstance(layer.feed, PackedFeed) else layer.feed.experts
    return [layer.qkv, layer.o, *(matrix for feed in feeds for matrix in (feed.gate_up, feed.down))]


def _layer_struct(layer: PackedLayer) -> _LayerStruct:
    norms = (layer.attention_norm, layer.feed_norm, layer.q_norm, layer.k_norm)
    feed = layer.feed
    dense = (
        (feed.gate_up.struct(), feed.down.struct()) if isinstance(feed, PackedFeed) else (MatrixStruct(),) * 2
    )
    pointers = (None if norm is None else norm.data_ptr() for norm in norms)
    return _LayerStruct(layer.qkv.struct(), layer.o.struct(), *dense, *pointers)
