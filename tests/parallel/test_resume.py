"""A run goes on from its checkpoint: on the same layout to the last bit, on another with the same data."""

from __future__ import annotations

import dataclasses
import errno
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.parallel.ranks import Ranks
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from weft.checkpoint import state as checkpoint
from weft.checkpoint.huggingface import load_model, save_model
from weft.core import config
from weft.core.errors import Interrupted, ResourceError
from weft.core.files import hash_file
from weft.data.config import MixtureConfig
from weft.models import Decoder
from weft.parallel import company
from weft.train import session
from weft.train.best import Best
from weft.train.config import TrainRun
from weft.train.saving import Progress

BASE = (
    "data.sequence_length=64", "model.hidden_size=32", "model.head_dim=16", "model.num_hidden_layers=2",
    "train.batch_tokens=512", "train.micro_rows=2", "train.steps=24", "train.save_steps=50",
    "train.validate_steps=50", "train.validate_rows=4", "train.ema=0.9", "train.arithmetic=fp32",
    # At the usual rate AdamW makes a difference of the last bit one of a percent within twenty steps.
    "optimizer.name=adamw", "optimizer.learning_rate=0.003",
)  # fmt: skip
EXPERTS = (
    "model.architecture=Qwen3MoeForCausalLM", "model.num_experts=4", "model.num_experts_per_tok=2",
    "model.moe_intermediate_size=16",
)  # fmt: skip
STOP = 4


class StopAt:
    """Rank 0 hears Ctrl-C during one step, and the others do not."""

    def __init__(self, step: int):
        self.step = step

    def after_step(self, record: dict) -> None:
        if record["step"] == self.step:
            signal.raise_signal(signal.SIGINT)

    def close(self) -> None:
        pass


def train(
    data: Path, folder: Path, layout: str, mixed: bool, stop: int = 0, shape: tuple[str, ...] = ()
) -> None:
    plan = (f"parallel.{part}" for part in filter(None, layout.split(",")))
    settings = [f"data.path={data}", *BASE, *shape, *plan]
    run = config.load(TrainRun, None, settings)
    if mixed:
        sources = (f"json = {data}#json/", f"rest = {data}")
        run = dataclasses.replace(run, mixture=MixtureConfig(sources, (0.5, 0.5)))
    hooks = [StopAt(stop)] if stop else []
    try:
        session.train(run, folder, say=lambda text: None, hooks=hooks)
        assert not stop
    except Interrupted as error:
        assert f"after step {stop} of" in str(error)


def start(layout: str, ranks: dict[int, Ranks], *arguments: object) -> None:
    """Train under a layout, as many ranks as it has."""
    size = 1
    for part in filter(None, layout.split(",")):
        size *= 1 if part.startswith("ep=") else int(part.split("=")[1])
    if size == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        train(*arguments)  # type: ignore[arg-type]
        torch.set_num_threads(threads)
    else:
        ranks[size].run(train, *arguments)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> str:
    return hash_file(folder / "model" / "model.safetensors")


@pytest.mark.parametrize("layout", ["fsdp=2", pytest.param("tp=2", marks=pytest.mark.slow), "pp=2"])
def test_the_same_layout_goes_on_to_the_last_bit(
    data_folder: Path, two: Ranks, tmp_path: Path, layout: str
) -> None:
    start(layout, {2: two}, data_folder, tmp_path / "whole", layout, False)
    start(layout, {2: two}, data_folder, tmp_path / "stopped", layout, False, STOP)
    start(layout, {2: two}, data_folder, tmp_path / "stopped", layout, False)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


def check_way(
    way: list[str],
    ranks: dict[int, Ranks],
    data: Path,
    folder: Path,
    mixed: bool,
    shape: tuple[str, ...] = (),
) -> None:
    """A run that changes its layout on the way has the losses of one process: same rows, same state."""
    start("", ranks, data, folder / "alone", "", mixed, 0, shape)
    for turn, layout in enumerate(way, 1):
        stop = STOP * turn if turn < len(way) else 0
        start(layout, ranks, data, folder / "moved", layout, mixed, stop, shape)
    assert losses(folder / "moved") == pytest.approx(losses(folder / "alone"), rel=1e-5)


