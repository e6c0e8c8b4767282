"""Runs over several processes that are killed, hung, poisoned and starved on purpose, as users start them.

Whatever happens, the same command ends with the very weights of a run that nothing happened to, no more than
the save interval is done again, and every fault has a report that names rank, step and collective.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from weft.core.files import hash_file
from weft.train.faults.inject import Injected

SAVE_STEPS = 2
BASE = (
    "data.sequence_length=64", "model.hidden_size=32", "model.head_dim=16", "model.num_hidden_layers=2",
    "train.batch_tokens=512", "train.micro_rows=1", "train.steps=12", f"train.save_steps={SAVE_STEPS}",
    "train.validate_steps=6", "train.validate_rows=8", "train.arithmetic=fp32", "train.timeout=20s",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run folder that is started with faults until it is done."""

    data: Path
    folder: Path
    plan: str
    changes: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def start(self, faults: str = "") -> subprocess.CompletedProcess[str]:
        """`weft launch` to its end, with ``faults`` injected."""
        return subprocess.run(
            [
                sys.executable, "-m", "weft", "launch", "--restarts", "8", *self.options,
                "--", "train", *BASE, *self.changes, "--data", str(self.data),
                "--parallel", self.plan, "--out", str(self.folder),
            ],
            capture_output=True, text=True, check=False, timeout=900,
            env={**os.environ, "OMP_NUM_THREADS": "1", "WEFT_FAULT": faults},
        )  # fmt: skip

    @property
    def weights(self) -> str:
        """The hash of the finished model."""
        return hash_file(self.folder / "model" / "model.safetensors")

    @property
    def losses(self) -> list[float]:
        """One a step."""
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    @property
    def counted(self) -> list[int]:
        """Target tokens of each step, over all ranks."""
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["tokens"] for line in lines]

    def reports(self) -> list[dict]:
        """Every fault reported so far, in the order of the starts that they ended."""
        found = [json.loads(file.read_text()) for file in (self.folder / "faults").glob("weft-*.json")]
        return sorted(found, key=lambda report: (report["attempt"], report["written"]))

    def continued(self) -> list[int]:
        """After which step each restart went on, the first start left out."""
        logs = sorted(
            (self.folder / "logs").glob("weft-*/attempt_*/0/stderr.log"), key=lambda f: f.stat().st_mtime
        )
        said = [re.findall(r"continuing after step (\d+) of", log.read_text()) for log in logs]
        return [int(found[0]) for found in said if found]


