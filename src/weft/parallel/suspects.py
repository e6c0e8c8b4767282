"""Where a loss or gradient that is not a number comes from: the ranks in which it first arises.

A sum over ranks spreads it to all of them, so the step is run once more, watching what goes into this rank's
part of the model and what comes out, forward and backward. It costs nothing until a step fails.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
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


def _first_block(part: nn.Module) -> nn.Module:
    """Where hidden states go in first; an encoder-decoder begins in its encoder."""
    owner = part if isinstance(getattr(part, "blocks", None), nn.Module) else part.get_submodule("encoder")
    return next(owner.get_submodule("blocks").children())


def suspects(parts: Sequence[nn.Module], run: Callable[[], object], world: World) -> tuple[int, ...]:
    """Ranks in which ``run``, the step, first made something that is not finite; empty when it now did not.

    ``parts``: what this rank runs of the model. Every rank must call it.
    """
    seen, handles = [_Seen() for _ in parts], []
    for part, noted in zip(parts, seen, strict=True):
        first = _first_block(part)
        into = functools.partial(_into, noted)
        handles += [
            first.register_forward_pre_hook(into),
            part.register_forward_hook(functools.partial(_out, noted)),
        ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    flags = (any(s.origin for s in seen), all(s.gradient_out for s in seen), world.rank)
    found = torch.tensor(flags, device=world.device)
    every = [torch.empty_like(found) for _ in range(world.size)]
    dist.all_gather(every, found)
    answers = torch.stack(every).tolist()
    origins = tuple(rank for origin, _, rank in answers if origin)
    return origins or tuple(rank for _, fine, rank in answers if not fine)


def _into(seen: _Seen, block: nn.Module, inputs: tuple[Any, ...]) -> None:
    _look(seen, inputs[0], "into", "gradient_into")


def _out(seen: _Seen, part: nn.Module, inputs: Any, output: Any) -> None:
    _look(seen, output, "out", "gradient_out")


def _look(seen: _Seen, x: Any, value: str, gradient: str) -> None:
    if not isinstance(x, Tensor):
        return
    _note(seen, value, x)
    if x.requires_grad:
        x.register_hook(lambda g: _note(seen, gradient, g))  # type: ignore[no-untyped-call]


def _note(seen: _Seen, name: str, x: Tensor) -> None:
    if not bool(x.detach().isfinite().all()):
        setattr(seen, name, False)
