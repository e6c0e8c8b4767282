"""Weights that are spread over processes: what this process computes with."""

from __future__ import annotations

from torch import Tensor, nn


def local(x: Tensor) -> Tensor:
    """This process's part of a DTensor, with gradients; any other tensor is returned as it is.

    Models read their weights through it, so that the same code, native kernels included, serves a cut
    weight.
    """
    if type(x) is nn.Parameter or type(x) is Tensor:
        return x
    # Here, since importing it takes longer than starting an engine, which never comes so far.
    from torch.distributed.tensor import DTensor

    return x.to_local() if isinstance(x, DTensor) else x
