"""Advice by measurement: shares of the budget, ties, going on, refusals, and real sweeps."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.labelled_sets import data

from weft.cli.main import main
from weft.core.config import duration
from weft.core.errors import ConfigError, DataError, Interrupted, TrainingError, UsageError
from weft.eval.compare import Estimate
from weft.recipes.advise import report
from weft.recipes.advise.candidates import Candidate, Subject, candidates, subject
from weft.recipes.advise.measure import Measured, median_milliseconds
from weft.recipes.advise.sweep import LATE, LEAST, TRAINING, Deadline, Sweep, Tools, shared, sweep
from weft.train import session
from weft.train.config import TrainRun

TINY = (
    "model.hidden_size=32", "train.batch_tokens=512", "train.validate_steps=12", "train.device=cpu",
    "train.arithmetic=fp32",
)  # fmt: skip

NETWORKS = ("transformer-small", "transformer", "bilstm", "bigru", "cnn")


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """Trains nothing: a run takes so many seconds, and a candidate has the figures that it is given."""

    def __init__(self, figures: dict[str, tuple[float, float, float, float]], seconds: float = 0.0) -> None:
        """``figures``: value, low, high and milliseconds of each candidate."""
        self.figures, self.clock, self.seconds = figures, Clock(), seconds
        self.runs: dict[str, TrainRun] = {}
        self.stop: str | None = None
        self.poor: tuple[str, ...] = ()

    def train(
        self, run: TrainRun, folder: Path, *, say: Callable[[str], None], hooks: Sequence[Any] = ()
    ) -> dict[str, Any]:
        key = folder.parent.name
        if key == self.stop:
            self.stop = None
            raise Interrupted("Interrupted after step 3 of 9.")
        if key in self.poor:
            raise TrainingError("A budget of 16s is too short for this machine.")
        self.runs[key] = run
        self.clock.now += self.seconds or duration(run.train.budget or "")
        return {"figures": {"tokens_per_second": 1000.0, "steps": 9}}

    def measured(self, subject: Subject, candidate: Candidate, folder: Path | None = None) -> Measured:
        value, low, high, milliseconds = self.figures[candidate.key]
        return Measured(Estimate(value, low, high), milliseconds, 4000, 1000)

    @property
    def tools(self) -> Tools:
        return Tools(self.train, self.measured, self.measured, self.clock)


FIGURES = {
    "transformer-small": (0.80, 0.77, 0.83, 2.0),
    "transformer": (0.86, 0.83, 0.89, 6.0),
    "bilstm": (0.85, 0.82, 0.88, 4.0),
    "bigru": (0.84, 0.81, 0.87, 3.0),
    "cnn": (0.70, 0.66, 0.74, 1.0),
    "naive-bayes": (0.60, 0.56, 0.64, 0.1),
}


def silent(text: str) -> None:
    """Nothing is said."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("labelled")
    return {form: data(form, out / form, vocab_size=320) for form in ("classify", "tag", "pairs", "span")}


@pytest.fixture
def classify(folders: dict[str, Path]) -> Subject:
    return subject(folders["classify"], None)


def run(bench: Bench, of: Subject, out: Path, budget: str = "100s") -> Sweep:
    return sweep(of, out, budget, say=silent, tools=bench.tools)


def test_the_cheapest_of_the_best_is_advised(classify: Subject, tmp_path: Path) -> None:
    found = run(Bench(FIGURES), classify, tmp_path)
    advice = report.advise(found, tmp_path)
    # 0.83 is where the interval of the best begins and that of the small Transformer ends.
    assert advice.best == "transformer"
    assert advice.as_good == ("transformer-small", "transformer", "bilstm", "bigru")
    assert advice.chosen == "transformer-small"
    assert "of the 4 candidates" in advice.sentence.en and "2 ms a text" in advice.sentence.en
    assert "Transformer 小" in advice.sentence.zh and advice.floor is None
    assert "model.hidden_size=128" in advice.commands[0] and "--budget 150s" in advice.commands[0]
    alone = {**FIGURES, "transformer": (0.95, 0.93, 0.97, 6.0)}
    advice = report.advise(run(Bench(alone), classify, tmp_path / "alone"), tmp_path)
    assert advice.chosen == "transformer" and "no other interval" in advice.sentence.en


