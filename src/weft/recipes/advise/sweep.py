"""The sweep: every candidate trained with an equal share of the budget and measured, once.

``OUT/sweep.json`` says of what it is, ``OUT/<candidate>/run`` is a training run like any other, and
``OUT/<candidate>/result.json`` is written when the candidate is finished, which is how a sweep goes on after
an interruption.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from weft.core import manifest
from weft.core.config import duration
from weft.core.errors import ConfigError, DataError, Interrupted, TrainingError, UsageError
from weft.core.files import disk_errors, write_text_atomic
from weft.data.schema import SHARDS
from weft.eval.compare import Estimate
from weft.recipes.advise import measure
from weft.recipes.advise.candidates import Candidate, Subject, candidates, check_settings, run_of
from weft.recipes.advise.measure import Measured
from weft.train.config import TrainRun
from weft.train.session import train

Say = Callable[[str], None]

LEAST = 20.0
"""Seconds of a candidate's share; in less there is nothing to compare."""
TRAINING = 0.75
"""Of a share is training; loading, validation and measuring take the rest."""
MEASURED = 1000.0
"""Tokens of the validation split that are measured for each second of a share."""
LATE = 1.5
"""So many times its share a training, and so many times its budget a sweep may take on a busy machine."""


class Train(Protocol):
    """:func:`weft.train.session.train`."""

    def __call__(self, run: TrainRun, folder: Path, *, say: Say, hooks: Sequence[Any] = ()) -> dict[str, Any]:
        """The manifest of the finished run."""
        ...


@dataclass(frozen=True)
class Tools:
    """What a sweep works with; tests put others in their place."""

    train: Train = train
    trained: Callable[[Subject, Candidate, Path], Measured] = measure.trained
    floor: Callable[[Subject, Candidate], Measured] = measure.floor
    clock: Callable[[], float] = time.perf_counter


@dataclass(frozen=True)
class Result:
    """What a candidate showed: ``measured``, or why there is nothing (``failed``).

    ``tokens_per_second`` and ``steps`` of its training, ``seconds`` of all its work; 0 for floors.
    """

    key: str
    measured: Measured | None
    tokens_per_second: float = 0.0
    steps: int = 0
    seconds: float = 0.0
    failed: str | None = None


@dataclass(frozen=True)
class Sweep:
    """Results in the order of the candidates; ``share``: seconds that each network had for training."""

    subject: Subject
    candidates: tuple[Candidate, ...]
    results: tuple[Result, ...]
    share: float
    seconds: float


def sweep(
    subject: Subject,
    out: Path,
    budget: str,
    *,
    seed: int = 0,
    settings: Sequence[str] = (),
    say: Say = print,
    tools: Tools | None = None,
) -> Sweep:
    """Train and measure the candidates of ``subject.task`` in ``out``, or go on with them.

    ``settings``: of the run file, for every candidate. Raises UsageError for a budget that is too small and
    settings that a sweep decides itself,
    ConfigError where ``out`` holds another sweep, Interrupted after saving when a signal came, and
    TrainingError when no candidate could be trained.
    """
    tools = tools or Tools()
    compared = candidates(subject.task)
    share = shared(budget, compared)
    check_settings(settings)
    _check_same(out, subject, budget, seed, settings)
    began = tools.clock()
    subject = dataclasses.replace(subject, most_tokens=round(MEASURED * share))
    results: list[Result] = []
    learners = [one.key for one in compared if not one.floor]
    for number, candidate in enumerate(compared, 1):
        done = _read(out, candidate)
        if done is None:
            left = share * sum(key not in {result.key for result in results} for key in learners)
            say(f"[{number}/{len(compared)}] {candidate.name.en}: about {_clock(left)} left")
            spent = sum(result.seconds for result in results)
            try:
                done = _late(candidate, spent, budget) or _one(
                    subject, candidate, out, share, seed, settings, tools
                )
            except Interrupted as error:
                raise Interrupted(
                    f"Interrupted at {candidate.name.en}, {number} of {len(compared)}; what is done is kept "
                    f"in {out}; run the same command again to continue."
                ) from error
            write_text_atomic(_file(out, candidate), json.dumps(asdict(done), indent=1) + "\n")
        results.append(done)
        say(f"[{number}/{len(compared)}] {candidate.name.en}: {_said(done)}")
    if not any(result.measured for result in results if result.key in learners):
        reasons = "; ".join(f"{r.key}: {r.failed}" for r in results if r.failed)
        raise TrainingError(f"No candidate could be trained within {budget} ({reasons}).")
    taken = sum(result.seconds for result in results)
    return Sweep(subject, compared, tuple(results), share * TRAINING, max(taken, tools.clock() - began))


