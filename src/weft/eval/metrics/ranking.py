"""nDCG, reciprocal rank and recall of ranked lists.

nDCG as trec_eval's ``ndcg_cut``: linear gain, discount log2(rank + 1) (Järvelin and Kekäläinen 2002).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from weft.core.errors import DataError


def ndcg(ranked: Sequence[str], grades: Mapping[str, float], cut: int = 10) -> float:
    """nDCG at ``cut`` of one query: ``ranked`` ids, best first, against ``grades`` (absent: 0)."""
    _check(ranked, grades)
    ideal = sorted((grade for grade in grades.values() if grade > 0), reverse=True)
    return _gain([grades.get(name, 0.0) for name in ranked[:cut]]) / _gain(ideal[:cut])


def reciprocal_rank(ranked: Sequence[str], grades: Mapping[str, float]) -> float:
    """1 / rank of the first relevant id, 0 where none was ranked."""
    _check(ranked, grades)
    return next((1 / rank for rank, name in enumerate(ranked, 1) if grades.get(name, 0.0) > 0), 0.0)


def recall(ranked: Sequence[str], grades: Mapping[str, float], cut: int = 10) -> float:
    """Share of the relevant ids that stand among the first ``cut``."""
    _check(ranked, grades)
    relevant = {name for name, grade in grades.items() if grade > 0}
    return len(relevant.intersection(ranked[:cut])) / len(relevant)


def _gain(grades: Sequence[float]) -> float:
    return sum(max(grade, 0.0) / math.log2(rank + 1) for rank, grade in enumerate(grades, 1))


def _check(ranked: Sequence[str], grades: Mapping[str, float]) -> None:
    if not any(grade > 0 for grade in grades.values()):
        raise DataError("A query has no relevant document; leave it out of the ranking's evaluation.")
    if len(set(ranked)) != len(ranked):
        raise DataError("A ranking names a document twice; give every document once.")
