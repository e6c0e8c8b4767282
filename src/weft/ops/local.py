"""Weights that are spread over processes: what this process computes with."""

from __future__ import annotations

from torch import Tensor


def local(x: Tensor) -> Tensor:
    """This process's part of a DTensor, with gradients; any other tensor is returned as it is.

    Models read their weights through it, so that the same code, native kernels included, serves a cut
    weight. (Asked by attribute: importing torch.distributed.tensor takes longer than starting an engine.)
    """
    to_local = getattr(x, "to_local", None)
    part: Tensor = x if to_local is None else to_local()
    return part