def shared(budget: str, compared: Sequence[Candidate]) -> float:
    """Seconds for each network; UsageError where that is less than :data:`LEAST`."""
    count = sum(not one.floor for one in compared)
    share = duration(budget) / count
    if share < LEAST:
        raise UsageError(
            f"A budget of {budget} is {share:.0f} s for each of {count} candidates, and the least is "
            f"{LEAST:.0f} s; give --budget {math.ceil(LEAST * count)}s or more."
        )
    return share


class Deadline:
    """A hook that ends a training that takes much longer than it was foretold to."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds, self._clock, self._began = seconds, clock, clock()

    def after_step(self, record: dict[str, Any]) -> None:
        """TrainingError when time is over."""
        if self._clock() - self._began > self._seconds:
            raise TrainingError(
                f"only {record['step']} steps were done in {self._seconds:.0f} s, when the run "
                "had to be finished: the machine is busy with other work"
            )

    def close(self) -> None:
        """Nothing is open."""


def _late(candidate: Candidate, spent: float, budget: str) -> Result | None:
    """What is said of a network whose turn comes when the time of the whole sweep is over."""
    if candidate.floor or spent <= LATE * duration(budget):
        return None
    failed = (
        f"the candidates before it took {spent:.0f} s of {budget}, as the machine is busy with other work"
    )
    return Result(candidate.key, None, failed=failed)


def _one(
    subject: Subject,
    candidate: Candidate,
    out: Path,
    share: float,
    seed: int,
    settings: Sequence[str],
    tools: Tools,
) -> Result:
    began = tools.clock()
    if candidate.floor:
        measured = tools.floor(subject, candidate)
        return Result(candidate.key, measured, seconds=tools.clock() - began)
    seconds = TRAINING * share
    folder = out / candidate.key / "run"
    run = run_of(subject, candidate, seconds, seed, settings)
    try:
        hooks = [Deadline(LATE * share, tools.clock)]
        figures = tools.train(run, folder, say=_silent, hooks=hooks)["figures"]
    except TrainingError as error:
        return Result(candidate.key, None, seconds=tools.clock() - began, failed=str(error))
    measured = tools.trained(subject, candidate, folder)
    return Result(
        candidate.key,
        measured,
        tokens_per_second=figures["tokens_per_second"],
        steps=figures["steps"],
        seconds=tools.clock() - began,
    )


def _check_same(out: Path, subject: Subject, budget: str, seed: int, settings: Sequence[str]) -> None:
    """Note what the sweep is of; ConfigError where the folder holds another."""
    record = manifest.read(subject.folder / SHARDS) or {}
    now = {
        "data": record.get("outputs", {}),
        "task": subject.task,
        "length": subject.length,
        "budget": f"{duration(budget):g}s",
        "seed": seed,
        "settings": list(settings),
    }
    file = out / "sweep.json"
    if file.exists():
        before = _json(file)
        changed = [name for name in now if before.get(name) != now[name]]
        if changed:
            raise ConfigError(
                f"{out} holds a sweep with another {' and '.join(changed)}; give what it was begun with, or "
                "another --out."
            )
        return
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    write_text_atomic(file, json.dumps(now, indent=1) + "\n")


def _file(out: Path, candidate: Candidate) -> Path:
    folder = out / candidate.key
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "result.json"


def _read(out: Path, candidate: Candidate) -> Result | None:
    """The result of a finished candidate; DataError when its file is damaged."""
    file = _file(out, candidate)
    if not file.exists():
        return None
    table = _json(file)
    try:
        if table["measured"] is not None:
            quality = table["measured"]["quality"]
            table["measured"]["quality"] = None if quality is None else Estimate(**quality)
            table["measured"] = Measured(**table["measured"])
        return Result(**table)
    except (KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged ({error}); delete {file.parent} and run again.") from error


def _json(file: Path) -> dict[str, Any]:
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is damaged ({error}); delete {file.parent} and run again.") from error
    if not isinstance(table, dict):
        raise DataError(f"{file} is damaged; delete {file.parent} and run again.")
    return table


def _said(result: Result) -> str:
    if result.measured is None:
        return f"not measured: {result.failed}"
    quality = result.measured.quality
    figure = "" if quality is None else f"{quality.value:.4f} [{quality.low:.4f}, {quality.high:.4f}], "
    return f"{figure}{result.measured.milliseconds:.2f} ms a text, {result.seconds:.0f} s"


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60}:{whole % 60:02d} min"


def _silent(text: str) -> None:
    """What a single run has to say of itself stands in its folder."""