def test_less_loss_is_better_and_floors_are_not_advised(classify: Subject, tmp_path: Path) -> None:
    text = dataclasses.replace(classify, task="text")
    losses = {
        "qwen3-96": (3.0, 2.9, 3.1, 1.0),
        "qwen3-160": (2.7, 2.6, 2.8, 2.0),
        "qwen3-256": (2.6, 2.5, 2.7, 4.0),
        "llama-160": (2.75, 2.65, 2.85, 1.5),
    }
    advice = report.advise(run(Bench(losses), text, tmp_path / "text"), tmp_path)
    assert advice.best == "qwen3-256" and advice.chosen == "llama-160"
    assert advice.as_good == ("qwen3-160", "qwen3-256", "llama-160")
    for value, said in (((0.9, 0.88, 0.92, 0.1), "better than"), ((0.82, 0.79, 0.85, 0.1), "as good as")):
        bench = Bench({**FIGURES, "naive-bayes": value})
        advice = report.advise(run(bench, classify, tmp_path / said), tmp_path)
        assert advice.chosen == "transformer-small"
        assert advice.floor is not None and said in advice.floor.en and "朴素贝叶斯" in advice.floor.zh


def test_every_network_has_the_same_share_data_and_seed(classify: Subject, tmp_path: Path) -> None:
    bench = Bench(FIGURES)
    found = run(bench, classify, tmp_path, "200s")
    assert tuple(bench.runs) == NETWORKS
    assert {one.train.budget for one in bench.runs.values()} == {f"{TRAINING * 40:.0f}s"}
    assert {(one.train.seed, one.data.path) for one in bench.runs.values()} == {(0, str(classify.folder))}
    assert {one.data.sequence_length for one in bench.runs.values()} == {classify.length}
    assert found.seconds <= 200 and found.share == TRAINING * 40
    assert len({one.model for one in bench.runs.values()}) == len(NETWORKS)


def test_a_sweep_goes_on_where_it_was_interrupted(classify: Subject, tmp_path: Path) -> None:
    bench = Bench(FIGURES)
    bench.stop = "bilstm"
    with pytest.raises(Interrupted, match=r"at BiLSTM, 3 of 6; .*run the same command again"):
        run(bench, classify, tmp_path)
    assert tuple(bench.runs) == NETWORKS[:2]
    again = Bench(FIGURES)
    found = run(again, classify, tmp_path)
    assert tuple(again.runs) == NETWORKS[2:]
    whole = run(Bench(FIGURES), classify, tmp_path / "whole")
    assert found.results == whole.results
    assert not Bench(FIGURES).runs and run(Bench({}), classify, tmp_path).results == whole.results


def test_another_sweep_in_the_folder_is_refused(classify: Subject, tmp_path: Path) -> None:
    run(Bench(FIGURES), classify, tmp_path)
    with pytest.raises(ConfigError, match="another budget;"):
        run(Bench(FIGURES), classify, tmp_path, "300s")
    with pytest.raises(ConfigError, match="another seed;"):
        sweep(classify, tmp_path, "100s", seed=1, say=silent, tools=Bench(FIGURES).tools)
    (tmp_path / "cnn" / "result.json").write_text("{")
    with pytest.raises(DataError, match=r"result\.json is damaged"):
        run(Bench(FIGURES), classify, tmp_path)


def test_a_budget_that_is_too_small_says_the_least(classify: Subject, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"12 s for each of 5 candidates.*--budget {5 * LEAST:.0f}s or more"):
        run(Bench(FIGURES), classify, tmp_path, "60s")
    assert shared(f"{5 * LEAST}s", candidates("classify")) == LEAST
    with pytest.raises(UsageError, match=r"train\.steps=5 is for weft advise to settle"):
        sweep(classify, tmp_path, "100s", settings=["train.steps=5"], say=silent, tools=Bench(FIGURES).tools)
    assert not any(tmp_path.iterdir())


def test_what_cannot_be_trained_is_left_out_and_said(classify: Subject, tmp_path: Path) -> None:
    bench = Bench(FIGURES)
    bench.poor = ("transformer", "bilstm")
    found = run(bench, classify, tmp_path)
    assert report.advise(found, tmp_path).best == "bigru"
    assert any(line.startswith("BiLSTM") and "–" in line for line in report.table(found))
    report.write(found, report.advise(found, tmp_path), tmp_path)
    assert "too short for this machine" in (tmp_path / "advise.html").read_text()
    bench.poor = NETWORKS
    with pytest.raises(TrainingError, match="No candidate could be trained within 100s"):
        run(bench, classify, tmp_path / "none")


def test_a_sweep_does_not_take_much_longer_than_its_budget(classify: Subject, tmp_path: Path) -> None:
    found = run(Bench(FIGURES, seconds=80.0), classify, tmp_path)
    assert [result.failed is None for result in found.results] == [True, True, False, False, False, True]
    assert found.seconds == 160 and "160 s of 100s" in (found.results[2].failed or "")
    clock = Clock()
    deadline = Deadline(10.0, clock)
    clock.now = 10.0
    deadline.after_step({"step": 4})
    clock.now += LATE
    with pytest.raises(TrainingError, match="only 4 steps were done in 10 s"):
        deadline.after_step({"step": 4})


