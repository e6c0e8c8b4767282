"""From a run file to a trained model: resolve the settings once, train or continue, write the model.

A run folder holds ``requested.toml`` (what was asked), ``resolved.toml`` and ``derived.json`` (what
followed, and why), ``checkpoints/``, ``metrics.jsonl``, ``tensorboard/``, ``model/`` (a Hugging Face
folder) and, when it is finished, ``manifest.json``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from weft.checkpoint.huggingface import load_model, save_model
from weft.core import config, manifest
from weft.core.errors import ConfigError, ResourceError
from weft.core.files import disk_errors, write_text_atomic
from weft.core.hardware import probe
from weft.data.loader import Loader
from weft.models import Decoder, DecoderConfig
from weft.ops.arithmetic import Arithmetic, choose, choose_device
from weft.ops.kernels import kernels
from weft.ops.memory import keep_memory
from weft.tokenizer import Tokenizer
from weft.train import dial
from weft.train.calibrate import Speed, measure
from weft.train.config import TrainRun
from weft.train.dial import Derived
from weft.train.ema import Average
from weft.train.hooks import Console, Hook, MetricsLog, TensorBoard
from weft.train.loop import Trainer
from weft.train.objectives.pretrain import Pretrain
from weft.train.optim import Optimizer
from weft.train.step import Step

Say = Callable[[str], None]


def train(run: TrainRun, folder: Path, *, say: Say = print, hooks: Sequence[Hook] = ()) -> dict[str, Any]:
    """Train ``run`` in ``folder``, or go on with it, and return the manifest.

    Calling it again on a finished folder does nothing. Raises ConfigError when the folder holds a run
    with other settings, and every error of the loop.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder):
        requested = config.dump(run)
        done = manifest.read(folder)
        _check_same(folder, requested)
        if done is not None:
            say(f"{folder} is already trained; nothing to do.")
            return done
        return _train(run, folder, say, hooks)


def data_folders(path: str) -> tuple[Path, Path]:
    """(shards, tokenizer) of a data folder; ConfigError when the run file names none."""
    if not path:
        raise ConfigError("data.path is not set; name the folder that `weft data` made.")
    return Path(path) / "shards", Path(path) / "tokenizer"


def _train(run: TrainRun, folder: Path, say: Say, hooks: Sequence[Hook]) -> dict[str, Any]:
    keep_memory()
    device = choose_device(run.train.device)
    arithmetic = choose(device, run.train.arithmetic)
    say(f"machine: {probe().describe()}")
    say(f"arithmetic: {arithmetic.reason}; native kernels {kernels().status}")
    shards, tokenizer_folder = data_folders(run.data.path)
    tokenizer = Tokenizer.load(tokenizer_folder)
    resolved = _resolve(run, folder, shards, device, arithmetic, say)
    trainer = _assemble(resolved, folder, shards, tokenizer, device, arithmetic)
    first = trainer.resume()
    if first:
        say(f"continuing after step {first} of {resolved.train.steps}")
    assert resolved.train.steps is not None
    beside: list[Hook] = [
        MetricsLog(folder / "metrics.jsonl", first),
        TensorBoard(folder / "tensorboard", first),
        Console(resolved.train.steps, first),
        *hooks,
    ]
    try:
        trainer.train(first, beside)
    finally:
        for hook in beside:
            hook.close()
    return _finish(trainer, folder, shards, tokenizer)


def _resolve(
    run: TrainRun, folder: Path, shards: Path, device: torch.device, arithmetic: Arithmetic, say: Say
) -> TrainRun:
    file = folder / "resolved.toml"
    if file.exists():
        return config.load(TrainRun, file)
    if run.train.steps is None and run.train.budget is None:
        raise ConfigError(
            "The run has no length; set train.budget (for instance --budget 30m) or train.steps."
        )
    loader = Loader(shards, "train", run.data.sequence_length, 1, run.train.seed)
    resolved, derived = run, list[Derived]()
    if run.train.budget is not None:
        speed = _calibrate(run, loader, device, arithmetic)
        choices = _choices(run, loader.vocab_size)
        derived = dial.derive(run, choices, speed, loader.tokens_per_epoch)
        say(f"calibration: {speed.seconds:.1f} s")
    else:
        derived = dial.defaults(run, _choices(run, loader.vocab_size)[0])
    resolved = dial.apply(run, derived)
    for item in derived:
        section, _, key = item.name.partition(".")
        asked = getattr(getattr(run, section), key)
        value, reason = (item.value, item.reason) if asked is None else (asked, "set by the run")
        say(f"  {item.name} = {value}: {reason}")
    notes = [dataclasses.asdict(item) for item in derived]
    write_text_atomic(folder / "derived.json", json.dumps(notes, indent=1) + "\n")
    config.save(resolved, file)
    return resolved


