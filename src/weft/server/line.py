"""Texts that wait to be worked on together: keys in turn, and what is asked alike at once."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What stands in a line."""

    owner: str

    @property
    def kind(self) -> Any:
        """What is equal of those that can be worked on together."""
        ...


W = TypeVar("W", bound=Waiting)


class Line(Generic[W]):
    """Those that wait, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: list[W] = []
        self._turns: dict[str, int] = {}
        self._taken = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, one: W) -> None:
        """At the end."""
        self._waiting.append(one)

    def leave(self, one: W) -> None:
        """It waits no longer, if it did."""
        if one in self._waiting:
            self._waiting.remove(one)

    def take(self, most: int) -> list[W]:
        """The next and others of its kind, ``most`` in all; of keys that wait, the one served longest ago."""
        if most < 1 or not self._waiting:
            return []
        self._taken += 1
        first = min(self._waiting, key=lambda one: self._turns.get(one.owner, 0))
        alike = [one for one in self._waiting if one is not first and one.kind == first.kind]
        chosen = [first, *alike[: most - 1]]
        self._turns |= {one.owner: self._taken for one in chosen}
        self._waiting = [one for one in self._waiting if one not in chosen]
        return chosen
