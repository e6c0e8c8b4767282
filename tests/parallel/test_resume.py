"""A run goes on from its checkpoint: on the same layout to the last bit, on another with the same data."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path

import pytest
import torch
from tests.parallel.ranks import Ranks

from weft.core import config
from weft.core.errors import Interrupted
from weft.core.files import hash_file
from weft.data.config import MixtureConfig
from weft.train import session
from weft.train.config import TrainRun

BASE = (
    "data.sequence_length=64", "model.hidden_size=32", "model.head_dim=16", "model.num_hidden_layers=2",
    "train.batch_tokens=512", "train.micro_rows=2", "train.steps=24", "train.save_steps=50",
    "train.validate_steps=50", "train.validate_rows=4", "train.ema=0.9", "train.arithmetic=fp32",
    "optimizer.name=adamw",
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


def train(data: Path, folder: Path, layout: str, mixed: bool, stop: int = 0) -> None:
    settings = [f"data.path={data}", *BASE, *(f"parallel.{part}" for part in filter(None, layout.split(",")))]
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
        size *= int(part.split("=")[1])
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


@pytest.mark.parametrize("layout", ["dp=2", "fsdp=2"])
def test_the_same_layout_goes_on_to_the_last_bit(
    data_folder: Path, two: Ranks, tmp_path: Path, layout: str
) -> None:
    start(layout, {2: two}, data_folder, tmp_path / "whole", layout, False)
    start(layout, {2: two}, data_folder, tmp_path / "stopped", layout, False, STOP)
    start(layout, {2: two}, data_folder, tmp_path / "stopped", layout, False)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


def check_way(way: list[str], ranks: dict[int, Ranks], data: Path, folder: Path, mixed: bool) -> None:
    """A run that changes its layout on the way has the losses of one process: same rows, same state."""
    start("", ranks, data, folder / "alone", "", mixed)
    for turn, layout in enumerate(way, 1):
        stop = STOP * turn if turn < len(way) else 0
        start(layout, ranks, data, folder / "moved", layout, mixed, stop)
    assert losses(folder / "moved") == pytest.approx(losses(folder / "alone"), rel=1e-3)


@pytest.mark.parametrize("mixed", [False, True])
def test_another_layout_reads_the_same_rows(
    data_folder: Path, two: Ranks, tmp_path: Path, mixed: bool
) -> None:
    check_way(["dp=2", "", "fsdp=2"], {2: two}, data_folder, tmp_path, mixed)


@pytest.mark.slow
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(
    "way",
    [
        ["dp=2", "fsdp=4", "dp=2,fsdp=2", ""],
        ["", "fsdp=2", "dp=4", "fsdp=2"],
    ],
    ids="/".join,
)
def test_two_to_four_to_one(
    data_folder: Path, two: Ranks, four: Ranks, tmp_path: Path, way: list[str], mixed: bool
) -> None:
    check_way(way, {2: two, 4: four}, data_folder, tmp_path, mixed)
