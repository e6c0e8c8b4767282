"""Whether a classifier is as sure as it is right: expected calibration error, and the temperature that helps.

Guo et al. 2017 (arXiv:1706.04599). N rows, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from weft.core.errors import DataError

Floats = npt.NDArray[np.float64]

COLDEST, HOTTEST = 1e-2, 1e2
"""Where the search for a temperature ends: rows that are all right would want 0, useless scores infinity."""
_HALVINGS = 60


@dataclass(frozen=True)
class Calibration:
    """``error``: the expected calibration error, 0 to 1; and the bins of a reliability diagram.

    ``confidence`` and ``accuracy`` float64 [bins]: means of each bin, NaN where it is empty; ``count`` int64
    [bins]: its rows.
    """

    error: float
    confidence: Floats
    accuracy: Floats
    count: npt.NDArray[np.int64]


def calibration(confidences: Floats, hits: npt.NDArray[np.bool_] | Floats, bins: int = 15) -> Calibration:
    """Compare confidences [N] with hits [N] (1 where the answer was right) in ``bins`` of equal width.

    A bin holds its upper border and not its lower one, the first both. DataError for no rows, unequal rows,
    or a confidence outside 0 to 1.
    """
    if not len(confidences) or len(confidences) != len(hits):
        raise DataError(f"{len(confidences)} confidences got {len(hits)} hits; give one each, at least one.")
    # Negated, so that NaN is refused too.
    if not ((confidences >= 0) & (confidences <= 1)).all():
        raise DataError("A confidence lies outside 0 to 1; give probabilities, not scores.")
    bin_N = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidences)
    count = np.bincount(bin_N, minlength=bins)
    confidence = _means(bin_N, confidences, count)
    accuracy = _means(bin_N, np.asarray(hits, dtype=np.float64), count)
    error = float(np.nansum(np.abs(accuracy - confidence) * count) / len(confidences))
    return Calibration(error, confidence, accuracy, count)


def temperature(logits: Floats, labels: npt.NDArray[np.integer]) -> float:
    """The temperature that minimises the negative log-likelihood of ``labels`` [N] under ``logits`` [N, C].

    Divide logits by it. The likelihood is concave in its inverse, so halving where the slope changes its
    sign finds the one optimum, between COLDEST and HOTTEST. DataError for no rows, rows that do not fit
    together, logits that are not finite or a label that is no class.
    """
    if logits.ndim != 2 or not len(logits) or labels.shape != logits.shape[:1]:
        raise DataError(f"Logits {logits.shape} and labels {labels.shape} do not fit; give [N, C] and [N].")
    if not np.isfinite(logits).all():
        raise DataError("A logit is not finite; a temperature cannot be fitted to it.")
    if not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        raise DataError(
            f"A label lies outside the {logits.shape[1]} classes of the logits; correct the data."
        )
    scores_NC = logits.astype(np.float64)
    ahead_NC = scores_NC[np.arange(len(labels)), labels][:, None] - scores_NC
    low, high = np.log(COLDEST), np.log(HOTTEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        # Down to and with 0, where the right classes are so far ahead that the others' odds vanish.
        if _slope(ahead_NC, float(np.exp(-middle))) >= 0:
            high = middle
        else:
            low = middle
    return float(np.exp((low + high) / 2))


def _slope(ahead_NC: Floats, inverse: float) -> float:
    """Of the mean log-likelihood by the inverse temperature: how far the right class is ahead on average.

    ``ahead_NC``: the score of the right class minus that of each.
    """
    scaled_NC = -ahead_NC * inverse
    odds_NC = np.exp(scaled_NC - scaled_NC.max(axis=1, keepdims=True))
    return float(((odds_NC * ahead_NC).sum(axis=1) / odds_NC.sum(axis=1)).mean())


def _means(bin_N: npt.NDArray[np.int64], values_N: Floats, count: npt.NDArray[np.int64]) -> Floats:
    found = np.full(len(count), np.nan)
    np.divide(np.bincount(bin_N, weights=values_N, minlength=len(count)), count, out=found, where=count > 0)
    return found
