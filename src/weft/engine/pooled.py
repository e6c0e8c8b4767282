"""The vector of a text: the mean of its last hidden states, which come in pieces. No torch here.

T places of a piece, E width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class Pooled:
    """The sum of the first ``count`` hidden states.

    They are added in float64, one after the other, so that the mean is the same to the bit in any pieces.
    """

    def __init__(self) -> None:
        # One thing, so that an interrupt leaves both or none.
        self._state: tuple[int, npt.NDArray[np.float64] | None] = (0, None)

    @property
    def count(self) -> int:
        """How many states were added."""
        return self._state[0]

    def add(self, states_TE: npt.NDArray[np.float32]) -> None:
        """The next states [T, E]."""
        states = states_TE.astype(np.float64)
        count, known = self._state
        if known is not None:
            states = np.concatenate([known[None], states])
        # Over its first axis numpy adds row by row, where over the last it would add pairs.
        self._state = count + len(states_TE), np.add.reduce(states, axis=0)

    def vector(self) -> npt.NDArray[np.float32]:
        """float32 [E]: the mean so far, at length 1."""
        total = self._state[1]
        assert total is not None
        length = float(np.linalg.norm(total))
        return (total / length if length else total).astype(np.float32)
