"""Linear layers for GPUs whose weights are fp8 or int8, with a scale for each output and for each row.

Activations are rounded as they come (dynamic scaling by the row); biases are added in the dtype of the work.

Dimensions: M rows, N outputs, K inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.ops import float8
from weft.ops.quantise import quantise_rows

MULTIPLE = 16
"""What K and N must be multiples of, for both kinds."""

_ROWS = 32
"""int8 products on GPUs need more than 16 rows; their number is filled up to a multiple of this."""


class Scaled(nn.Module):
    """The matrices ``weights`` [N, K], one below the other, as one layer.

    Raises ValueError where K or N is no multiple of 16.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]):
        super().__init__()
        weight = torch.cat([weight.detach() for weight in weights])
        if any(size % MULTIPLE for size in weight.shape):
            raise ValueError(f"a matrix of {tuple(weight.shape)} is not made of multiples of {MULTIPLE}")
        self.register_buffer("bias", joined(weights, biases))
        self._take(weight)

    bias: Tensor | None

    def _take(self, weight_NK: Tensor) -> None:
        """Keep the weights in the layer's own form."""
        raise NotImplementedError

    def _product(self, x_MK: Tensor) -> Tensor:
        """[M, N] in any dtype, without the bias."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N], in the dtype of ``x``."""
        y = self._product(x.flatten(0, -2)).to(x.dtype).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias.to(x.dtype)


class Float8(Scaled):
    """E4M3 weights (arXiv:2209.05433); for GPUs that :func:`weft.ops.float8.has_float8`, and processors."""

    weight: Tensor
    scale: Tensor

    def _take(self, weight_NK: Tensor) -> None:
        small, scale = float8.quantise(weight_NK)
        self.register_buffer("weight", small)
        self.register_buffer("scale", scale.t().contiguous())

    def _product(self, x_MK: Tensor) -> Tensor:
        rows, row_scale = float8.quantise(x_MK)
        # By the row the kernels give bf16 alone.
        return torch._scaled_mm(rows, self.weight.t(), row_scale, self.scale, out_dtype=torch.bfloat16)


class Int8(Scaled):
    """int8 weights (arXiv:2206.01861); sums of whole numbers are exact."""

    weight: Tensor
    scale: Tensor

    def _take(self, weight_NK: Tensor) -> None:
        whole, scale = quantise_rows(weight_NK)
        self.register_buffer("weight", whole)
        self.register_buffer("scale", scale)

    def _product(self, x_MK: Tensor) -> Tensor:
        rows, row_scale = quantise_rows(x_MK)
        M = x_MK.shape[0]
        sums = torch._int_mm(F.pad(rows, (0, 0, 0, -M % _ROWS)), self.weight.t())
        return sums.narrow(0, 0, M).float() * row_scale.unsqueeze(-1) * self.scale


def joined(weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor | None:
    """The biases of matrices that lie one below the other: None if there are none."""
    if all(bias is None for bias in biases):
        return None
    parts = [
        weight.new_zeros(len(weight)) if bias is None else bias.detach()
        for weight, bias in zip(weights, biases, strict=True)
    ]
    return torch.cat(parts)
