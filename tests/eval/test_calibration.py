"""Calibration error by hand; temperatures against the ones that made the labels and a fine grid."""

from __future__ import annotations

import numpy as np
import pytest

from weft.core.errors import DataError
from weft.eval.metrics.calibration import COLDEST, HOTTEST, calibration, temperature, weights


def test_error_by_hand() -> None:
    found = calibration(np.array([0.9, 0.8, 0.55, 0.1, 0.0]), np.array([1, 0, 1, 0, 1]), bins=2)
    assert found.count.tolist() == [2, 3]
    np.testing.assert_allclose(found.confidence, [0.05, 0.75])
    np.testing.assert_allclose(found.accuracy, [1 / 2, 2 / 3])
    assert found.error == pytest.approx(2 / 5 * 0.45 + 3 / 5 * (0.75 - 2 / 3))


def test_borders_belong_to_the_bin_below_and_empty_bins_are_nan() -> None:
    found = calibration(np.array([0.5, 1.0, 1.0]), np.array([False, True, True]), bins=4)
    assert found.count.tolist() == [0, 1, 0, 2]
    assert np.isnan(found.accuracy[[0, 2]]).all()
    assert found.error == pytest.approx(0.5 / 3)
    assert len(calibration(np.array([0.3]), np.array([1.0])).count) == 15


def drawn(seed: int, heat: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are ``heat`` times those the labels were drawn from."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (20_000, 5))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    return logits * heat, labels


def loss(logits: np.ndarray, labels: np.ndarray, heat: float) -> float:
    scaled = logits / heat
    peak = scaled.max(axis=1)
    total = np.log(np.exp(scaled - peak[:, None]).sum(axis=1)) + peak
    return float((total - scaled[np.arange(len(labels)), labels]).mean())


@pytest.mark.parametrize("heat", [0.3, 1.0, 4.0])
def test_temperature_is_the_one_that_was_lost(heat: float) -> None:
    logits, labels = drawn(0, heat)
    found = temperature(logits, labels)
    assert found == pytest.approx(heat, rel=0.05)
    assert loss(logits, labels, found) <= min(loss(logits, labels, found * by) for by in (0.99, 1.01))


def test_temperature_lowers_the_calibration_error() -> None:
    logits, labels = drawn(1, 3.0)
    errors = []
    for heat in (1.0, temperature(logits, labels)):
        odds = np.exp((logits - logits.max(axis=1, keepdims=True)) / heat)
        hits = odds.argmax(axis=1) == labels
        errors.append(calibration(odds.max(axis=1) / odds.sum(axis=1), hits).error)
    assert errors[1] < 0.02 < 0.1 < errors[0]


def test_the_search_ends_where_there_is_no_optimum() -> None:
    logits = np.array([[2.0, 0.0], [0.0, 2.0]])
    assert temperature(logits, np.array([0, 1])) == pytest.approx(COLDEST)
    assert temperature(logits, np.array([1, 0])) == pytest.approx(HOTTEST)


def test_weights_of_one_system_are_its_temperature() -> None:
    logits, labels = drawn(2, 4.0)
    assert weights([logits], labels)[0] == pytest.approx(1 / temperature(logits, labels), rel=1e-6)


def test_weights_are_those_that_the_labels_were_drawn_with() -> None:
    generator = np.random.default_rng(3)
    first, second, noise = (generator.normal(0, 1, (40_000, 3)) for _ in range(3))
    labels = (0.5 * first + 2.0 * second + generator.gumbel(size=first.shape)).argmax(axis=1)
    found = weights([first, second, noise], labels)
    np.testing.assert_allclose(found, [0.5, 2.0, 0.0], atol=0.03)

    def surprise(by: np.ndarray) -> float:
        return loss(by[0] * first + by[1] * second + by[2] * noise, labels, 1.0)

    for change in np.concatenate([np.eye(3), -np.eye(3)]) * 1e-3:
        assert surprise(found) < surprise(found + change)


def test_weights_of_a_worse_than_useless_system_are_negative_and_of_an_empty_one_nothing() -> None:
    logits, labels = drawn(4, 1.0)
    assert weights([-logits], labels)[0] == pytest.approx(-1.0, rel=0.05)
    both = weights([logits, np.zeros_like(logits)], labels)
    assert both[0] == pytest.approx(1.0, rel=0.05) and both[1] == 0.0


def test_weights_end_where_all_rows_are_right() -> None:
    logits = np.array([[2.0, 0.0], [0.0, 2.0]])
    found = weights([logits, logits], np.array([0, 1]))
    assert np.isfinite(found).all() and (found > 1).all() and (found <= 1 / COLDEST).all()


def test_bad_input() -> None:
    with pytest.raises(DataError, match="1 confidences got 2 hits"):
        calibration(np.ones(1), np.ones(2))
    with pytest.raises(DataError, match="at least one"):
        calibration(np.ones(0), np.ones(0))
    for bad in (1.2, -0.1, np.nan):
        with pytest.raises(DataError, match="outside 0 to 1"):
            calibration(np.array([bad]), np.ones(1))
    with pytest.raises(DataError, match="do not fit"):
        temperature(np.ones((2, 3)), np.array([0]))
    with pytest.raises(DataError, match="not finite"):
        temperature(np.array([[np.inf, 0.0]]), np.array([0]))
    with pytest.raises(DataError, match="outside the 3 classes"):
        temperature(np.ones((1, 3)), np.array([3]))
    with pytest.raises(DataError, match="do not fit"):
        weights([np.ones((1, 3)), np.ones((2, 3))], np.array([0]))