def test_the_time_of_a_text_is_a_median_within_a_limit() -> None:
    clock, taken = Clock(), iter([9.0, 1.0, 2.0, 30.0, 1.0])

    def answer(text: str) -> None:
        clock.now += next(taken)

    assert median_milliseconds(answer, ["a"] * 9, limit=20.0, clock=clock) == 2000.0
    assert median_milliseconds(answer, [], clock=clock) == 0.0


@pytest.mark.parametrize(
    ("form", "asked", "error", "said"),
    [
        ("classify", "tag", UsageError, r"--task tag contradicts .* which holds classify"),
        ("span", None, UsageError, "holds span, and weft advise compares classify, tag, pairs, text"),
        (None, None, DataError, "is no finished data folder"),
    ],
)
def test_data_that_does_not_fit_is_refused(
    form: str | None, asked: str, error: type[Exception], said: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        subject(folders[form] if form else tmp_path, asked)


def stepwise(steps: int) -> Callable[..., dict[str, Any]]:
    """The trainer for so many steps, so that a test does not depend on the machine's speed."""

    def train(run: TrainRun, folder: Path, *, say: Any, hooks: Sequence[Any] = ()) -> dict[str, Any]:
        fixed = dataclasses.replace(run.train, budget=None, steps=steps)
        return session.train(dataclasses.replace(run, train=fixed), folder, say=say)

    return train


def real(of: Subject, out: Path, steps: int, *more: str) -> dict[str, Any]:
    settings = (*TINY, *more)
    found = sweep(of, out, "1h", settings=settings, say=silent, tools=Tools(train=stepwise(steps)))
    advice = report.advise(found, out, settings)
    record = report.write(found, advice, out)
    assert json.loads((out / "advise.json").read_text())["advice"]["chosen"] == advice.chosen
    page = (out / "advise.html").read_text()
    assert advice.sentence.zh in page and page.count("<svg") == 2 and "http" not in page.split("</svg>")[-1]
    return {one["key"]: one for one in record["candidates"]}


def test_a_real_network_beats_chance(
    classify: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tuple(one for one in candidates("classify") if one.key in ("cnn", "naive-bayes"))
    monkeypatch.setattr("weft.recipes.advise.sweep.candidates", lambda task: few)
    rows = real(classify, tmp_path, 24)
    assert rows["cnn"]["measured"]["quality"]["value"] > 0.75
    assert rows["naive-bayes"]["measured"]["quality"]["value"] > 0.9


@pytest.mark.slow
def test_a_real_sweep_of_classes(classify: Subject, tmp_path: Path) -> None:
    rows = real(classify, tmp_path, 24)
    assert set(rows) == {*NETWORKS, "naive-bayes"}
    assert max(rows[key]["measured"]["quality"]["value"] for key in ("cnn", "transformer")) > 0.75
    assert all(
        row["measured"]["milliseconds"] > 0 and row["measured"]["memory_bytes"] for row in rows.values()
    )
    assert all(rows[key]["steps"] == 24 and rows[key]["tokens_per_second"] > 0 for key in NETWORKS)


@pytest.mark.slow
def test_real_sweeps_of_spans_pairs_and_text(folders: dict[str, Path], tmp_path: Path) -> None:
    rows = real(subject(folders["tag"], "tag"), tmp_path / "tag", 40)
    assert rows["memory"]["measured"]["quality"]["value"] > 0.8
    assert rows["cnn"]["measured"]["quality"]["value"] > 0.6
    rows = real(subject(folders["pairs"], None), tmp_path / "pairs", 12)
    assert rows["copying"]["measured"]["quality"] is None
    assert 0 < rows["encdec"]["measured"]["quality"]["value"] < 10


@pytest.mark.slow
def test_a_real_sweep_of_text(data_folder: Path, tmp_path: Path) -> None:
    of = subject(data_folder, None, 64)
    rows = real(of, tmp_path, 12, "model.head_dim=16")
    assert len(rows) == 4 and all(row["measured"]["milliseconds"] > 0 for row in rows.values())
    assert all(0 < row["measured"]["quality"]["value"] < 12 for row in rows.values())


def test_the_verb_says_one_sentence(folders: dict[str, Path], tmp_path: Path) -> None:
    done = CliRunner().invoke(
        main, ["advise", "--data", str(folders["tag"]), "--budget", "9s", "--out", str(tmp_path)]
    )
    assert done.exit_code == 2 and "give --budget 100s or more" in done.output
