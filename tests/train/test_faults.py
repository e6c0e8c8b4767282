"""Faults of one rank: who is to blame, what is reported, what a tester can provoke."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from weft.core.errors import TrainingError, UsageError
from weft.parallel.world import World
from weft.train.faults import beat, report, spot
from weft.train.faults.beat import Beat
from weft.train.faults.guard import guarded, refuse_again, watchers
from weft.train.faults.inject import VARIABLE, Injected, injector
from weft.train.faults.spot import Stillness, spot_of
from weft.train.faults.verdict import judge

WAITING = {"collective": "all_reduce", "place": "parallel/data.py:30 sum_gradients"}


def beats(*changes: dict[str, object], step: int = 5) -> dict[int, Beat]:
    """A heartbeat a rank, all waiting in one collective but for the ``changes``."""
    return {
        rank: Beat(**{"rank": rank, "round": "r", "step": step, "count": 1, **WAITING, **change})  # type: ignore[arg-type]
        for rank, change in enumerate(changes)
    }


def later(found: dict[int, Beat], *silent: int) -> dict[int, Beat]:
    """The same a moment later, without progress of the ``silent``."""
    return {rank: replace(b, count=b.count + (rank not in silent)) for rank, b in found.items()}


def test_a_dead_process_is_to_blame() -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    found = beats({}, {"process": dead.pid}, {})
    verdict = judge(found[0], 3, found, later(found))
    assert verdict.ranks == (1,) and verdict.kind == "lost" and verdict.collective == "all_reduce"
    assert verdict.sentence == (
        f"Step 5: rank 1 ({beat.HERE}, process {dead.pid}) was lost while ranks 0, 2 waited in "
        "all_reduce (parallel/data.py:30 sum_gradients)"
    )


def test_a_silent_host_is_to_blame() -> None:
    found = beats({}, {}, {"host": "far"}, {"host": "far"})
    assert judge(found[0], 4, found, later(found, 2)).ranks == (2,)
    assert judge(found[0], 4, found, later(found)).kind == "hung"


def test_a_rank_that_never_began_is_to_blame() -> None:
    found = beats({}, {})
    verdict = judge(found[0], 4, found, later(found))
    assert verdict.ranks == (2, 3) and "ranks 2, 3 never began" in verdict.sentence


def test_the_rank_outside_of_the_collective_is_to_blame() -> None:
    found = beats({}, {"collective": "", "place": "data/loader.py:8 gather"}, {})
    verdict = judge(found[2], 3, found, later(found))
    assert verdict.ranks == (1,) and verdict.kind == "hung"
    assert "stands in data/loader.py:8 gather while ranks 0, 2 waited in all_reduce" in verdict.sentence


def test_the_rank_in_another_collective_is_to_blame() -> None:
    found = beats({}, {"collective": "broadcast"}, {})
    verdict = judge(found[0], 3, found, later(found))
    assert verdict.ranks == (1,) and "rank 1" in verdict.sentence and "waits in broadcast" in verdict.sentence
    behind = beats({}, {}, {"step": 4})
    assert judge(behind[0], 3, behind, later(behind)).ranks == (2,)


def test_the_network_is_to_blame_when_all_wait_alike() -> None:
    found = beats({}, {})
    verdict = judge(found[0], 2, found, later(found))
    assert verdict.ranks == (0, 1) and "look at the network" in verdict.sentence


def test_a_rank_that_said_why_it_ended_is_quoted() -> None:
    found = beats({}, {"ended": "no disk space left"})
    verdict = judge(found[0], 2, found, later(found))
    assert verdict.ranks == (1,) and verdict.kind == "failed" and "no disk space left" in verdict.sentence


def test_many_ranks_make_a_short_sentence() -> None:
    found = beats(*({} for _ in range(64)), {"collective": ""})
    assert (
        "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 56 more waited" in judge(found[0], 65, found, later(found)).sentence
    )


def test_heartbeats_are_read_back_and_old_ones_left_out(tmp_path: Path) -> None:
    own, old = Beat(0, "now", step=3, place="a"), Beat(1, "before")
    own.write(tmp_path)
    old.write(tmp_path)
    (tmp_path / "rank-00007.json").write_text("{")
    assert beat.read(tmp_path, "now") == {0: own}
    own.write(tmp_path / "gone")


def test_a_spot_is_our_line_and_the_collective() -> None:
    found = spot_of(sys._getframe())
    assert found.collective == "" and str(found) == "code that is not ours"
    seen: list[str] = []
    loader = type("L", (), {"gather": lambda self: seen.append(str(spot_of(sys._getframe(1))))})()
    loader.gather()
    assert seen == ["code that is not ours"]


def test_standing_still_is_seen_and_working_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, still = threading.Event(), Stillness()
    found: list[float] = []

    def watch() -> None:
        still.look()
        began = spot.time.monotonic()
        while spot.time.monotonic() - began < 0.6:
            time.sleep(0.05)
            found.append(still.look())
        gate.set()

    thread = threading.Thread(target=watch)
    thread.start()
    gate.wait()
    thread.join()
    assert max(found) > 0.3
    gate.clear()
    found.clear()
    # By the seconds that this process gets: on a busy machine it works for less than a tenth of the others.
    clocks = {"monotonic": time.process_time, "clock_gettime": time.clock_gettime}
    monkeypatch.setattr(
        spot, "time", SimpleNamespace(**clocks, pthread_getcpuclockid=time.pthread_getcpuclockid)
    )
    still = Stillness()
    thread = threading.Thread(target=watch)
    thread.start()
    while not gate.is_set():
        sum(range(10_000))
    thread.join()
    assert max(found) < 0.3


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """This process as an agent would have started it; the error file that torchrun would read."""
    handler = signal.getsignal(signal.SIGTERM)
    for name, value in (
        ("TORCHELASTIC_RUN_ID", "run"),
        ("TORCHELASTIC_RESTART_COUNT", "0"),
        ("MASTER_ADDR", "localhost"),
        ("MASTER_PORT", "1"),
        ("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json")),
    ):
        monkeypatch.setenv(name, value)
    yield tmp_path / "error.json"
    # A rank that has failed hears no SIGTERM any more; this process goes on.
    signal.signal(signal.SIGTERM, handler)


ALONE = World(0, 1, 0, 1, torch.device("cpu"))


def read(folder: Path) -> dict:
    return json.loads((folder / report.NAME).read_text())


def test_an_error_is_reported_and_not_tried_again(
    started: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainingError, match="NaN"), guarded(tmp_path, ALONE, 60.0) as guard:
        assert guard is not None
        guard.begin(6)
        raise TrainingError("Step 7: NaN.", ranks=(1,))
    found = read(tmp_path)
    assert found["sentence"] == "Step 7: NaN." and found["final"] and found["ranks"] == [1]
    assert found["step"] == 7 and found["run"] == "run" and "test_faults" in found["trace"]
    assert json.loads(started.read_text())["message"]["message"] == "Step 7: NaN."
    # The agent starts it again all the same: it ends at once, with the same words.
    refuse_again(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setenv("MASTER_PORT", "2")
    with pytest.raises(TrainingError, match=r"^Step 7: NaN\.$"):
        refuse_again(tmp_path)
    # A new run in the folder is not refused for what ended the last one.
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
    refuse_again(tmp_path)


def test_what_nobody_foresaw_keeps_its_trace_and_is_tried_again(started: Path, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), guarded(tmp_path, ALONE, 60.0):
        print(1 // 0)
    found = read(tmp_path)
    assert not found["final"] and "rank 0 failed" in found["sentence"] and "division" in found["sentence"]
    assert "ZeroDivisionError" in found["trace"]


def test_the_report_comes_before_the_signal_to_stop(started: Path, tmp_path: Path) -> None:
    """The agent stops all ranks as soon as one has ended, also those that are about to say why."""
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), guarded(tmp_path, ALONE, 60.0):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is handler and not (tmp_path / report.NAME).exists()
    with pytest.raises(TrainingError, match="NaN"), guarded(tmp_path, ALONE, 60.0):
        try:
            raise TrainingError("NaN")
        finally:
            signal.raise_signal(signal.SIGTERM)
    assert read(tmp_path)["sentence"] == "NaN"


def test_the_first_report_of_a_start_stays(started: Path, tmp_path: Path) -> None:
    first, second = (report.Fault("failed", (r,), 3, "", f"rank {r}", False, r) for r in (1, 0))
    assert first.write(tmp_path, []) and not second.write(tmp_path, [])
    assert read(tmp_path)["sentence"] == "rank 1"


def test_without_an_agent_nothing_is_written(tmp_path: Path) -> None:
    with guarded(tmp_path, ALONE, 60.0) as guard:
        assert guard is None
    assert list(tmp_path.iterdir()) == []


HANGS = """
import sys, time
from pathlib import Path
import torch
from weft.parallel.world import World
from weft.train.faults.guard import guarded
with guarded(Path(sys.argv[1]), World(0, 1, 0, 1, torch.device("cpu")), 1.0) as guard:
    guard.begin(4)
    time.sleep(600)
