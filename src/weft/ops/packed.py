"""Weights of linear layers as the native products read them (see ``native/packed.h`` for the layout).

Dimensions: N outputs, K inputs. A panel is 32 outputs; what N and K lack to whole panels and steps is zeros.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.core.errors import ConfigError
from weft.ops.arena import Arena
from weft.ops.quantise import GROUP, quantise_int4, quantise_rows

_PANEL, _LANES = 32, 16
_LONGEST = 65536


class Format(IntEnum):
    """How the numbers of a weight are stored."""

    FLOAT32 = 0
    BFLOAT16 = 1
    INT8 = 2
    INT4 = 3


class MatrixStruct(ctypes.Structure):
    """``Matrix`` of packed.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("N", ctypes.c_long),
        ("K", ctypes.c_long),
        ("format", ctypes.c_long),
    )


@dataclass(frozen=True)
class Packed:
    """A weight [N, K] in panels; ``scale`` (int8) and ``bias`` are fp32, padded to whole panels."""

    data: Tensor
    scale: Tensor | None
    bias: Tensor | None
    outputs: int
    inputs: int
    format: Format

    def struct(self) -> MatrixStruct:
        """What the library takes; valid as long as this object lives."""
        pointers = [None if x is None else x.data_ptr() for x in (self.data, self.scale, self.bias)]
        return MatrixStruct(*pointers, self.outputs, self.inputs, self.format)


def pack(
    weights: Sequence[Tensor], form: Format, biases: Sequence[Tensor | None] = (), memory: Arena | None = None
) -> Packed:
    """The weights [N_i, K] one below the other as one matrix, in ``memory`` if it is given.

    Raises ConfigError for rows beyond 65,536.
    """
    weight = torch.cat([w.detach() for w in weights])
    outputs, inputs = weight.shape
    if inputs > _LONGEST:
        raise ConfigError(f"A matrix with {inputs} inputs is not supported; at most {_LONGEST} are.")
    given = [b for b in biases if b is not None]
    bias = _padded(torch.cat(given).float()) if given else None
    scale: Tensor | None = None
    if form is Format.INT4:
        data = _pack_int4(*quantise_int4(weight))
    elif form is Format.INT8:
        q, scale = quantise_rows(weight)
        data, scale = _panels((q.short() + 128).to(torch.uint8), 4), _padded(scale)
    elif form is Format.BFLOAT16:
        data = _panels(weight.bfloat16(), 2)
    else:
        data = _panels(weight.float(), 1)
    return Packed(memory.place(data) if memory else data, scale, bias, outputs, inputs, form)


def stand_in(outputs: int, inputs: int, form: Format) -> Packed:
    """A matrix of this size to time products with; its numbers mean nothing.

    Every byte is written: pages that never were would all be the same page of zeros, in the cache.
    """
    panels, groups = -(-outputs // _PANEL), -(-inputs // GROUP)
    sizes = {
        Format.FLOAT32: inputs * _PANEL * 4,
        Format.BFLOAT16: -(-inputs // 2) * 2 * _PANEL * 2,
        Format.INT8: -(-inputs // 4) * 4 * _PANEL,
        Format.INT4: groups * (_PANEL * 2 + GROUP * _PANEL // 2),
    }
    # 0x3c3c is 0.0115 in bf16, and fp32 is near: no number is subnormal, which would be slow.
    data = Arena().place(torch.full((panels, sizes[form]), 0x3C, dtype=torch.uint8))
    scale = torch.ones(panels * _PANEL) if form is Format.INT8 else None
    return Packed(data, scale, None, outputs, inputs, form)


def _padded(x: Tensor) -> Tensor:
    return F.pad(x, (0, -len(x) % _PANEL)).contiguous()


def _panels(weight: Tensor, step: int) -> Tensor:
    """[N, K] -> [N/32, K/step, 2, 16, step]."""
    N, K = weight.shape
    whole = F.pad(weight, (0, -K % step, 0, -N % _PANEL))
    return whole.view(-1, 2, _LANES, whole.shape[1] // step, step).permute(0, 3, 1, 2, 4).contiguous()


def _pack_int4(q: Tensor, scales: Tensor) -> Tensor:
    """uint8 [N/32, groups, 64 + 512]: the scales of 32 outputs, then their nibbles."""
    rows = (0, 0, 0, -len(q) % _PANEL)
    whole, scales = F.pad(q, rows), F.pad(scales, rows)
    nibbles = (whole.short() + 8).to(torch.uint8)
    split = nibbles.view(-1, 2, _LANES, whole.shape[1] // GROUP, 2, 4, 4).permute(0, 3, 4, 5, 1, 2, 6)
    low, high = split[:, :, 0], split[:, :, 1]
    lines = (low | (high << 4)).flatten(2)
    heads = scales.view(-1, _PANEL, scales.shape[1]).transpose(1, 2).contiguous().view(torch.uint8)
    return torch.cat((heads, lines), dim=-1).contiguous()