def _choices(run: TrainRun, vocab_size: int) -> list[DecoderConfig]:
    if run.model.start is not None:
        return [load_model(run.model.start).config]
    return dial.sizes(run, vocab_size)


def _calibrate(run: TrainRun, loader: Loader, device: torch.device, arithmetic: Arithmetic) -> Speed:
    assert run.train.budget is not None
    limit = config.duration(run.train.budget) * dial.CALIBRATION_SHARE
    choices = _choices(run, loader.vocab_size)
    wanted = choices[1::3] if len(choices) > 1 else choices
    batch = loader.gather(range(max(1, 4096 // run.data.sequence_length)))
    return measure(wanted, batch, Pretrain(), run.optimizer, arithmetic.dtype, device, limit)


def _assemble(
    run: TrainRun,
    folder: Path,
    shards: Path,
    tokenizer: Tokenizer,
    device: torch.device,
    arithmetic: Arithmetic,
) -> Trainer:
    length, settings = run.data.sequence_length, run.train
    assert settings.batch_tokens and run.optimizer.learning_rate
    rows = max(1, settings.batch_tokens // length)
    loader = Loader(shards, "train", length, rows, settings.seed)
    loader.check_tokenizer(tokenizer)
    validation = Loader(shards, "valid", length, 8, 0)
    model = _model(run, loader.vocab_size, device)
    objective = Pretrain()
    optimizer = Optimizer(model, run.optimizer, run.optimizer.learning_rate)
    step = Step(model, objective, optimizer, settings.clip, arithmetic.dtype)
    if settings.compile:
        model.compile()
    average = Average(model, settings.ema) if settings.ema else None
    identity = {
        "tokenizer": tokenizer.fingerprint,
        "data": loader.data_fingerprint,
        "arithmetic": str(arithmetic.dtype),
    }
    return Trainer(
        run, folder, model, step, loader, validation if validation.rows else None, average,
        arithmetic.peak, identity,
    )  # fmt: skip


def _model(run: TrainRun, vocab_size: int, device: torch.device) -> Decoder:
    if run.model.start is not None:
        return load_model(run.model.start, torch.float32, device)
    shape = dial.fixed_size(run.model, vocab_size, run.data.sequence_length)
    if shape is None:
        raise ConfigError("model.hidden_size is not set; give it, or give a budget from which it follows.")
    with torch.device(device):
        model = Decoder(shape)
    # Drawn on the CPU whatever the device, so that the same seed starts the same model everywhere.
    model.to("cpu").initialise(torch.Generator().manual_seed(run.train.seed))
    return model.to(device)


def _finish(trainer: Trainer, folder: Path, shards: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        if trainer.average is not None:
            stack.enter_context(trainer.average.swapped_in(trainer.model))
        save_model(folder / "model", trainer.model, tokenizer, dtype=torch.float32)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seconds = sum(record["seconds"] for record in records)
    tokens = sum(record["tokens"] for record in records)
    figures = {
        "parameters": trainer.model.config.parameters,
        "steps": len(records),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peak_share": sum(r["peak_share"] * r["seconds"] for r in records) / seconds,
        "loss": records[-1]["loss"],
        "validation_loss": records[-1].get("validation_loss"),
        "memory_bytes": max(record["memory_bytes"] for record in records),
    }
    return manifest.write(
        folder,
        command="train",
        config=config.dump(trainer.run),
        inputs=trainer.identity,
        figures=figures,
        outputs=("metrics.jsonl", "model/model.safetensors") if _single(folder) else ("metrics.jsonl",),
    )


def _single(folder: Path) -> bool:
    return (folder / "model" / "model.safetensors").exists()


def _check_same(folder: Path, requested: str) -> None:
    file = folder / "requested.toml"
    if not file.exists():
        write_text_atomic(file, requested)
        return
    before, now = (text.splitlines() for text in (file.read_text(encoding="utf-8"), requested))
    changed = [line for line in now if line not in before] or [line for line in before if line not in now]
    if changed:
        raise ConfigError(
            f"{folder} holds a run with other settings (now {changed[0]}); "
            "give the same settings to continue it, or another --out."
        )


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that two processes never write one run."""
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ResourceError(f"{folder} is in use by another process; wait for it or stop it.") from None
        yield
