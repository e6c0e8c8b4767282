"""A label for each text: classes and sentiment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from weft.data.forms.offsets import Placed, placed
from weft.tasks.results import Scored
from weft.tokenizer import Tokenizer

Floats = npt.NDArray[np.float64]


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Placed]:
    """Each text as one document."""
    return placed(tokenizer, texts)


def decode(scores_NC: Floats, labels: Sequence[str], temperature: float) -> list[Scored]:
    """The best label of each document, from its scores before the softmax."""
    odds = scores_NC / temperature
    odds = np.exp(odds - odds.max(axis=1, keepdims=True))
    shares = odds / odds.sum(axis=1, keepdims=True)
    return [
        Scored(labels[best], float(row[best]), scores=dict(zip(labels, map(float, row), strict=True)))
        for row, best in zip(shares, shares.argmax(axis=1).tolist(), strict=True)
    ]
