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
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from weft.checkpoint.huggingface import load_model, save_model
from weft.core import config, manifest
from weft.core.errors import ConfigError, DataError, ResourceError
from weft.core.files import disk_errors, write_text_atomic
from weft.core.hardware import probe
from weft.data.ahead import Ahead
from weft.data.loader import Loader
from weft.data.mixed import MixedLoader
from weft.models import Decoder, DecoderConfig
from weft.ops.arithmetic import Arithmetic, choose, choose_device
from weft.ops.kernels import kernels
from weft.ops.memory import keep_memory
from weft.tokenizer import Tokenizer
from weft.train import dial, rows
from weft.train.calibrate import Speed, measure
from weft.train.config import TrainRun
from weft.train.ema import Average
from weft.train.hooks import Console, Hook, MetricsLog, TensorBoard
from weft.train.loop import Trainer
from weft.train.objectives.base import Objective
from weft.train.objectives.pretrain import Pretrain
from weft.train.optim import Optimizer
from weft.train.step import Step

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Place:
    """Where a run happens and on what."""

    folder: Path
    shards: Path
    tokenizer: Tokenizer
    device: torch.device
    arithmetic: Arithmetic
    objective: Objective


def train(
    run: TrainRun,
    folder: Path,
    *,
    objective: Objective | None = None,
    say: Say = print,
    hooks: Sequence[Hook] = (),
) -> dict[str, Any]:
    """Train ``run`` in ``folder``, or go on with it, and return the manifest.

    ``objective`` is what is minimised, by default causal language modelling. Calling it again on a
    finished folder does nothing. Raises ConfigError when the folder holds a run with other settings, and
    every error of the loop.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder):
        done = manifest.read(folder)
        _check_same(folder, _fixed(run))
        if rows.note(folder, run.mixture, finished=done is not None):
            say("the mixture is another from the next step on")
        if done is not None:
            say(f"{folder} is already trained; nothing to do.")
            return done
        return _train(run, _prepare(run, folder, objective or Pretrain(), say), say, hooks)


def data_folders(path: str) -> tuple[Path, Path]:
    """(shards, tokenizer) of a data folder; ConfigError when none is named, DataError when it is not one."""
    if not path:
        raise ConfigError("data.path is not set; name the folder that `weft data` made.")
    if not (Path(path) / "shards").is_dir():
        raise DataError(f"{path} is no finished data folder; check the path, or make it with weft data.")
    return Path(path) / "shards", Path(path) / "tokenizer"


def _prepare(run: TrainRun, folder: Path, objective: Objective, say: Say) -> _Place:
    keep_memory()
    shards, tokenizer_folder = data_folders(run.data.path)
    tokenizer = Tokenizer.load(tokenizer_folder)
    device = choose_device(run.train.device)
    arithmetic = choose(device, run.train.arithmetic)
    say(f"machine: {probe().describe()}")
    say(f"arithmetic: {arithmetic.reason}; native kernels {kernels().status}")
    return _Place(folder, shards, tokenizer, device, arithmetic, objective)


def _train(run: TrainRun, place: _Place, say: Say, hooks: Sequence[Hook]) -> dict[str, Any]:
    resolved = _resolve(run, place, say)
    trainer = _assemble(resolved, place)
    first = trainer.resume()
    assert resolved.train.steps is not None
    if first:
        say(f"continuing after step {first} of {resolved.train.steps}")
    beside: list[Hook] = [
        MetricsLog(place.folder / "metrics.jsonl", first),
        TensorBoard(place.folder / "tensorboard", first),
        Console(resolved.train.steps, first),
        *hooks,
    ]
    try:
        trainer.train(first, beside)
    finally:
        for hook in beside:
            hook.close()
        if isinstance(trainer.loader, Ahead):
            trainer.loader.close()
    return _finish(trainer, place)


def _resolve(run: TrainRun, place: _Place, say: Say) -> TrainRun:
    file = place.folder / "resolved.toml"
    if file.exists():
        before = config.load(TrainRun, file)
        return dataclasses.replace(before, mixture=run.mixture, stream=run.stream)
    if run.train.steps is None and run.train.budget is None:
        raise ConfigError(
            "The run has no length; set train.budget (for instance --budget 30m) or train.steps."
        )
    loader = rows.open_rows(run, place.folder, place.shards, 1)
    choices = _choices(run, loader.vocab_size)
    if run.train.budget is not None:
        speed = _calibrate(run, place, loader, choices)
        derived = dial.derive(run, choices, speed, loader.tokens_per_epoch)
        say(f"calibration: {speed.seconds:.1f} s")
    else:
        derived = dial.defaults(run, choices[0])
    resolved, settled = dial.apply(run, derived), dial.settle(run, derived)
    for item in settled:
        say(f"  {item.name} = {item.value}: {item.reason}")
    notes = [dataclasses.asdict(item) for item in settled]
    write_text_atomic(place.folder / "derived.json", json.dumps(notes, indent=1) + "\n")
    config.save(resolved, file)
    return resolved


def _choices(run: TrainRun, vocab_size: int) -> list[DecoderConfig]:
    if run.model.start is not None:
        return [load_model(run.model.start).config]
    return dial.sizes(run, vocab_size)


def _calibrate(
    run: TrainRun, place: _Place, loader: Loader | MixedLoader, choices: list[DecoderConfig]
) -> Speed:
    assert run.train.budget is not None
    limit = config.duration(run.train.budget) * dial.CALIBRATION_SHARE
    wanted = choices[1::3] if len(choices) > 1 else choices
    batch = loader.gather(range(max(1, 4096 // run.data.sequence_length)))
    return measure(wanted, batch, place.objective, run.optimizer, place.arithmetic.dtype, place.device, limit)


def _assemble(run: TrainRun, place: _Place) -> Trainer:
    length, settings = run.data.sequence_length, run.train
    assert settings.batch_tokens and run.optimizer.learning_rate
    loader = rows.open_rows(run, place.folder, place.shards, max(1, settings.batch_tokens // length))
    loader.check_tokenizer(place.tokenizer)
    # The split may be small: whole documents tell more there than full rows.
    validation = Loader(place.shards, "valid", length, 8, 0, max_padding=1.0)
    model = _model(run, loader.vocab_size, place.device)
    optimizer = Optimizer(model, run.optimizer, run.optimizer.learning_rate)
    step = Step(model, place.objective, optimizer, settings.clip, place.arithmetic.dtype)
    if settings.compile:
        model.compile()
    identity = {
        "tokenizer": place.tokenizer.fingerprint,
        "data": loader.data_fingerprint,
        "arithmetic": str(place.arithmetic.dtype),
    }
    return Trainer(
        run=run,
        folder=place.folder,
        model=model,
        step=step,
        loader=rows.ahead(run, loader),
        validation=validation,
        average=Average(model, settings.ema) if settings.ema else None,
        peak=place.arithmetic.peak,
        identity=identity,
    )


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


def _finish(trainer: Trainer, place: _Place) -> dict[str, Any]:
    folder = place.folder
    with contextlib.ExitStack() as stack:
        if trainer.average is not None:
            stack.enter_context(trainer.average.swapped_in(trainer.model))
        save_model(folder / "model", trainer.model, place.tokenizer, dtype=torch.float32)
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


def _fixed(run: TrainRun) -> str:
    """The run file without what may change while the run goes on: the mixture, and where blocks are kept."""
    tables = re.split(r"\n(?=\[)", config.dump(run))
    return "\n".join(table for table in tables if not table.startswith(("[mixture]", "[stream]")))


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
