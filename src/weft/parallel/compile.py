"""Compile block by block: blocks are alike, so that one compilation serves them all and starts are short."""

from __future__ import annotations

from weft.models import Decoder


def apply(model: Decoder) -> None:
    """Let torch.compile translate each block at its first use. Last of all techniques."""
    for block in model.blocks.children():
        block.compile()
