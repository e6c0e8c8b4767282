"""Attention of one step over pages of keys and values: a plain reference, a native path, and one for GPUs.

Dimensions: N rows of the step, I items (a stretch of rows of one sequence), W entries of a block table, B
blocks of :data:`PAGE` positions, H query heads, G key-value heads (H a multiple of G), D head size, P = D
rounded up to 16, L positions of a sequence, R the farthest distance that has a bias of its own.

The native and the plain path are invariant: a row's result is the same to the last bit whatever else is in
the step and however a prompt is cut into chunks (docs/decisions/engine.md).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.core.errors import ResourceError
from weft.ops.arena import mapped
from weft.ops.cache import NativeAttention
from weft.ops.kernels import serving, suffix
from weft.ops.page_layout import PAGE, Batch, Layout

_MAP_NORESERVE = 0x4000
"""Linux's flag, which Python's module names only from 3.13 on."""


class _Cache(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("keys", "values", "key_scales", "value_scales")),
        *((name, ctypes.c_long) for name in ("H", "G", "D", "window")),
        ("scale", ctypes.c_float),
    )


class Pages:
    """Keys [B, G, D, 16] and values [B, G, 16, P] of every layer.

    In bf16 on a processor with matrix tiles two dimensions, or two keys, are a pair, as those read them: keys
    [B, G, D/2, 16, 2] and values [B, G, 8, P, 2].
    ``dtype`` is that of the model, or int8 with one fp32 scale for each key and value vector, [B, G, 16].
    ``scale`` multiplies scores (None: one over the root of D). Memory is taken as blocks are first written.
    Raises ResourceError when the address space ends.
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
        scale: float | None = None,
    ):
        self.H, self.G = heads
        self.scale = head_dim**-0.5 if scale is None else scale
        self.D, self.window, self.dtype, self.device = head_dim, window, dtype, device
        self.padded = -(-head_dim // 16) * 16
        self._paired = dtype == torch.bfloat16 and device.type == "cpu" and _in_pairs(head_dim)
        key, value = self._shapes(blocks)
        number = (blocks, self.G, PAGE)
        try:
            self.keys = [_zeros(key, dtype, device) for _ in range(layers)]
            self.values = [_zeros(value, dtype, device) for _ in range(layers)]
            scaled = layers if dtype == torch.int8 else 0
            self.key_scales = [_zeros(number, torch.float32, device) for _ in range(scaled)]
            self.value_scales = [_zeros(number, torch.float32, device) for _ in range(scaled)]
        except (RuntimeError, MemoryError, OSError) as error:
            raise ResourceError(
                f"There is no memory for a cache of {blocks} blocks of {PAGE} tokens; give it less."
            ) from error
        groups = (self.keys, self.values, self.key_scales, self.value_scales)
        self._pointers = [_pointers(tensors) for tensors in groups]
        numbers = (self.H, self.G, self.D, window or 0, self.scale)
        self._functions: dict[torch.dtype, int | None] = {}
        self._native = _Cache(*(ctypes.addressof(p) if p else None for p in self._pointers), *numbers)

    def _shapes(self, blocks: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of the keys and of the values of a layer."""
        if self._paired:
            key = (blocks, self.G, self.D // 2, PAGE, 2)
            return key, (blocks, self.G, PAGE // 2, self.padded, 2)
        return (blocks, self.G, self.D, PAGE), (blocks, self.G, PAGE, self.padded)

    @staticmethod
    def block_bytes(layers: int, groups: int, head_dim: int, dtype: torch.dtype) -> int:
        """Bytes of one block in all layers."""
        position = (head_dim + -(-head_dim // 16) * 16) * dtype.itemsize + (8 if dtype == torch.int8 else 0)
        return layers * groups * PAGE * position

    def attend(
        self,
        layer: int,
        layout: Layout,
        q_NHD: Tensor,
        k_NGD: Tensor | None = None,
        v_NGD: Tensor | None = None,
    ) -> Tensor:
        """[N, H, D] by the best path there is; stores the new keys and values, if there are any, first."""
        kernel = _kernel(q_NHD, self.dtype)
        if kernel is None:
            if k_NGD is not None and v_NGD is not None:
                self.store(layer, layout, k_NGD, v_NGD)
            path = attend_plain if self.device.type == "cpu" else attend_gathered
            return path(self, layer, layout, q_NHD)
        q, k, v = (None if x is None else x.contiguous() for x in (q_NHD, k_NGD, v_NGD))
        out = torch.empty_like(q_NHD, memory_format=torch.contiguous_format)
        pointers = (None if x is None else ctypes.c_void_p(x.data_ptr()) for x in (q, k, v, out))
        kernel(ctypes.byref(self._native), ctypes.byref(layout.native), layer, *pointers)
        return out

    def native(self, layout: Layout, q_NHD: Tensor) -> NativeAttention | None:
        """The kernel for queries like these, which all threads of a region call; None where there is none."""
        if q_NHD.dtype not in self._functions:
            kernel = _kernel(q_NHD, self.dtype, "_within")
            self._functions[q_NHD.dtype] = kernel and ctypes.cast(kernel, ctypes.c_void_p).value
        function = self._functions[q_NHD.dtype]
        if function is None:
            return None
        ends = ctypes.addressof(self._native), ctypes.addressof(layout.native)
        return NativeAttention(function, *ends, *layout.native_positions)

    def store(self, layer: int, layout: Layout, k_NGD: Tensor, v_NGD: Tensor) -> None:
        """The plain twin of the native kernel's first half.

        A value that is no finite number is stored as zero, with a key that is NaN: so whoever sees it gets
        NaN, and nobody else, although zero times NaN is NaN. In int8 the same for a key that is none.
        """
        block, place = (x.to(self.device) for x in (layout.places_N // PAGE, layout.places_N % PAGE))
        sound_NG = v_NGD.isfinite().all(-1)
        if self.dtype == torch.int8:
            sound_NG &= k_NGD.isfinite().all(-1)
        broken = ~sound_NG.unsqueeze(-1)
        v_NGD, k_NGD = v_NGD.masked_fill(broken, 0), k_NGD.masked_fill(broken, float("nan"))
        if self.dtype == torch.int8:
            k_NGD, scale_NG = quantise(k_NGD.masked_fill(broken, 0))
            self.key_scales[layer][block, :, place] = scale_NG.masked_fill(~sound_NG, float("nan"))
            v_NGD, self.value_scales[layer][block, :, place] = quantise(v_NGD)
        v_NGP = F.pad(v_NGD, (0, self.padded - self.D))
        if self._paired:
            self.keys[layer][block, :, :, place] = k_NGD.reshape(*k_NGD.shape[:-1], -1, 2)
            self.values[layer][block, :, place // 2, :, place % 2] = v_NGP
            return
        self.keys[layer][block, :, :, place] = k_NGD
        self.values[layer][block, :, place] = v_NGP

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Give the second block of each pair the content of the first, in all layers."""
        if not pairs:
            return
        sources, targets = torch.tensor(pairs, device=self.device).T
        for tensors in (self.keys, self.values, self.key_scales, self.value_scales):
            for tensor in tensors:
                tensor[targets] = tensor[sources]

    def gather(self, layer: int, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of ``blocks`` [W], each [W * 16, G, D], fp32 if they are int8."""
        keys, values = self.keys[layer][blocks], self.values[layer][blocks]
        if self._paired:
            keys, values = keys.transpose(-1, -2).flatten(-3, -2), values.transpose(-1, -2).flatten(-3, -2)
        values = values[..., : self.D]
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
    """Reference: softmax(scale q k^T + bias) v of one row after the other, in fp32, over what the row sees.

    Reductions run over the row's own keys alone, so it is invariant too.
    """
    out = torch.empty_like(q_NHD)
    for item in layout.items:
        keys, values = pages.gather(layer, torch.tensor(item.blocks, device=pages.device))
        keys, values = (x.float().repeat_interleave(pages.H // pages.G, dim=1) for x in (keys, values))
        for row, position in enumerate(range(item.past, item.past + item.count), item.first):
            first, end = (
                0 if pages.window is None else max(0, position - pages.window + 1),
                item.until(position),
            )
            k_LHD, v_LHD = (x[first:end] for x in (keys, values))
            scores_LH = (q_NHD[row].float() * k_LHD).sum(-1) * pages.scale
            if layout.bias is not None:
                here, there = torch.tensor([position]), torch.arange(first, end)
                scores_LH = scores_LH + layout.biases(here, there)[:, 0].T
            out[row] = (scores_LH.softmax(0).unsqueeze(-1) * v_LHD).sum(0)
    return out


def attend_gathered(pages: Pages, layer: int, layout: Layout, q_NHD: Tensor) -> Tensor:
    """PyTorch's attention over keys copied out of their blocks; for GPUs.

    Items of few rows, single tokens mostly, go in batches of like length.
    """
    out = torch.empty_like(q_NHD)
    for batch in layout.batches:
        mixed_ISHD = _attend_batch(pages, layer, layout, batch, q_NHD[batch.rows])
        out[batch.target] = mixed_ISHD.flatten(0, 1)[batch.real]
    return out


def _attend_batch(pages: Pages, layer: int, layout: Layout, batch: Batch, q_ISHD: Tensor) -> Tensor:
    items, width = batch.blocks.shape
    key_L = torch.arange(width * PAGE, device=pages.device)
    # Places that nobody has written may hold anything, even NaN, which a weight of zero would not remove.
    missing = (key_L >= batch.end.unsqueeze(-1))[..., None, None]
    keys, values = (
        x.view(items, -1, *x.shape[1:]).masked_fill(missing, 0).to(q_ISHD.dtype).transpose(1, 2)
        for x in pages.gather(layer, batch.blocks.flatten())
    )
    mask = batch.mask(key_L, pages.window).unsqueeze(1)
    # A key that is NaN (see Pages.store) is for those that see it; PyTorch gives it to all.
    broken_IGL = keys.isnan().any(-1)
    keys = keys.masked_fill(broken_IGL.unsqueeze(-1), 0)
    spoilt_IGS = (mask & broken_IGL.unsqueeze(2)).any(-1)
    if layout.bias is not None:
        added = layout.biases(batch.query, key_L).transpose(0, 1)
        mask = added.masked_fill(~mask, float("-inf")).to(q_ISHD.dtype)
    q, grouped = q_ISHD.transpose(1, 2), pages.H != pages.G
    mixed = F.scaled_dot_product_attention(
        q, keys, values, attn_mask=mask, scale=pages.scale, enable_gqa=grouped
    )
    spoilt_IHS = spoilt_IGS.repeat_interleave(pages.H // pages.G, dim=1)
    return mixed.masked_fill(spoilt_IHS.unsqueeze(-1), float("nan")).transpose(1, 2)


def _kernel(q: Tensor, dtype: torch.dtype, where: str = "") -> Any:
    name = suffix(q)
    library = serving("paged") if name else None
    odd = dtype == torch.bfloat16 and q.shape[-1] % 2 == 1
    if library is None or dtype not in (q.dtype, torch.int8) or odd:
        return None
    stored = "_int8" if dtype == torch.int8 else ""
    return getattr(library, f"weft_paged_{name}{stored}{where}")


def _in_pairs(head_dim: int) -> bool:
    library = serving("paged")
    return library is not None and bool(library.weft_paged_in_pairs(ctypes.c_long(head_dim)))


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = int(torch.Size(shape).numel()) * dtype.itemsize
    return mapped(size, _MAP_NORESERVE).view(dtype).view(shape)


def _pointers(tensors: list[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(x.data_ptr() for x in tensors)) if tensors else None
