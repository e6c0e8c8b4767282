"""What text an answer may hold."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Constraint(Protocol):
    """The state of a grammar after the tokens of an answer so far."""

    def allowed(self, drafts: tuple[int, ...], vocabulary: int) -> Tensor:
        """bool [V]: the tokens that may follow, once ``drafts`` have come too."""
        ...

    def push(self, token: int) -> None:
        """A token has come."""
        ...
