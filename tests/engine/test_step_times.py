"""Times of steps: as measured, on the line between them, and fading."""

from __future__ import annotations

import pytest

from weft.engine.step_times import StepTimes


def test_before_anything_is_measured_more_rows_take_longer() -> None:
    times = StepTimes()
    assert times.expected(32) > times.expected(8) > times.expected(1) > 0


def test_one_measurement_gives_the_others_a_slope() -> None:
    times = StepTimes()
    times.observe(4, 2.0)
    assert times.expected(4) == 2.0
    assert times.expected(36) == pytest.approx(4.0)


def test_between_and_beyond_lies_the_line() -> None:
    times = StepTimes()
    times.observe(10, 3.0)
    times.observe(2, 1.0)
    assert times.expected(6) == pytest.approx(2.0)
    assert times.expected(1) == pytest.approx(1.0 - 1.0 / 32)
    # A steep line beyond would be an excuse never to try.
    assert times.expected(14) == pytest.approx(3.0 + 4 / 32)
    # A step that was faster with more rows was an accident; it promises nothing beyond.
    times.observe(12, 0.5)
    assert times.expected(14) == pytest.approx(3.0 + 2 / 32)


def test_a_gentle_line_goes_on() -> None:
    times = StepTimes()
    times.observe(1, 1.0)
    times.observe(16, 1.15)
    assert times.expected(64) == pytest.approx(1.15 + 48 * 0.01)


def test_two_sizes_close_together_do_not_forbid_the_others() -> None:
    """16 rows were by chance much faster than 22, and 136 seemed to take ten times as long."""
    times = StepTimes()
    times.observe(16, 5.5)
    times.observe(22, 7.8)
    assert times.expected(136) < 30


def test_sizes_that_are_near_are_one() -> None:
    times = StepTimes()
    times.observe(32, 1.0)
    assert times.expected(35) == 1.0 and times.expected(36) > 1.0


def test_what_is_shorter_is_believed_sooner() -> None:
    times = StepTimes()
    for seconds in (1.0, 2.0):
        times.observe(1, seconds)
    assert times.expected(1) == pytest.approx(1.05)
    times.observe(1, 0.05)
    assert times.expected(1) == pytest.approx(0.55)


def test_measurements_fade_until_they_are_made_again() -> None:
    times = StepTimes()
    times.observe(1, 1.0)
    times.observe(3, 2.0)
    for _ in range(500):
        times.fade()
        times.observe(1, 1.0)
    assert times.expected(1) == 1.0
    assert times.expected(3) == pytest.approx(2.0 * 0.999**500)
    times.observe(3, 2.0)
    assert times.expected(3) > 1.2
    for _ in range(20_000):
        times.fade()
    assert times.expected(1) > 0 and times.expected(3) > 0
