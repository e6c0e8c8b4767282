"""A run as users start it: exact resume, honest refusals, nothing half-written."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from weft.checkpoint import state as checkpoint
from weft.checkpoint.huggingface import load_model
from weft.core import config
from weft.core.errors import (
    CheckpointError,
    ConfigError,
    Interrupted,
    ResourceError,
    TrainingError,
    WeftError,
)
from weft.core.files import hash_file
from weft.train import session
from weft.train.config import TrainRun
from weft.train.objectives.pretrain import Pretrain

BASE = (
    "data.sequence_length=64", "model.hidden_size=32", "model.head_dim=16", "model.num_hidden_layers=2",
    "train.batch_tokens=256", "train.micro_rows=2", "train.steps=12", "train.save_steps=4",
    "train.validate_steps=6", "train.validate_rows=4", "train.ema=0.9",
)  # fmt: skip


def make_run(data_folder: Path, *changes: str) -> TrainRun:
    return config.load(TrainRun, None, [f"data.path={data_folder}", *BASE, *changes])


def train(run: TrainRun, folder: Path, **options: object) -> dict:
    return session.train(run, folder, say=lambda text: None, **options)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> str:
    return hash_file(folder / "model" / "model.safetensors")


class StopAt:
    """A hook that behaves like Ctrl-C during one step."""

    def __init__(self, step: int):
        self.step = step

    def after_step(self, record: dict) -> None:
        if record["step"] == self.step:
            signal.raise_signal(signal.SIGINT)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def whole(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run that others are compared with."""
    folder = tmp_path_factory.mktemp("whole")
    train(make_run(data_folder), folder)
    return folder


def test_the_loss_falls_and_the_record_is_complete(whole: Path) -> None:
    found = losses(whole)
    assert len(found) == 12 and found[-1] < found[0] - 0.3
    last = json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])
    for key in ("learning_rate", "tokens_per_second", "peak_share", "gradient_norm", "memory_bytes"):
        assert last[key] > 0
    assert last["validation_loss"] > 0
    assert list((whole / "tensorboard").glob("events*"))
    assert load_model(whole).config.architecture == "Qwen3ForCausalLM"


def test_interrupted_and_continued_is_bit_identical(data_folder: Path, whole: Path, tmp_path: Path) -> None:
    run = make_run(data_folder)
    for step in (3, 9):
        with pytest.raises(Interrupted, match=f"after step {step} of 12"):
            train(run, tmp_path, hooks=[StopAt(step)])
    train(run, tmp_path)
    assert losses(tmp_path) == losses(whole)
    assert weights(tmp_path) == weights(whole)


def test_a_finished_run_does_nothing_again(data_folder: Path, whole: Path) -> None:
    before = weights(whole), (whole / "metrics.jsonl").read_bytes()
    train(make_run(data_folder), whole)
    assert (weights(whole), (whole / "metrics.jsonl").read_bytes()) == before


def test_other_settings_in_the_same_folder_are_refused(data_folder: Path, whole: Path) -> None:
    with pytest.raises(ConfigError, match="other settings"):
        train(make_run(data_folder, "train.seed=7"), whole)


@pytest.mark.parametrize(("optimizer", "tolerance"), [("adamw", 1e-6), ("muon", 1e-3)])
def test_micro_batches_add_up_to_the_large_batch(
    data_folder: Path, tmp_path: Path, optimizer: str, tolerance: float
) -> None:
    """Gradients differ in the last bit only. Muon's orthogonalisation in bf16 turns that into 1e-4 in a few
    steps, so its first steps are compared as closely and the rest by what rounding explains."""
    results = []
    for rows in (1, 4):
        folder = tmp_path / str(rows)
        settings = (f"train.micro_rows={rows}", "train.arithmetic=fp32", f"optimizer.name={optimizer}")
        train(make_run(data_folder, *settings), folder)
        results.append(losses(folder))
    assert results[0][:2] == pytest.approx(results[1][:2], rel=1e-6)
    assert results[0] == pytest.approx(results[1], rel=tolerance)