@pytest.mark.parametrize("mixed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_another_layout_reads_the_same_rows(
    data_folder: Path, two: Ranks, tmp_path: Path, mixed: bool
) -> None:
    check_way(["fsdp=2", "tp=2", "pp=2", ""], {2: two}, data_folder, tmp_path, mixed)


def check_model(one: Path, other: Path) -> None:
    """Both folders hold one model, experts by name; nothing is far from the other's."""
    left, right = (load_model(folder / "model").state_dict() for folder in (one, other))
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(right[name], tensor, rtol=0, atol=1e-4, msg=name)


def test_experts_move_from_rank_to_rank(data_folder: Path, two: Ranks, tmp_path: Path) -> None:
    way = ["dp=2,ep=2", "fsdp=2", "fsdp=2,ep=2", "", "dp=2,ep=2"]
    check_way(way, {2: two}, data_folder, tmp_path, False, EXPERTS)
    check_model(tmp_path / "alone", tmp_path / "moved")


@pytest.mark.slow
def test_experts_move_between_two_ranks_and_four(
    data_folder: Path, two: Ranks, four: Ranks, tmp_path: Path
) -> None:
    way = ["dp=2,fsdp=2,ep=2", "dp=2,ep=2", "pp=2,dp=2,ep=2", "fsdp=4,ep=4", "dp=2,tp=2,ep=2"]
    check_way(way, {2: two, 4: four}, data_folder, tmp_path, False, EXPERTS)
    check_model(tmp_path / "alone", tmp_path / "moved")


@pytest.mark.slow
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(
    "way",
    [
        ["dp=2", "fsdp=4", "dp=2,fsdp=2", ""],
        ["", "tp=2,pp=2", "cp=2", "fsdp=2,tp=2"],
        ["pp=2,fsdp=2", "dp=2,tp=2", "pp=2", "fsdp=4"],
    ],
    ids="/".join,
)
def test_two_to_four_to_one(
    data_folder: Path, two: Ranks, four: Ranks, tmp_path: Path, way: list[str], mixed: bool
) -> None:
    check_way(way, {2: two, 4: four}, data_folder, tmp_path, mixed)


def start_from(data: Path, model: Path, folder: Path, layout: str) -> None:
    settings = (f"data.path={data}", *BASE, f"model.start={model}", "train.steps=4", f"parallel.{layout}")
    session.train(config.load(TrainRun, None, settings), folder, say=lambda text: None)


@pytest.mark.parametrize("layout", ["fsdp=2", "tp=2", pytest.param("pp=2", marks=pytest.mark.slow)])
def test_a_run_starts_from_a_model_that_no_rank_reads_whole(
    data_folder: Path, two: Ranks, tmp_path: Path, layout: str, tiny_decoder: Callable[..., Decoder]
) -> None:
    for tied in (True, False):
        model, alone, spread = (tmp_path / f"{name}-{tied}" for name in ("model", "alone", "spread"))
        save_model(model, tiny_decoder(tie_word_embeddings=tied), None)
        start_from(data_folder, model, alone, "dp=1")
        two.run(start_from, data_folder, model, spread, layout)
        assert losses(spread) == pytest.approx(losses(alone), rel=1e-4)
        assert load_model(spread).config == load_model(alone).config


def train_on_a_full_disk(data: Path, folder: Path) -> str:
    """Rank 1 has no space left at the second of three saves."""
    plain, calls = FileSystemWriter.write_data, []

    def full(self: FileSystemWriter, *arguments: object) -> object:
        calls.append(1)
        if dist.get_rank() == 1 and len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(self, *arguments)

    FileSystemWriter.write_data = full  # type: ignore[assignment, method-assign]
    run = config.load(TrainRun, None, [f"data.path={data}", *BASE, "train.save_steps=8", "parallel.dp=2"])
    try:
        with pytest.raises(ResourceError) as found:
            session.train(run, folder, say=lambda text: None)
    finally:
        FileSystemWriter.write_data = plain  # type: ignore[method-assign]
    return str(found.value)


