"""Attention of one step over pages of keys and values: a plain reference, a native path, and one for GPUs.

Dimensions: N rows of the step, I items (a stretch of rows of one sequence), W entries of a block table, B
blocks of :data:`PAGE` positions, H query heads, G key-value heads (H a multiple of G), D head size, P = D
rounded up to 16, L positions of a sequence.

The native and the plain path are invariant: a row's result is the same to the last bit whatever else is in
the step and however a prompt is cut into chunks (docs/decisions/engine.md).
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.core.errors import ResourceError
from weft.ops.kernels import serving, suffix

PAGE = 16
"""Positions of a block; the native kernel takes a block as one vector of fp32 scores."""

_MAP_NORESERVE = 0x4000
"""Linux's flag, which Python's module names only from 3.13 on."""


class _Cache(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("keys", "values", "key_scales", "value_scales")),
        *((name, ctypes.c_long) for name in ("H", "G", "D", "window")),
        ("scale", ctypes.c_float),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("items", "width", "rows")),
        *((name, ctypes.c_void_p) for name in ("first_row", "count", "past", "tables", "places")),
    )


@dataclass(frozen=True)
class Item:
    """``count`` rows of the step from ``first`` on: a sequence's positions ``past``, ``past + 1``, and so on.

    ``blocks`` hold its positions from 0 to at least ``past + count``.
    """

    first: int
    count: int
    past: int
    blocks: Sequence[int]


class Layout:
    """The rows of one step: whose they are and where their keys and values go."""

    def __init__(self, items: Sequence[Item], device: torch.device):
        self.items = items
        width = max(len(item.blocks) for item in items)
        tables = [[*item.blocks, *[0] * (width - len(item.blocks))] for item in items]
        spans = [(item.blocks, range(item.past, item.past + item.count)) for item in items]
        places = [blocks[p // PAGE] * PAGE + p % PAGE for blocks, span in spans for p in span]
        self.tables_IW = torch.tensor(tables, dtype=torch.int32)
        self.places_N = torch.tensor(places, dtype=torch.int64)
        self.positions_N = torch.tensor([p for _, span in spans for p in span], device=device)
        self._numbers = torch.tensor(
            [[i.first for i in items], [i.count for i in items], [i.past for i in items]], dtype=torch.int32
        )
        first, count, past = (self._numbers[i].data_ptr() for i in range(3))
        addresses = (first, count, past, self.tables_IW.data_ptr(), self.places_N.data_ptr())
        self.native = _Step(len(items), width, len(places), *addresses)


class Pages:
    """Keys [B, G, D, 16] and values [B, G, 16, P] of every layer.

    ``dtype`` is that of the model, or int8 with one fp32 scale for each key and value vector, [B, G, 16].
    Memory is taken as blocks are first written. Raises ResourceError when the address space ends.
    """

    def __init__(
        self,
        layers: int,
        blocks: int,
        heads: tuple[int, int],
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        window: int | None = None,
    ):
        self.H, self.G = heads
        self.D, self.window, self.dtype, self.device = head_dim, window, dtype, device
        self.padded = -(-head_dim // 16) * 16
        key, value, scale = (
            (blocks, self.G, head_dim, PAGE),
            (blocks, self.G, PAGE, self.padded),
            (blocks, self.G, PAGE),
        )
        try:
            self.keys = [_zeros(key, dtype, device) for _ in range(layers)]
            self.values = [_zeros(value, dtype, device) for _ in range(layers)]
            scaled = layers if dtype == torch.int8 else 0
            self.key_scales = [_zeros(scale, torch.float32, device) for _ in range(scaled)]
            self.value_scales = [_zeros(scale, torch.float32, device) for _ in range(scaled)]
        except (RuntimeError, MemoryError, OSError) as error:
            raise ResourceError(
                f"There is no memory for a cache of {blocks} blocks of {PAGE} tokens; give it less."
            ) from error
        groups = (self.keys, self.values, self.key_scales, self.value_scales)
        self._pointers = [_pointers(tensors) for tensors in groups]
        numbers = (self.H, self.G, self.D, window or 0, self.D**-0.5)
        self._native = _Cache(*(ctypes.addressof(p) if p else None for p in self._pointers), *numbers)

    @staticmethod
    def block_bytes(layers: int, groups: int, head_dim: int, dtype: torch.dtype) -> int:
        """Bytes of one block in all layers."""
        position = (head_dim + -(-head_dim // 16) * 16) * dtype.itemsize + (8 if dtype == torch.int8 else 0)
        return layers * groups * PAGE * position

    def attend(self, layer: int, layout: Layout, q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor) -> Tensor:
        """[N, H, D] by the best path there is; stores the new keys and values first."""
        kernel = _kernel(q_NHD, self.dtype)
        if kernel is None:
            self.store(layer, layout, k_NGD, v_NGD)
            path = attend_plain if self.device.type == "cpu" else attend_gathered
            return path(self, layer, layout, q_NHD)
        q, k, v = q_NHD.contiguous(), k_NGD.contiguous(), v_NGD.contiguous()
        out = torch.empty_like(q)
        pointers = (ctypes.c_void_p(x.data_ptr()) for x in (q, k, v, out))
        kernel(ctypes.byref(self._native), ctypes.byref(layout.native), layer, *pointers)
        return out

    def store(self, layer: int, layout: Layout, k_NGD: Tensor, v_NGD: Tensor) -> None:
        """The plain twin of the native kernel's first half."""
        block, place = (x.to(self.device) for x in (layout.places_N // PAGE, layout.places_N % PAGE))
        if self.dtype == torch.int8:
            k_NGD, self.key_scales[layer][block, :, place] = quantise(k_NGD)
            v_NGD, self.value_scales[layer][block, :, place] = quantise(v_NGD)
        self.keys[layer][block, :, :, place] = k_NGD
        self.values[layer][block, :, place] = F.pad(v_NGD, (0, self.padded - self.D))

    def gather(self, layer: int, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of ``blocks`` [W], each [W * 16, G, D], fp32 if they are int8."""
        keys, values = self.keys[layer][blocks], self.values[layer][blocks][..., : self.D]
        if self.dtype == torch.int8:
            keys = keys * self.key_scales[layer][blocks].unsqueeze(-2)
            values = values * self.value_scales[layer][blocks].unsqueeze(-1)
        keys, values = keys.permute(0, 3, 1, 2), values.permute(0, 2, 1, 3)
        return keys.flatten(0, 1), values.flatten(0, 1)


def quantise(x_NGD: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [N, G, D] and fp32 scales [N, G]: symmetric, one scale a vector."""
    top = x_NGD.float().abs().amax(-1)
    inverse = torch.where(top > 0, 127.0 / top, 0.0)
    return (x_NGD.float() * inverse.unsqueeze(-1)).round().to(torch.int8), top / 127.0


def attend_plain(pages: Pages, layer: int, layout: Layout, q_NHD: Tensor) -> Tensor:
    """Reference: softmax(q k^T / sqrt(D)) v of one row after the other, in fp32, over what the row sees.

    Reductions run over the row's own keys alone, so it is invariant too.
    """
    out = torch.empty_like(q_NHD)
    for item in layout.items:
        keys, values = pages.gather(layer, torch.tensor(item.blocks, device=pages.device))
        keys, values = (x.float().repeat_interleave(pages.H // pages.G, dim=1) for x in (keys, values))
        for row, position in enumerate(range(item.past, item.past + item.count), item.first):
            first = 0 if pages.window is None else max(0, position - pages.window + 1)
            k_LHD, v_LHD = (x[first : position + 1] for x in (keys, values))
            scores_LH = (q_NHD[row].float() * k_LHD).sum(-1) * pages.D**-0.5
            out[row] = (scores_LH.softmax(0).unsqueeze(-1) * v_LHD).sum(0)
    return out


def attend_gathered(pages: Pages, layer: int, layout: Layout, q_NHD: Tensor) -> Tensor:
    """PyTorch's attention over keys copied out of their blocks, one item after the other; for GPUs."""
    out = torch.empty_like(q_NHD)
    for item in layout.items:
        rows, end = slice(item.first, item.first + item.count), item.past + item.count
        keys, values = pages.gather(layer, torch.tensor(item.blocks, device=pages.device))
        k, v = (x[:end].to(q_NHD.dtype).transpose(0, 1).unsqueeze(0) for x in (keys, values))
        query = torch.arange(item.past, end, device=pages.device).unsqueeze(-1)
        key = torch.arange(end, device=pages.device)
        mask = key <= query
        if pages.window is not None:
            mask &= key > query - pages.window
        q = q_NHD[rows].transpose(0, 1).unsqueeze(0)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=pages.H != pages.G)
        out[rows] = mixed[0].transpose(0, 1)
    return out


def _kernel(q: Tensor, dtype: torch.dtype) -> Any:
    name = suffix(q)
    library = serving("paged") if name else None
    if library is None or dtype not in (q.dtype, torch.int8):
        return None
    return getattr(library, f"weft_paged_{name}_int8" if dtype == torch.int8 else f"weft_paged_{name}")


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # Fresh anonymous pages are zeros that take no memory until they are written.
    size = int(torch.Size(shape).numel()) * dtype.itemsize
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def _pointers(tensors: list[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(x.data_ptr() for x in tensors)) if tensors else None
