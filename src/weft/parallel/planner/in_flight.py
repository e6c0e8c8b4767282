"""Micro-batches in flight, from the order of work that :mod:`weft.parallel.schedules` gives every rank."""

from __future__ import annotations

import functools
from collections import Counter

from weft.parallel.schedules import Action, order


@functools.cache
def in_flight(schedule: str, ranks: int, stages_per_rank: int, micros: int) -> tuple[tuple[int, ...], ...]:
    """Per rank and each of its stages, the micro-batches alive when most stages' activations are.

    Activations live from F to B, or to W where the backward pass is split.
    """
    if micros % ranks == 0:
        # The warm-up decides, and it is over after a few rounds.
        micros = min(micros, 4 * ranks)
    return tuple(_most_alive(actions) for actions in order(schedule, ranks, stages_per_rank, micros))


def _most_alive(actions: tuple[Action, ...]) -> tuple[int, ...]:
    stages = sorted({action.stage for action in actions})
    alive: Counter[int] = Counter()
    most: tuple[int, ...] = (0,) * len(stages)
    for action in actions:
        if action.kind == "F":
            alive[action.stage] += 1
            most = max(most, tuple(alive[s] for s in stages), key=sum)
        elif action.kind in "BW":
            alive[action.stage] -= 1
    return most