"""


def test_a_hang_ends_the_process_with_a_report(started: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ},
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    found = read(tmp_path)
    assert found["kind"] == "hung" and found["step"] == 5 and not found["final"]
    assert done.stderr == f"weft: {found['sentence']}\n"
    assert (
        "time.sleep" in (tmp_path / "faults" / "stacks-rank-0.txt").read_text()
        or "line 9" in (tmp_path / "faults" / "stacks-rank-0.txt").read_text()
    )


def test_faults_to_inject_are_read() -> None:
    assert Injected.parse("kill@rank=1,step=5") == Injected("kill", 1, 5)
    assert Injected.parse(" slow@step=2,seconds=0.5 ") == Injected("slow", 0, 2, 0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("explode@rank=1", "is no fault; choose one of: kill"),
        ("kill@rank=x", "none of rank=N"),
        ("kill@when=1", "none of"),
    ],
)
def test_a_fault_that_cannot_be_read_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Injected.parse(text)


def test_a_fault_strikes_its_rank_in_its_step_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = nn.Linear(2, 2)
    x = torch.ones(1, 2)
    assert injector(0, module, tmp_path) is None
    monkeypatch.setenv(VARIABLE, "nan@rank=1,step=2;nan-gradient@rank=1,step=3")
    assert watchers(None, 0, module, tmp_path, 0) == []
    (hook,) = watchers(None, 1, module, tmp_path, 0)
    assert module(x).isfinite().all()
    hook.after_step({"step": 1})
    assert module(x).isnan().all() and module(x).isnan().all()
    hook.after_step({"step": 2})
    out = module(x)
    out.sum().backward()
    assert out.isfinite().all() and module.weight.grad is not None and module.weight.grad.isnan().all()
    hook.after_step({"step": 3})
    assert module(x).isfinite().all()
    hook.close()
    # After a restart from step 1 the same fault does not come again.
    watchers(None, 1, module, tmp_path, 1)
    assert module(x).isfinite().all()