@pytest.fixture(scope="module")
def undisturbed(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """Finished runs by plan, made when first asked for."""

    @functools.cache
    def whole(plan: str) -> Run:
        run = Run(data_folder, tmp_path_factory.mktemp("whole"), plan)
        done = run.start()
        assert done.returncode == 0, done.stderr
        return run

    return whole


def same(run: Run, other: Run) -> None:
    assert run.weights == other.weights
    assert run.losses == other.losses and len(run.losses) == 12


RESTARTED = [
    ("dp=2", "kill@rank=1,step=3;hang@rank=0,step=5;kill@rank=0,step=8;slow@step=9;hang@rank=1,step=11"),
    ("fsdp=2", "hang@rank=1,step=2;kill@rank=0,step=4;kill@rank=1,step=7;kill@rank=1,step=12"),
    ("dp=2,fsdp=2", "kill@rank=2,step=3;hang@rank=3,step=6;kill@rank=0,step=9;hang@rank=1,step=11"),
    ("dp=4", "kill@rank=3,step=1;kill@rank=1,step=6;hang@rank=2,step=10"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("plan", "faults"), RESTARTED)
def test_killed_and_hung_ranks_restart_by_themselves(
    data_folder: Path, tmp_path: Path, undisturbed: Callable[[str], Run], plan: str, faults: str
) -> None:
    run = Run(data_folder, tmp_path / "run", plan, ("train.async_save=false",))
    done = run.start(faults)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    same(run, undisturbed(plan))
    struck = [fault for fault in map(Injected.parse, faults.split(";")) if fault.kind != "slow"]
    assert [(report["ranks"], report["step"]) for report in run.reports()] == [
        ([f.rank], f.step) for f in struck
    ]
    for report, fault in zip(run.reports(), struck, strict=True):
        assert report["kind"] == {"kill": "lost", "hang": "hung"}[fault.kind]
        assert report["collective"] and not report["final"]
        assert f"rank {fault.rank} " in report["sentence"] and f"Step {fault.step}: " in report["sentence"]
    # With checkpoints written in between the steps, each restart goes on from the last one there can be.
    kept = [(fault.step - 1) // SAVE_STEPS * SAVE_STEPS for fault in struck]
    assert run.continued() == [step for step in kept if step]


STOPPED = [
    ("dp=2", ["nan@rank=1,step=3", "nan-gradient@rank=0,step=6", "disk@rank=1,step=8", "disk@step=10"]),
    ("fsdp=2", ["nan-gradient@rank=1,step=5", "disk@rank=1,step=6", "nan@rank=0,step=11"]),
    ("dp=2,fsdp=2", ["nan@rank=3,step=4", "disk@rank=2,step=6"]),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("plan", "faults"), STOPPED)
def test_poisoned_and_starved_ranks_stop_all_and_are_named(
    data_folder: Path, tmp_path: Path, undisturbed: Callable[[str], Run], plan: str, faults: list[str]
) -> None:
    run = Run(data_folder, tmp_path / "run", plan)
    for text in faults:
        fault = Injected.parse(text)
        done = run.start(text)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        sentence = done.stderr.strip().splitlines()[-1]
        report = json.loads((run.folder / "report-fault.json").read_text())
        assert report["ranks"] == [fault.rank] and report["final"]
        assert sentence == f"weft: {report['sentence']}"
        kept = sorted(path.name for path in (run.folder / "checkpoints").glob("step-*"))
        assert not list((run.folder / "checkpoints").glob(".*partial"))
        if fault.kind == "disk":
            assert f"Rank {fault.rank} of" in sentence and "no disk space left" in sentence
            assert f"step-{fault.step:08d}" not in kept
        else:
            assert (
                f"Step {fault.step}: the loss became" in sentence
                and f"first in rank {fault.rank};" in sentence
            )
            assert report["step"] == fault.step
    done = run.start()
    assert done.returncode == 0, done.stderr
    same(run, undisturbed(plan))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nodes_that_die_come_back(
    data_folder: Path, tmp_path: Path, undisturbed: Callable[[str], Run]
) -> None:
    """Two agents, the second killed with its process and then the first, at which the agents meet."""
    options = ("--hosts", "localhost,localhost", "--rejoin", "1")
    run = Run(data_folder, tmp_path / "run", "dp=2", options=options)
    done = run.start("node@rank=1,step=4;node@rank=0,step=9")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    same(run, undisturbed("dp=2"))
    assert [report["ranks"] for report in run.reports()] in ([[1], [0]], [[0], [1]])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_nodes_shrink_to_one_and_grow_again(data_folder: Path, tmp_path: Path) -> None:
    """The rows of every step stay the same, so the losses do too, but for the order of sums.

    Rounding grows with the steps and with the learning rate, so this one is small.
    """
    length = ("train.steps=120", "train.validate_steps=60", "train.save_steps=20", "train.timeout=60s")
    length += ("optimizer.name=adamw", "optimizer.learning_rate=0.001")
    whole = Run(data_folder, tmp_path / "whole", "dp=2", length)
    assert whole.start().returncode == 0
    options = ("--hosts", "localhost,localhost", "--min-nodes", "1", "--rejoin", "50")
    slow = ";".join(f"slow@rank=0,step={step},seconds=1" for step in range(41, 80))
    run = Run(data_folder, tmp_path / "run", "dp=2", (*length, "train.elastic=dp"), options)
    done = run.start("node@rank=1,step=40;" + slow)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    sizes = [
        2 if "; 2 processes" in line else 1
        for line in done.stderr.splitlines()
        if line.startswith("machine:")
    ]
    assert sizes == [2, 1, 2]
    assert run.counted == whole.counted
    assert run.losses == pytest.approx(whole.losses, rel=1e-3)
