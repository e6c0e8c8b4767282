"""The order of work on every rank of a pipeline, as torch.distributed.pipelining runs it. Pure data.

GPipe (arXiv:1811.06965), 1F1B (arXiv:1806.03377), interleaved 1F1B (arXiv:2104.04473) and the interleaved
zero-bubble schedule ZB1P (arXiv:2401.10241), where a backward pass is split into the gradient of the input
(I) and that of the weights (W). Stage s is on rank ``s % ranks``.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import NamedTuple

from weft.core.errors import ConfigError


class Action(NamedTuple):
    """``kind``: F forward, B whole backward, I backward of the input, W backward of the weights."""

    stage: int
    kind: str
    micro: int


Order = tuple[tuple[Action, ...], ...]
"""One tuple of actions a rank."""


@functools.cache
def order(schedule: str, ranks: int, stages_per_rank: int, micros: int) -> Order:
    """The actions of every rank. ConfigError where the schedule cannot run so many micro-batches."""
    if schedule == "gpipe":
        return tuple(_gpipe(rank, micros) for rank in range(ranks))
    if schedule == "1f1b":
        if micros < ranks:
            raise ConfigError(
                f"parallel.schedule = '1f1b' needs at least as many micro-batches as stages, and {micros} "
                f"are fewer than {ranks}; set train.micro_rows lower, or train.batch_tokens higher."
            )
        return tuple(_one_f_one_b(rank, ranks, micros) for rank in range(ranks))
    rounds = max(1, micros // ranks)
    if micros % rounds:
        raise ConfigError(
            f"parallel.schedule = {schedule!r} runs {micros} micro-batches in {rounds} rounds, which do not "
            f"divide them; set train.micro_rows so that their number is a multiple of {ranks}."
        )
    zero = schedule == "zero-bubble"
    return tuple(_looped(rank, ranks, stages_per_rank, micros, rounds, zero) for rank in range(ranks))


def _gpipe(rank: int, micros: int) -> tuple[Action, ...]:
    forward = tuple(Action(rank, "F", i) for i in range(micros))
    return forward + tuple(Action(rank, "B", i) for i in range(micros))


def _one_f_one_b(rank: int, ranks: int, micros: int) -> tuple[Action, ...]:
    warm = min(micros, ranks - rank)
    actions = [Action(rank, "F", i) for i in range(warm)]
    for backward in range(micros):
        actions.append(Action(rank, "B", backward))
        if warm + backward < micros:
            actions.append(Action(rank, "F", warm + backward))
    return tuple(actions)


def _looped(rank: int, ranks: int, local: int, micros: int, rounds: int, zero: bool) -> tuple[Action, ...]:
    """Interleaved 1F1B, or ZB1P: stage ``k * ranks + rank`` is the k-th of this rank."""
    per_round, total = micros // rounds, local * micros
    warm = min((local - 1) * per_round + (1 if zero else 2) * (ranks - 1 - rank), total)

    def forward_stage(step: int) -> int:
        return (step // per_round) % local * ranks + rank

    def backward_stage(step: int) -> int:
        return (local - 1 - ((step - warm) // per_round) % local) * ranks + rank

    forward, backward, weights = (_Counted(kind) for kind in ("F", "I" if zero else "B", "W"))
    actions: list[Action] = []
    pending: list[int] = []
    for step in range(total + warm):
        if step < total:
            actions.append(forward.next(forward_stage(step)))
        if step < warm:
            continue
        actions.append(backward.next(backward_stage(step)))
        pending.append(backward_stage(step))
        if zero and step - warm >= rank:
            actions.append(weights.next(pending[weights.count]))
    while zero and weights.count < len(pending):
        actions.append(weights.next(pending[weights.count]))
    return tuple(actions)


class _Counted:
    """Actions of one kind; the micro-batches of each stage come in turn."""

    def __init__(self, kind: str):
        self.kind, self.count = kind, 0
        self._seen: Counter[int] = Counter()

    def next(self, stage: int) -> Action:
        action = Action(stage, self.kind, self._seen[stage])
        self._seen[stage] += 1
        self.count += 1
        return action
