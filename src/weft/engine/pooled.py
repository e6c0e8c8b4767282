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
        self.count = 0
        self._sum: npt.NDArray[np.float64] | None = None

    def add(self, states_TE: npt.NDArray[np.float32]) -> None:
        """The next states [T, E]."""
        states = states_TE.astype(np.float64)
        if self._sum is not None:
            states = np.concatenate([self._sum[None], states])
        # Over its first axis numpy adds row by row, where over the last it would add pairs.
        self._sum = np.add.reduce(states, axis=0)
        self.count += len(states_TE)

    def vector(self) -> npt.NDArray[np.float32]:
        """float32 [E]: the mean so far, at length 1."""
        assert self._sum is not None
        length = float(np.linalg.norm(self._sum))
        return (self._sum / length if length else self._sum).astype(np.float32)
