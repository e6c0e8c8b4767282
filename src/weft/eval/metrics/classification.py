"""Accuracy, F1, recall and confusion of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError


@dataclass(frozen=True)
class Classification:
    """Figures over ``labels``; ``confusion`` int64 [gold, found]; ``recall`` and ``f1`` float64 [labels].

    A label that stands in neither the gold labels nor the found ones does not count in ``macro_f1``.
    """

    labels: tuple[str, ...]
    confusion: npt.NDArray[np.int64]
    accuracy: float
    macro_f1: float
    recall: npt.NDArray[np.float64]
    f1: npt.NDArray[np.float64]


def classification(gold: Sequence[str], found: Sequence[str], labels: Sequence[str]) -> Classification:
    """Compare ``found`` with ``gold``. DataError for no rows, unequal rows or a label not in ``labels``."""
    if not gold or len(gold) != len(found):
        raise DataError(f"{len(gold)} gold labels got {len(found)} answers; give one for each, at least one.")
    number = {label: index for index, label in enumerate(labels)}
    foreign = sorted({*gold, *found} - number.keys())
    if foreign:
        raise DataError(f"The label {foreign[0]!r} is not among {', '.join(labels)}; correct the data.")
    confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(confusion, ([number[label] for label in gold], [number[label] for label in found]), 1)
    hits = confusion.diagonal().astype(np.float64)
    of_gold, both = confusion.sum(axis=1), confusion.sum(axis=1) + confusion.sum(axis=0)
    f1 = 2 * hits / np.maximum(both, 1)
    return Classification(
        labels=tuple(labels),
        confusion=confusion,
        accuracy=float(hits.sum() / len(gold)),
        macro_f1=float(f1[both > 0].mean()),
        recall=hits / np.maximum(of_gold, 1),
        f1=f1,
    )
