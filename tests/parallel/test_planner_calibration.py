"""Fits from measurements, the file they are kept in, and the planner's own error."""

import dataclasses
import json

import pytest

from weft.core.errors import ResourceError
from weft.models.presets import Size
from weft.parallel.plan import Plan
from weft.parallel.planner import calibrate, calibration, record
from weft.parallel.planner.calibration import Calibration, Crowd, fragments, not_negative
from weft.parallel.planner.collectives import Fit
from weft.parallel.planner.estimate import estimate
from weft.parallel.planner.job import Job
from weft.parallel.planner.machines import this_machine
from weft.parallel.planner.probe import Request, Shape
from weft.parallel.planner.rates import PIECES

CONFIG = Size(4, 128, 32).config(512, 64)


def calibrated(**more):
    crowds = tuple(
        Crowd(n, dict.fromkeys(PIECES, (1e-11 * n, 0.0, 1e-11, 1e-10 * n, 1e-05)), 3e8 + n, (
            Fit("all_reduce", n, 1e-4, 1e-9),
        ) if n > 1 else ())
        for n in (1, 2, 4)
    )  # fmt: skip
    given = {
        "machine": "m",
        "dtype": "bf16",
        "peak": 1e12,
        "crowds": crowds,
        "lone": {1: 0.8, 2: 1.0, 4: 2.2},
    }
    return Calibration(**{**given, "warm": 1e8, "fragments": 1.1, **more})


def test_a_fit_finds_coefficients_that_are_not_negative():
    features = [[1.0, 10.0], [2.0, 10.0], [4.0, 20.0]]
    assert not_negative(features, [3.0, 5.0, 10.0]) == pytest.approx((2.0, 0.1), rel=1e-3)
    # Where a negative one would fit best, it is 0.
    found = not_negative([[1.0, 1.0], [1.0, 2.0]], [2.0, 1.0])
    assert min(found) == 0.0


def test_large_and_small_count_alike():
    """A relative fit: the error of a microsecond weighs as much as that of a second."""
    found = not_negative([[1.0], [1000.0]], [1.0, 3000.0])
    assert found[0] == pytest.approx((1 + 1 / 3) / (1 + 1 / 9))


def test_memory_is_what_stays_and_what_grows():
    assert fragments([(100.0, 160.0), (200.0, 270.0), (300.0, 380.0)]) == pytest.approx((50.0, 1.1))
    assert fragments([(100.0, 160.0)]) == (60.0, 1.0)
    # An allocator cannot need less than what lives.
    assert fragments([(100.0, 160.0), (200.0, 200.0)])[1] == 1.0


def test_it_is_kept_and_read(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert calibration.load("bf16") is None
    file = calibration.save(calibrated())
    assert file.is_relative_to(tmp_path / "weft" / "planner")
    assert calibration.load("bf16") == calibrated()
    assert calibration.load("fp32") is None
    file.write_text(file.read_text()[:100])
    assert calibration.load("bf16") is None


def test_a_world_takes_the_crowd_of_its_processes():
    job = Job(CONFIG, 16, 64)
    known = calibrated()
    one, two, four = (known.world(this_machine(n), job) for n in (1, 2, 4))
    assert two.cluster.device.runtime == 3e8 + 2 + 1e8
    assert two.cluster.device.fragments == 1.1
    amount = pytest.approx(2.0, rel=0.2)
    plan = estimate(job, Plan(), 4, one).step.compute
    assert estimate(job, Plan(dp=2), 4, two).step.compute / (plan / 2) == amount
    assert four.rates.speed(4) == 1.0
    assert four.rates.speed(1) == pytest.approx(2.2 / 0.8)
    assert two.network.seconds("all_reduce", 1e6, _pair()) == pytest.approx(1e-4 + 1e-3)


def _pair():
    from weft.parallel.planner.collectives import Group

    return Group(2, 2)


def test_fragments_count_in_what_is_foretold():
    job = Job(CONFIG, 16, 64)
    tight, loose = (calibrated(fragments=f).world(this_machine(1), job) for f in (1.0, 1.5))
    small, large = (estimate(job, Plan(), 4, world).memory for world in (tight, loose))
    assert large.total - large.runtime == pytest.approx(1.5 * (small.total - small.runtime))


def test_pieces_are_fitted_with_the_work_that_was_timed():
    shape = Shape(128, 32, 384, 4, 2, 64, 512)
    for piece in PIECES:
        amount = calibrate.amount_of(piece, shape, "bf16")
        assert any(value > 0 for value in amount.features(2)), piece
    adamw = calibrate.amount_of("adamw", shape, "bf16")
    assert adamw.stream == 28 * shape.config(3).parameters


def test_a_real_calibration_of_one_process(monkeypatch):
    """The whole way with one tiny shape: probe started, read and fitted."""
    tiny = Shape(32, 32, 64, 1, 1, 16, 64)
    answer = calibrate.run(1, Request("fp32", 1, [tiny], collectives=False, step=tiny))
    assert {entry["piece"] for entry in answer["pieces"]} == set(PIECES)
    assert answer["step"]["peak"] >= answer["resident"] > 0
    crowd = calibrate.fit(1, "fp32", answer)
    assert set(crowd.coefficients) == set(PIECES)
    assert all(c >= 0 for values in crowd.coefficients.values() for c in values)


def test_a_crowd_beyond_the_cores_is_slower_by_what_both_timed():
    shape = {"width": 64}
    before = Crowd(
        2, {"forward": (2.0, 1.0)}, 1e8, (), 1.0, ({"piece": "forward", "shape": shape, "seconds": 0.5},)
    )
    now = {
        "pieces": [{"piece": "forward", "shape": shape, "seconds": 1.5}],
        "collectives": [],
        "resident": 1e8,
    }
    assert calibrate.fit(4, "fp32", now, before).coefficients == {"forward": (6.0, 3.0)}


def test_two_processes_time_their_collectives():
    answer = calibrate.run(2, Request("fp32", 1, []))
    fits = calibrate._fit_collectives(answer["collectives"])
    assert {fit.kind for fit in fits} == {
        "all_gather",
        "reduce_scatter",
        "all_reduce",
        "all_to_all",
        "exchange",
    }
    assert all(fit.ranks == 2 and fit.per_byte > 0 for fit in fits)


def test_a_process_that_fails_is_one_sentence():
    with pytest.raises(ResourceError, match=r"A process of the calibration failed .*no_such_module"):
        calibrate.run(1, Request("fp32", 1, [], modules=["no_such_module"]))


def test_the_planner_judges_itself(tmp_path):
    job = Job(CONFIG, 16, 64)
    found = estimate(job, Plan(), 4, calibrated().world(this_machine(1), job))
    seen = record.Measured(found.step.total / 1.25, found.memory.total / 0.9)
    line = record.judge(found, seen)
    assert "+25.0 %" in line and "-10.0 %" in line and "one process" in line
    file = record.keep(found, seen, tmp_path / "errors.jsonl")
    record.keep(found, dataclasses.replace(seen, seconds=found.step.total), file)
    entries = [json.loads(text) for text in file.read_text().splitlines()]
    assert [round(entry["time_error"], 3) for entry in entries] == [0.25, 0.0]
    assert entries[0]["memory_error"] == pytest.approx(-0.1)