def test_a_disk_full_on_one_rank_stops_all_and_loses_no_earlier_checkpoint(
    data_folder: Path, two: Ranks, tmp_path: Path
) -> None:
    for text in two.run(train_on_a_full_disk, data_folder, tmp_path):
        assert text.startswith("Rank 1 of 2: Could not write") and "no disk space left" in text
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000008"]


def train_with_slow_saves(data: Path, folder: Path) -> list[str]:
    """Rank 0 is slow to write what is saved beside training; returns what was kept for being the best."""
    plain, patience, kept = FileSystemWriter.write_data, company.TIMEOUT, []
    better = Best.after_validation

    def slow(self: FileSystemWriter, *arguments: object) -> object:
        if threading.current_thread().name == "saver" and dist.get_rank() == 0:
            time.sleep(1)
        return plain(self, *arguments)

    def noted(self: Best, record: dict, progress: Progress) -> None:
        better(self, record, progress)
        kept.append(checkpoint.newest(self.saver.folder).name)  # type: ignore[union-attr]

    FileSystemWriter.write_data = slow  # type: ignore[assignment, method-assign]
    Best.after_validation = noted  # type: ignore[method-assign]
    # Ranks that wait for each other are an error soon.
    company.TIMEOUT = timedelta(seconds=60)
    more = ("train.steps=6", "train.save_steps=2", "train.validate_steps=1", "train.best=validation_loss")
    try:
        run = config.load(TrainRun, None, [f"data.path={data}", *BASE, *more, "parallel.dp=2"])
        session.train(run, folder, say=lambda text: None)
    finally:
        FileSystemWriter.write_data, company.TIMEOUT = plain, patience  # type: ignore[method-assign]
        Best.after_validation = better  # type: ignore[method-assign]
    return kept


def test_the_best_is_kept_while_another_save_is_under_way(
    data_folder: Path, two: Ranks, tmp_path: Path
) -> None:
    kept = two.run(train_with_slow_saves, data_folder, tmp_path)
    # After steps 3 and 5 that of the step before is still being written.
    assert kept == [[f"step-0000000{step}" for step in range(1, 7)]] * 2
    for name, step in (("checkpoints", 6), ("best", 6)):
        newest = checkpoint.newest(tmp_path / name)
        assert newest is not None and checkpoint.verify(newest)[0] == step


SLOW_DISK = """
import sys, time
from pathlib import Path
from weft.checkpoint import state
from weft.cli.main import main

write, calls = state._write, []

def slow(*arguments):
    calls.append(1)
    write(*arguments)
    if len(calls) == 2:
        # Between the shards and state.json, while training goes on.
        reached.touch()
        time.sleep(600)

state._write = slow
reached = Path(sys.argv.pop())
main()
"""


def test_a_kill_during_a_save_leaves_the_earlier_checkpoint(data_folder: Path, tmp_path: Path) -> None:
    run, reached = tmp_path / "run", tmp_path / "reached"
    settings = [*(s for s in BASE if not s.startswith("train.save")), "train.save_steps=4"]
    command = [sys.executable, "-c", SLOW_DISK, "train", *settings, "--data", str(data_folder)]
    process = subprocess.Popen([*command, "--out", str(run), str(reached)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not reached.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    # Steps go on while the disk is slow, for a fifth of the way to the next save; then they wait.
    while len(losses(run)) < 9 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert len(losses(run)) == 9
    assert [path.name for path in sorted((run / "checkpoints").glob("step-*"))] == ["step-00000004"]
    again = [sys.executable, "-m", "weft", "train", *settings, "--data", str(data_folder)]
    for out in (run, tmp_path / "whole"):
        subprocess.run([*again, "--out", str(out)], check=True, capture_output=True)
    assert losses(run) == losses(tmp_path / "whole")
    assert weights(run) == weights(tmp_path / "whole")
