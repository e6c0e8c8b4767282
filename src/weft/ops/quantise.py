"""Weights in 8 and 4 bits: the numbers, what they stand for, and plain products with them.

Dimensions: M rows, N outputs, K inputs. int8 has one scale an output, int4 one for each GROUP inputs of an
output; activations become int8 with one scale a row (the W8A8 scheme of arXiv:2206.01861).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

GROUP = 32
"""Inputs that share a scale in int4."""


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """[M, K] -> int8 [M, K] and fp32 scales [M]: the largest number of a row becomes 127.

    A row with an infinity or a NaN has the scale NaN.
    """
    wide = x.float()
    most = wide.abs().amax(-1)
    finite = (wide - wide == 0).all(-1)
    inverse = torch.where((most > 0) & finite, 127.0 / most, 0.0)
    q = (wide.nan_to_num(0, 0, 0) * inverse[:, None]).round().clamp(-127, 127).to(torch.int8)
    return q, torch.where(finite, most / 127.0, torch.nan)


def quantise_int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[N, K] -> int8 [N, K'] in -8..7 and bf16 scales [N, K'/GROUP]; K' is K rounded up to whole groups.

    The number of the largest size in a group becomes -8, so that all sixteen values are in use.
    """
    N, K = weight.shape
    groups = torch.nn.functional.pad(weight.float(), (0, -K % GROUP)).view(N, -1, GROUP)
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    scales = (largest / -8).to(torch.bfloat16)
    steps = scales.float()
    q = torch.where(steps == 0, 0, groups / steps).round().clamp(-8, 7)
    return q.to(torch.int8).view(N, -1), scales.squeeze(-1)


def dequantise_int4(q: Tensor, scales: Tensor) -> Tensor:
    """fp32 [N, K']: the inverse of :func:`quantise_int4` up to its rounding."""
    return (q.view(*scales.shape, GROUP).float() * scales.float().unsqueeze(-1)).view(q.shape)


def linear_int8_plain(x: Tensor, q: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    """Reference: [M, K] x int8 [N, K] -> fp32 [M, N], with ``x`` quantised by the row.

    Whole numbers are summed exactly, so every order of summation and every kernel gives the same bits.
    """
    rows, row_scales = quantise_rows(x)
    # fp64 holds every sum that K <= 65536 can give.
    sums = (rows.double() @ q.double().T).float()
    out = sums * row_scales[:, None] * scales
    return out if bias is None else out + bias


def linear_int4_plain(x: Tensor, q: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    """Reference: [M, K] x int4 [N, K'] -> fp32 [M, N], with ``x`` quantised by the row; groups in order."""
    rows, row_scales = quantise_rows(x)
    rows = torch.nn.functional.pad(rows, (0, q.shape[1] - rows.shape[1]))
    total = torch.zeros(len(x), len(q))
    for group, scale in enumerate(scales.float().T):
        at = slice(group * GROUP, (group + 1) * GROUP)
        total = total + (rows[:, at].double() @ q[:, at].double().T).float() * scale
    out = total * row_scales[:, None]
    return out if bias is None else out + bias


class QuantisedLinear(nn.Module):
    """A linear layer with int8 or int4 weights, computed plainly; the native products' twin."""

    def __init__(self, layer: nn.Linear, bits: int):
        super().__init__()
        quantise, self._product = _PLAIN[bits]
        self.q, self.scales = quantise(layer.weight.detach())
        self.bias = None if layer.bias is None else layer.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N], in the dtype of ``x``."""
        out = self._product(x.flatten(0, -2), self.q, self.scales, self.bias)
        return out.view(*x.shape[:-1], -1).to(x.dtype)


_PLAIN = {8: (quantise_rows, linear_int8_plain), 4: (quantise_int4, linear_int4_plain)}