@pytest.mark.parametrize("change", ["optimizer.name=adamw", "optimizer.schedule=cosine"])
def test_other_optimisers_and_schedules_learn(data_folder: Path, tmp_path: Path, change: str) -> None:
    train(make_run(data_folder, change), tmp_path)
    assert losses(tmp_path)[-1] < losses(tmp_path)[0] - 0.2


def test_a_loss_that_is_not_finite_stops_before_the_weights(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = Pretrain.loss, []

    def poisoned(self, model, batch, scale, dtype):
        calls.append(1)
        loss = plain(self, model, batch, scale, dtype)
        return loss * float("nan") if len(calls) > 13 else loss

    monkeypatch.setattr(Pretrain, "loss", poisoned)
    with pytest.raises(
        TrainingError, match=r"Step 7: the loss became nan.*last good checkpoint is .*step-00000004"
    ):
        train(make_run(data_folder), tmp_path)
    monkeypatch.undo()
    newest = checkpoint.newest(tmp_path / "checkpoints")
    assert newest is not None
    assert all(t.isfinite().all() for t in checkpoint.load(newest).tensors.values() if t.is_floating_point())


def test_a_full_disk_keeps_the_last_checkpoint(
    data_folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = checkpoint._write, []

    def full(folder: Path, *content: object) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        write(folder, *content)

    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.raises(ResourceError, match="no disk space left"):
        train(make_run(data_folder), tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]
    monkeypatch.undo()
    train(make_run(data_folder), tmp_path)
    assert weights(tmp_path) == weights(whole)


def test_a_damaged_checkpoint_is_named(data_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(make_run(data_folder), tmp_path, hooks=[StopAt(3)])
    newest = checkpoint.newest(tmp_path / "checkpoints")
    assert newest is not None
    file = next(newest.glob("*.distcp"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="missing or damaged"):
        train(make_run(data_folder), tmp_path)


def test_another_tokenizer_is_refused(data_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(make_run(data_folder), tmp_path, hooks=[StopAt(2)])
    newest = checkpoint.newest(tmp_path / "checkpoints")
    assert newest is not None
    record = json.loads((newest / "state.json").read_text())
    record["info"]["tokenizer"] = "another"
    (newest / "state.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="another tokenizer"):
        train(make_run(data_folder), tmp_path)


def test_a_run_needs_data_and_a_length(data_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path is not set"):
        train(config.load(TrainRun, None, ["train.steps=3"]), tmp_path / "a")
    with pytest.raises(ConfigError, match="no length"):
        train(config.load(TrainRun, None, [f"data.path={data_folder}"]), tmp_path / "b")
    with pytest.raises(WeftError):
        train(config.load(TrainRun, None, [f"data.path={tmp_path}/none", "train.steps=3"]), tmp_path / "c")


def test_a_budget_derives_what_is_unset(data_folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    run = config.load(
        TrainRun,
        None,
        [f"data.path={data_folder}", "data.sequence_length=64", "train.budget=5m", "train.batch_tokens=256"],
    )
    # Enough for a machine that others keep busy; what is derived is known before the first step.
    with pytest.raises(Interrupted):
        session.train(run, tmp_path, hooks=[StopAt(1)], say=said.append)
    resolved = config.load(TrainRun, tmp_path / "resolved.toml")
    assert resolved.train.batch_tokens == 256
    assert resolved.train.steps and resolved.model.hidden_size and resolved.optimizer.learning_rate
    text = "\n".join(said)
    assert "train.batch_tokens = 256: set by the run" in text and "least foretold loss" in text
    derived = {item["name"]: item["reason"] for item in json.loads((tmp_path / "derived.json").read_text())}
    assert all(derived.values()) and "train.steps" in derived


def test_a_budget_too_short_says_what_is_needed(data_folder: Path, tmp_path: Path) -> None:
    run = config.load(TrainRun, None, [f"data.path={data_folder}", "train.budget=0.1s"])
    with pytest.raises(
        TrainingError, match=r"budget of 0\.1s is too short for this machine: .* needs about \d+s"
    ):
        train(run, tmp_path)


def test_a_run_says_that_others_use_its_cores(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session.Neighbours, "cores", lambda watch: 1.5)
    monkeypatch.setattr(session, "share_cores", lambda processes: torch.set_num_threads(2))
    monkeypatch.setattr(session, "usable_cores", lambda: 2)
    before, said = torch.get_num_threads(), list[str]()
    run = config.load(TrainRun, None, [*BASE, "train.steps=1", f"data.path={data_folder}"])
    try:
        session.train(run, tmp_path, say=said.append)
    finally:
        torch.set_num_threads(before)
    assert any(line.startswith("warning: other processes use 1.5 of the 2 cores") for line in said)


def command(data_folder: Path, out: Path, steps: int) -> list[str]:
    settings = [s for s in BASE if not s.startswith(("train.steps", "train.save_steps"))]
    return [
        sys.executable, "-m", "weft", "train", *settings, f"train.steps={steps}", "train.save_steps=5",
        "--data", str(data_folder), "--out", str(out),
    ]  # fmt: skip


def test_sigterm_saves_and_exits_130(data_folder: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(command(data_folder, tmp_path, 5000), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the state is saved" in errors and "Traceback" not in errors
    assert checkpoint.newest(tmp_path / "checkpoints") is not None


def test_steps_wait_for_a_save_that_takes_long(
    data_folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, redone = checkpoint.save, []

    def slowly(folder: Path, state: checkpoint.State, *arguments: object) -> Path:
        # Not before the next step is done, which half a second need not be enough for.
        while len(redone) <= state.step < 12:
            time.sleep(0.01)
        time.sleep(0.5)
        return write(folder, state, *arguments)

    class Killed:
        """How many steps a run that is killed after each step would do again."""

        def after_step(self, record: dict) -> None:
            newest = checkpoint.newest(tmp_path / "checkpoints")
            redone.append(record["step"] - (checkpoint.load(newest).step if newest else 0))

        def close(self) -> None:
            pass

    monkeypatch.setattr(checkpoint, "save", slowly)
    train(make_run(data_folder), tmp_path, hooks=[Killed()])
    # Every four steps a save begins, and a step later it is there, however long it takes.
    assert redone == [1, 2, 3, 4, 5, 2, 3, 4, 5, 2, 3, 4]
    assert losses(tmp_path) == losses(whole)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_sigkills_change_no_bit(data_folder: Path, tmp_path: Path) -> None:
    steps = 1600
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(data_folder, whole, steps), check=True, capture_output=True)
    generator, kills, redone = random.Random(0), 0, []
    while kills < 20:
        process = subprocess.Popen(command(data_folder, killed, steps), stderr=subprocess.DEVNULL)
        before = _steps_seen(killed)
        # Wait for progress past the last kill, then a random moment: inside a step, between, or in a save.
        deadline = time.monotonic() + 60
        while _steps_seen(killed) <= before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(generator.uniform(0.0, 0.25))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        newest = checkpoint.newest(killed / "checkpoints")
        if newest is not None:
            saved = checkpoint.load(newest)
            redone.append(_steps_seen(killed) - saved.step)
    assert kills == 20, f"the run ended after {kills} kills; make it longer"
    assert max(redone) <= 5 + 1
    subprocess.run(command(data_folder, killed, steps), check=True, capture_output=True)
    assert losses(killed) == losses(whole)
    assert weights(killed) == weights(whole)


def _steps_seen(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return len(file.read_bytes().splitlines()) if file.exists() else 0


def test_state_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    tensors = {"a/b": torch.randn(3, 4), "c": torch.arange(5), "d": torch.randn(7).bfloat16()}
    saved = checkpoint.save(tmp_path, checkpoint.State(3, tensors, {"x": "y"}))
    loaded = checkpoint.load(saved)
    assert loaded.step == 3 and loaded.info == {"x": "y"}
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in tensors.items())
