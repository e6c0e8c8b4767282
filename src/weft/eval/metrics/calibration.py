"""Whether a classifier is as sure as it is right: expected calibration error, and the temperature that helps.

Guo et al. 2017 (arXiv:1706.04599). N rows, C classes, S systems.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    ahead_NC = _ahead(logits, labels)
    low, high = np.log(COLDEST), np.log(HOTTEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        # Down to and with 0, where the right classes are so far ahead that the others' odds vanish.
        if _slope(ahead_NC, float(np.exp(-middle))) >= 0:
            high = middle
        else:
            low = middle
    return float(np.exp((low + high) / 2))


def weights(logits: Sequence[Floats], labels: npt.NDArray[np.integer]) -> Floats:
    """float64 [S]: by how much to multiply the logits [N, C] of each system, so that the sum is likeliest.

    A logarithmic opinion pool (Heskes 1998), without the condition that weights sum to 1: a temperature is in
    them. The likelihood is concave; Newton's steps, halved where they do not help, find its optimum, or go
    on to where all rows are right: of logits with a spread of 1 weights are not above 1 / COLDEST. Raises as
    :func:`temperature`.
    """
    ahead_SNC = np.stack([_ahead(one, labels) for one in logits])
    spread_S = ahead_SNC.std(axis=(1, 2))
    spread_S[spread_S == 0.0] = 1.0
    ahead_SNC /= spread_S[:, None, None]
    found_S = np.zeros(len(logits))
    for _ in range(_HALVINGS):
        odds_NC = -np.tensordot(found_S, ahead_SNC, 1)
        odds_NC = np.exp(odds_NC - odds_NC.max(axis=1, keepdims=True))
        shares_NC = odds_NC / odds_NC.sum(axis=1, keepdims=True)
        mean_SN = (shares_NC * ahead_SNC).sum(axis=2)
        slope_S = mean_SN.mean(axis=1)
        spread_SS = np.einsum("nc,anc,bnc->ab", shares_NC, ahead_SNC, ahead_SNC) - mean_SN @ mean_SN.T
        # A system that says the same of all classes has no curvature, and gets no weight.
        step_S = np.linalg.lstsq(spread_SS / len(labels) + 1e-12 * np.eye(len(logits)), slope_S)[0]
        step_S = _halved(ahead_SNC, found_S, step_S)
        found_S = np.clip(found_S + step_S, -1 / COLDEST, 1 / COLDEST)
        if np.abs(step_S).max() < 1e-10:
            break
    found: Floats = found_S / spread_S
    return found


def surprise(logits: Floats, labels: npt.NDArray[np.integer], degrees: float = 1.0) -> float:
    """Nats a row: the mean negative log-likelihood of the labels at a temperature. Raises as it does."""
    return _surprise(_ahead(logits, labels)[None], np.array([1.0 / degrees]))


def _halved(ahead_SNC: Floats, found_S: Floats, step_S: Floats) -> Floats:
    """The step, or the first of its halves that makes the labels no less likely."""
    before = _surprise(ahead_SNC, found_S)
    for _ in range(_HALVINGS):
        if _surprise(ahead_SNC, found_S + step_S) <= before:
            return step_S
        step_S = step_S / 2
    return np.zeros_like(step_S)


def _surprise(ahead_SNC: Floats, weights_S: Floats) -> float:
    """Nats a row: the mean negative log-likelihood of the right classes."""
    behind_NC = -np.tensordot(weights_S, ahead_SNC, 1)
    most_N = behind_NC.max(axis=1)
    return float((np.log(np.exp(behind_NC - most_N[:, None]).sum(axis=1)) + most_N).mean())


def _ahead(logits: Floats, labels: npt.NDArray[np.integer]) -> Floats:
    """[N, C]: the score of the right class minus that of each. Checks both as :func:`temperature` says."""
    if logits.ndim != 2 or not len(logits) or labels.shape != logits.shape[:1]:
        raise DataError(f"Logits {logits.shape} and labels {labels.shape} do not fit; give [N, C] and [N].")
    if not np.isfinite(logits).all():
        raise DataError("A logit is not finite; a temperature cannot be fitted to it.")
    if not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        raise DataError(
            f"A label lies outside the {logits.shape[1]} classes of the logits; correct the data."
        )
    scores_NC = logits.astype(np.float64)
    ahead_NC: Floats = scores_NC[np.arange(len(labels)), labels][:, None] - scores_NC
    return ahead_NC


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
