"""The schedule of a pipeline run as events: when does each rank work, and when does it wait.

A rank does its actions in order. A forward pass waits for the activation of the stage before, a backward
pass for the gradient of the stage behind; each arrives ``transfer`` seconds after it was made. Where the
ranks of a pipeline share the cores of a host, an action takes longer the more ranks work at that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from weft.parallel.schedules import Action, Order

Speed = Callable[[int], float]
"""Share of its full speed that each of n working ranks has."""


@dataclass(frozen=True)
class StageSeconds:
    """Of one micro-batch on one stage; a whole backward pass is ``inputs + weights``."""

    forward: float
    inputs: float
    weights: float

    def of(self, kind: str) -> float:
        """Seconds of an action."""
        if kind == "F":
            return self.forward
        return {"B": self.inputs + self.weights, "I": self.inputs, "W": self.weights}[kind]


@dataclass(frozen=True)
class Timeline:
    """``busy``: seconds of work per rank at full speed; ``spans``: (rank, action, start, end)."""

    seconds: float
    busy: tuple[float, ...]
    spans: tuple[tuple[int, Action, float, float], ...]

    @property
    def bubble(self) -> float:
        """Seconds that the busiest rank waits."""
        return self.seconds - max(self.busy)


def run(
    order: Order, stages: Sequence[StageSeconds], transfer: float = 0.0, speed: Speed | None = None
) -> Timeline:
    """Simulate ``order``. ``speed`` is None where every rank has a device of its own."""
    if speed is None:
        return _independent(order, stages, transfer)
    return _shared(order, stages, transfer, speed)


def _needs(action: Action, last: int) -> tuple[int, str, int] | None:
    """The (stage, kind, micro) on another rank that must be finished and arrived."""
    if action.kind == "F":
        return (action.stage - 1, "F", action.micro) if action.stage else None
    if action.kind == "W":
        return None
    return (action.stage + 1, "B", action.micro) if action.stage < last else None


def _made(action: Action) -> tuple[int, str, int] | None:
    """What others wait for when the action is done; a split backward pass passes its gradient on early."""
    kind = {"F": "F", "B": "B", "I": "B"}.get(action.kind)
    return (action.stage, kind, action.micro) if kind else None


def _independent(order: Order, stages: Sequence[StageSeconds], transfer: float) -> Timeline:
    last = len(stages) - 1
    done: dict[tuple[int, str, int], float] = {}
    free = [0.0] * len(order)
    at = [0] * len(order)
    spans = []
    left = sum(len(actions) for actions in order)
    while left:
        before = left
        for rank, actions in enumerate(order):
            while at[rank] < len(actions):
                action = actions[at[rank]]
                need = _needs(action, last)
                if need is not None and need not in done:
                    break
                # A stage of the same rank hands over without a message.
                hop = 0.0 if need is None or need[0] % len(order) == rank else transfer
                start = max(free[rank], done[need] + hop if need else 0.0)
                end = start + stages[action.stage].of(action.kind)
                made = _made(action)
                if made:
                    done[made] = end
                spans.append((rank, action, start, end))
                free[rank], at[rank], left = end, at[rank] + 1, left - 1
        if left == before:
            raise ValueError("the schedule waits for itself")
    return Timeline(max(free), _busy(order, stages), tuple(spans))


def _shared(order: Order, stages: Sequence[StageSeconds], transfer: float, speed: Speed) -> Timeline:
    last, now = len(stages) - 1, 0.0
    arrived: dict[tuple[int, str, int], float] = {}
    at = [0] * len(order)
    # Rank -> [seconds of work left, start].
    running: dict[int, tuple[float, float]] = {}
    spans = []
    while running or any(at[rank] < len(actions) for rank, actions in enumerate(order)):
        soon = []
        for rank, actions in enumerate(order):
            if rank in running or at[rank] >= len(actions):
                continue
            action = actions[at[rank]]
            need = _needs(action, last)
            if need is None or (need in arrived and arrived[need] <= now + 1e-12):
                running[rank] = (stages[action.stage].of(action.kind), now)
            elif need in arrived:
                soon.append(arrived[need] - now)
        if not running:
            if not soon:
                raise ValueError("the schedule waits for itself")
            now += min(soon)
            continue
        pace = speed(len(running))
        step = min([left / pace for left, _ in running.values()] + soon)
        now += step
        for rank, (left, start) in list(running.items()):
            left -= step * pace
            if left > 1e-12:
                running[rank] = (left, start)
                continue
            del running[rank]
            action = order[rank][at[rank]]
            made = _made(action)
            if made:
                arrived[made] = now + transfer
            spans.append((rank, action, start, now))
            at[rank] += 1
    return Timeline(now, _busy(order, stages), tuple(spans))


def _busy(order: Order, stages: Sequence[StageSeconds]) -> tuple[float, ...]:
    return tuple(sum(stages[a.stage].of(a.kind) for a in actions) for actions in order)
