"""Activations that are made again in the backward pass instead of kept (arXiv:1604.06174).

``full`` keeps the input of each block only, and runs every block's forward twice: a third more work.
``selective`` makes the feed-forward half of a block again, its norm, gate, up and SwiGLU, which hold half
of a block's activations and cost a sixth of its forward; attention, whose work grows with the length of a
row, is kept.
"""

from __future__ import annotations

import functools

from torch import nn
from torch.utils.checkpoint import checkpoint

from weft.models.layers import Block
from weft.parallel.plan import Plan


def apply(module: nn.Module, plan: Plan) -> None:
    """Wrap the blocks of a decoder or stage as ``plan.recompute`` says."""
    if plan.recompute == "none":
        return
    name = "forward" if plan.recompute == "full" else "feed"
    for block in module.modules():
        if isinstance(block, Block):
            # No randomness in a block, so no state of it to keep.
            again = functools.partial(
                checkpoint, getattr(block, name), use_reentrant=False, preserve_rng_state=False
            )
            setattr(block, name, again)
