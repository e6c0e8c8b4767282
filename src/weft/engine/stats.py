"""What the engine has done. No torch here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stats:
    """Counts since the engine was made, and its state now.

    ``prefix_queries`` and ``prefix_hits`` count prompt tokens: asked for in the prefix cache, and found
    there.
    ``proposed`` and ``accepted`` count speculative tokens.
    """

    running: int
    waiting: int
    free_blocks: int
    total_blocks: int
    prefix_queries: int
    prefix_hits: int
    proposed: int
    accepted: int
    steps: int
