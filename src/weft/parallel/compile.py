"""Compile block by block: blocks are alike, so that one compilation serves them all and starts are short."""

from __future__ import annotations

import torch
from torch import nn

from weft.models.layers import Block
from weft.models.moe import SparseFeedForward


def apply(module: nn.Module, backend: str | None) -> None:
    """Let torch.compile translate the forward pass of each block at its first use; nothing without a backend.

    After tensor parallel, whose collectives become part of the graph; before recomputation and FSDP2,
    which stay around it (a graph that holds a whole checkpointed block would be skipped).
    """
    if backend is None:
        return
    for block in module.modules():
        if isinstance(block, SparseFeedForward):
            # Its shapes follow from where tokens go, which the host reads; the rest of a block is compiled.
            plain = torch.compiler.disable(block.forward)  # type: ignore[no-untyped-call]
            setattr(block, "forward", plain)  # noqa: B010
        if isinstance(block, Block):
            compiled = torch.compile(block.forward, backend=backend)
            setattr(block, "forward", compiled)  # noqa: B010 (mypy refuses to assign a method)
