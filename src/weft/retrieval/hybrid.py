"""Two lists of scores of the same passages as one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from weft.core.errors import UsageError

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

RRF_K = 60
"""What Cormack et al. (2009) chose."""


def reciprocal_ranks(first: Floats, second: Floats, weight: float, k: int = RRF_K) -> Floats:
    """float64 [N]: reciprocal rank fusion (Cormack et al. 2009), ``second`` counting ``weight`` of all.

    A passage that a list scores 0 or less stands in no place of it.
    """
    _check(weight)
    return (1 - weight) * _reciprocal(first, k) + weight * _reciprocal(second, k)


def weighted_sum(first: Floats, second: Floats, weight: float) -> Floats:
    """float64 [N]: each list spread over 0 to 1, ``second`` counting ``weight`` of all."""
    _check(weight)
    return (1 - weight) * _spread(first) + weight * _spread(second)


def fed_back(own: Vectors, lexical: Floats, vectors: Vectors, count: int) -> Vectors:
    """float32 [K] of length 1: the vector of a query moved to its best passages (Rocchio 1971).

    Without anybody to say which are relevant, these are the ``count`` that ``lexical`` scores highest
    (as for dense vectors in arXiv:2108.11044), each as much as its score. They count as much as ``own``
    in all; nothing where none scores above 0.
    """
    best = np.argsort(-lexical, kind="stable")[:count]
    shares = np.maximum(lexical[best], 0).astype(np.float32)
    if not shares.any():
        return own
    return _unit(own + _unit(shares @ vectors[best]))


def _unit(vector: Vectors) -> Vectors:
    unit: Vectors = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return unit


def _reciprocal(scores: Floats, k: int) -> Floats:
    order = np.argsort(-scores, kind="stable")
    places = np.empty(len(scores), np.float64)
    places[order] = np.arange(1, len(scores) + 1)
    found: Floats = np.where(scores > 0, 1 / (k + places), 0.0)
    return found


def _spread(scores: Floats) -> Floats:
    low, high = scores.min(), scores.max()
    found: Floats = (scores - low) / (high - low) if high > low else np.zeros(len(scores))
    return found


def _check(weight: float) -> None:
    if not 0 <= weight <= 1:
        raise UsageError(f"The weight of dense scores is from 0 to 1, not {weight}.")
