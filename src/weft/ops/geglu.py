"""GEGLU's gate (arXiv:2002.05202) with the tanh form of GELU: a plain reference and a path for inference."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from weft.ops.kernels import address, serving, suffix, whole
from weft.ops.linear import rows_matter

_VECTORS = 64
"""A multiple of the numbers that PyTorch works on at once, on any processor."""


def geglu_plain(gate: Tensor, up: Tensor) -> Tensor:
    """Reference: gelu(gate) * up, [..., F] in the dtype of ``gate``."""
    return F.gelu(gate, approximate="tanh") * up


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """As :func:`geglu_plain`; where :func:`weft.ops.linear.rows_matter`, each row as if it were alone."""
    if not rows_matter(gate):
        return geglu_plain(gate, up)
    width, library, name = gate.shape[-1], serving("rows"), suffix(gate)
    if library is None or name is None:
        # PyTorch computes what its vectors leave over in another way, so nothing is left over.
        room = (0, -width % _VECTORS)
        return geglu_plain(F.pad(gate, room), F.pad(up, room))[..., :width]
    gate, up = gate.contiguous(), up.contiguous()
    y = gate.new_empty(gate.shape)
    kernel = getattr(library, f"weft_geglu_{name}")
    kernel(*map(address, (gate, up, y)), *whole(gate.numel() // width, width))
    return y
