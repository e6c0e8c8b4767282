"""Matrix products with fp32 masters and work in another dtype; for inference, such that rows are independent.

Dimensions: M rows, K inputs, N outputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.ops.kernels import address, serving, suffix, usable, whole

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""``(x, weight, bias)`` to x @ weight.T + bias."""

_TILE = 16
_LEAST_WORK = 16**3
"""M * K * N from which PyTorch gives a bf16 product to oneDNN; smaller ones go another way."""

_within: list[None] = []


@contextlib.contextmanager
def row_invariant() -> Iterator[None]:
    """Within it a row's product is the same to the last bit whatever other rows there are.

    On CPUs, and without gradients.
    """
    _within.append(None)
    try:
        yield
    finally:
        _within.pop()


def rows_matter(x: Tensor) -> bool:
    """Whether products with ``x`` are to be :func:`row_invariant`."""
    return bool(_within) and usable(x) and not torch.is_grad_enabled()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x @ weight.T + bias in the dtype of ``x``; gradients reach the master in the master's dtype."""
    work = weight.to(x.dtype)
    bias = None if bias is None else bias.to(x.dtype)
    if not rows_matter(x):
        return F.linear(x, work, bias)
    y_MN = linear_rows(x.reshape(-1, x.shape[-1]), work, bias)
    return y_MN.view(*x.shape[:-1], y_MN.shape[-1])


def linear_rows(x_MK: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
    """[M, N]: the fastest row-invariant product there is for the dtype, without preparation."""
    library, name = serving("rows"), suffix(x_MK)
    if library is not None and (name == "fp32" or (name == "bf16" and library.weft_rows_takes_bf16())):
        x_MK, weight_NK = x_MK.contiguous(), weight_NK.contiguous()
        (M, K), N = x_MK.shape, weight_NK.shape[0]
        y_MN = x_MK.new_empty(M, N)
        product = getattr(library, f"weft_rows_{name}")
        product(*map(address, (x_MK, weight_NK, bias_N, y_MN)), *whole(M, K, N))
        return y_MN
    if x_MK.dtype == torch.float32:
        return linear_tiles(x_MK, weight_NK, bias_N)
    # Without matrix tiles oneDNN sums one row alone in another order when it is long, and PyTorch keeps small
    # products to itself; from there on the number of rows does not matter (docs/decisions/engine.md).
    least = max(2, _LEAST_WORK // weight_NK.numel() + 1)
    missing = least - x_MK.shape[0]
    if missing > 0:
        x_MK = F.pad(x_MK, (0, 0, 0, missing))
        return F.linear(x_MK, weight_NK, bias_N)[:-missing]
    return F.linear(x_MK, weight_NK, bias_N)


def linear_tiles(x_MK: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
    """[M, N], the plain twin: every product has 16 rows, so it is made the same way each time."""
    M = x_MK.shape[0]
    padded = F.pad(x_MK, (0, 0, 0, -M % _TILE))
    return torch.cat([F.linear(tile, weight_NK, bias_N) for tile in torch.split(padded, _TILE)])[:M]
