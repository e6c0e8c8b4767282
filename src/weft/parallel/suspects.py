"""Where a loss or gradient that is not a number comes from: the ranks in which it first arises.

A sum over ranks spreads it to all of them, so the step is run once more, watching what goes into this rank's
part of the model and what comes out, forward and backward. It costs nothing until a step fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from weft.parallel.world import World


@dataclass
class _Seen:
    """Whether all was finite so far: going in, coming out, and the gradients of both."""

    into: bool = True
    out: bool = True
    gradient_out: bool = True
    gradient_into: bool = True

    @property
    def origin(self) -> bool:
        """Whether it arose here: nothing but numbers came in, by either way, and something else went out.

        The gradient of the last stage's output comes from the loss, which belongs to that stage; that of
        another stage's comes from the next one.
        """
        forward = self.into and not self.out
        return forward or (self.into and self.out and self.gradient_out and not self.gradient_into)


def suspects(
    module: nn.Module, blocks: list[nn.Module], run: Callable[[], object], world: World
) -> tuple[int, ...]:
    """Ranks in which ``run``, the step, first made something that is not finite; empty when it now did not.

    ``blocks``: those of this rank, in order. Every rank must call it.
    """
    seen = _Seen()
    handles = [
        blocks[0].register_forward_pre_hook(
            lambda _, inputs: _look(seen, inputs[0], "into", "gradient_into")
        ),
        module.register_forward_hook(lambda _, inputs, output: _look(seen, output, "out", "gradient_out")),
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    found = torch.tensor([seen.origin, seen.gradient_out, world.rank], device=world.device)
    every = [torch.empty_like(found) for _ in range(world.size)]
    dist.all_gather(every, found)
    flags = torch.stack(every).tolist()
    return tuple(rank for origin, _, rank in flags if origin) or tuple(r for _, fine, r in flags if not fine)


def _look(seen: _Seen, x: Any, value: str, gradient: str) -> None:
    if not isinstance(x, Tensor):
        return
    _note(seen, value, x)
    if x.requires_grad:
        x.register_hook(lambda g: _note(seen, gradient, g))  # type: ignore[no-untyped-call]


def _note(seen: _Seen, name: str, x: Tensor) -> None:
    if not bool(x.detach().isfinite().all()):
        setattr(seen, name, False)
