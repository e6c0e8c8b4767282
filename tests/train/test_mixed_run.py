"""Training on a mixture: exact resume, a change on the way, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path

import numpy as np
import pytest

from weft.core import config
from weft.core.errors import ConfigError, DataError, Interrupted
from weft.core.files import hash_file
from weft.data.ahead import Ahead
from weft.data.batch import Batch
from weft.data.config import MixtureConfig
from weft.data.loader import Loader
from weft.train import rows, session
from weft.train.config import TrainRun

BASE = (
    "data.sequence_length=64", "model.hidden_size=32", "model.head_dim=16", "model.num_hidden_layers=1",
    "train.batch_tokens=256", "train.micro_rows=3", "train.steps=8", "train.save_steps=4",
    "train.validate_steps=8", "train.validate_rows=4",
)  # fmt: skip


class StopAt:
    """A hook that behaves like Ctrl-C during one step."""

    def __init__(self, step: int):
        self.step = step

    def after_step(self, record: dict) -> None:
        if record["step"] == self.step:
            signal.raise_signal(signal.SIGINT)

    def close(self) -> None:
        pass


def make_run(data_folder: Path, weights: tuple[float, float]) -> TrainRun:
    run = config.load(TrainRun, None, [f"data.path={data_folder}", *BASE])
    sources = (f"json = {data_folder}#json/", f"rest = {data_folder}")
    return dataclasses.replace(run, mixture=MixtureConfig(sources, weights))


def train(run: TrainRun, folder: Path, **options: object) -> dict:
    return session.train(run, folder, say=lambda text: None, **options)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> str:
    return hash_file(folder / "model" / "model.safetensors")


def test_a_mixture_resumes_bit_for_bit_and_may_be_changed(data_folder: Path, tmp_path: Path) -> None:
    first, second = make_run(data_folder, (0.5, 0.5)), make_run(data_folder, (0.1, 0.9))
    train(first, tmp_path / "whole")
    for name, then in (("resumed", first), ("changed", second)):
        with pytest.raises(Interrupted):
            train(first, tmp_path / name, hooks=[StopAt(4)])
        train(then, tmp_path / name)
    assert weights(tmp_path / "resumed") == weights(tmp_path / "whole")
    assert weights(tmp_path / "changed") != weights(tmp_path / "whole")
    steps = [losses(tmp_path / "whole"), losses(tmp_path / "changed")]
    assert steps[0][:4] == steps[1][:4] and steps[0][4:] != steps[1][4:]
    assert [step for step, _ in rows.history(tmp_path / "changed")] == [0, 4]
    assert train(second, tmp_path / "changed")["figures"]["steps"] == 8
    with pytest.raises(ConfigError, match="finished run of another mixture"):
        train(first, tmp_path / "changed")


def test_sources_stay_and_a_mixture_must_last(data_folder: Path, tmp_path: Path) -> None:
    run = make_run(data_folder, (0.5, 0.5))
    with pytest.raises(Interrupted):
        train(run, tmp_path / "run", hooks=[StopAt(4)])
    other = dataclasses.replace(run, mixture=MixtureConfig((f"other = {data_folder}",)))
    with pytest.raises(ConfigError, match="cannot change during a run"):
        train(other, tmp_path / "run")
    one = MixtureConfig((f"json = {data_folder}#json/",), epochs=(0.1,))
    short = dataclasses.replace(run, mixture=one)
    with pytest.raises(DataError, match="used up after"):
        train(short, tmp_path / "short")
    (tmp_path / "run" / "mixture.json").write_text("{")
    with pytest.raises(DataError, match=r"mixture\.json is damaged"):
        train(run, tmp_path / "run")


class Counting:
    """A loader that notes what is gathered, and fails when told to."""

    def __init__(self, loader: Loader) -> None:
        self.loader, self.batch_rows, self.asked, self.broken = loader, loader.batch_rows, [], False

    def gather(self, samples: range) -> Batch:
        if self.broken:
            raise DataError("the store is gone")
        self.asked.append(samples)
        return self.loader.gather(samples)


def test_what_was_foreseen_is_the_same_and_never_much(data_folder: Path) -> None:
    plain = Loader(data_folder / "shards", "train", 64, 8, seed=2)
    counting = Counting(plain)
    ahead = Ahead(counting, 3)
    for first, stop in ((0, 3), (3, 6), (6, 8), (8, 11), (40, 43), (43, 46)):
        assert np.array_equal(
            ahead.gather(range(first, stop)).tokens, plain.gather(range(first, stop)).tokens
        )
        assert len(ahead._ready) <= 2
        assert first > 8 or counting.asked.count(range(first, stop)) == 1
    counting.broken = True
    with pytest.raises(DataError, match="store is gone"):
        ahead.gather(range(100, 103))
    ahead.close()
