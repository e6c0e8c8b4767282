"""The most frequent label of the training data, whatever the text says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError


class Majority:
    """A classifier that reads no text; ``labels`` are sorted."""

    def __init__(self, labels: Sequence[str]) -> None:
        """Count. Raises DataError where there is no label."""
        if not labels:
            raise DataError("There is no label to count; give at least one.")
        counts = Counter(labels)
        self.labels = sorted(counts)
        self._shares_L = np.array([counts[label] / len(labels) for label in self.labels])

    def probabilities(self, text: str = "") -> npt.NDArray[np.float64]:
        """float64 [labels]: their shares of the training data."""
        return self._shares_L.copy()

    def predict(self, text: str = "") -> str:
        """The most frequent label; of equally frequent ones the first in order."""
        return self.labels[int(self._shares_L.argmax())]
