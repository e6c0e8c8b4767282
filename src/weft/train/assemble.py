"""From a run file to a trainer: every setting resolved once, then loader, model, optimiser and step."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from weft.checkpoint import state as checkpoint
from weft.checkpoint.kinds import Config
from weft.checkpoint.saver import Saver
from weft.checkpoint.slices import empty_model, fill_model
from weft.core import config
from weft.core.errors import ConfigError
from weft.core.files import write_text_atomic
from weft.models import Decoder
from weft.ops.arithmetic import Arithmetic
from weft.parallel.company import Company
from weft.parallel.materialise import materialise, on_meta
from weft.parallel.mesh import Mesh
from weft.parallel.model import parallelise
from weft.parallel.world import World
from weft.tokenizer import Tokenizer
from weft.train import dial, lora, rows, shapes, vectors
from weft.train.balance import Balance
from weft.train.best import Best, records
from weft.train.calibrate import Speed, measure
from weft.train.config import TrainRun
from weft.train.ema import Average
from weft.train.loop import Trainer
from weft.train.objectives.base import Objective
from weft.train.optim import Optimizer
from weft.train.step import Step

Say = Callable[[str], None]

RESOLVED = "resolved.toml"
MEASURED = ("classify", "tag", "extractive", "contrastive")
"""Objectives that have an accuracy."""

CALIBRATION_SECONDS = 300.0
"""At most; the other processes of a run wait so long."""


@dataclass(frozen=True)
class Place:
    """Where a run happens and on what."""

    folder: Path
    shards: Path
    tokenizer: Tokenizer
    world: World
    company: Company
    arithmetic: Arithmetic
    objective: Objective


def resolve(run: TrainRun, place: Place, say: Say) -> TrainRun:
    """The run with every value that was left open; made by the first process, read by all."""
    file = place.folder / RESOLVED
    if place.world.first and not file.exists():
        _derive(run, place, say)
    place.world.barrier()
    before = config.load(TrainRun, file)
    return dataclasses.replace(before, mixture=run.mixture, stream=run.stream, parallel=run.parallel)


def _derive(run: TrainRun, place: Place, say: Say) -> None:
    if run.train.steps is None and run.train.budget is None and run.train.epochs is None:
        raise ConfigError(
            "The run has no length; set train.budget (for instance --budget 30m), train.steps or "
            "train.epochs."
        )
    if run.train.epochs is not None and (run.train.steps is not None or run.train.budget is not None):
        raise ConfigError("train.epochs sets the length; leave train.steps and train.budget out.")
    loader = rows.open_rows(run, place.folder, place.shards, 1)
    choices = shapes.choices(run, loader)
    if run.train.budget is not None:
        speed = _calibrate(run, place, loader, choices)
        derived = dial.derive(run, choices, speed, loader.tokens_per_epoch)
        say(f"calibration: {speed.seconds:.1f} s")
    else:
        derived = dial.defaults(run, choices[0], loader.rows)
    resolved, settled = dial.apply(run, derived), dial.settle(run, derived)
    for item in settled:
        say(f"  {item.name} = {item.value}: {item.reason}")
    notes = [dataclasses.asdict(item) for item in settled]
    write_text_atomic(place.folder / "derived.json", json.dumps(notes, indent=1) + "\n")
    config.save(resolved, place.folder / RESOLVED)


def _calibrate(run: TrainRun, place: Place, loader: rows.TrainingRows, choices: list[Config]) -> Speed:
    assert run.train.budget is not None
    limit = min(config.duration(run.train.budget) * dial.CALIBRATION_SHARE, CALIBRATION_SECONDS)
    wanted = choices[1::3] if len(choices) > 1 else choices
    batch = loader.gather(range(max(1, 4096 // run.data.sequence_length)))
    return measure(
        wanted, batch, place.objective, run.optimizer, place.arithmetic.dtype, place.world.device, limit
    )


def assemble(run: TrainRun, place: Place, say: Say = print) -> Trainer:
    """The trainer of a resolved run. Raises ConfigError when its plan does not fit."""
    length, settings = run.data.sequence_length, run.train
    assert settings.batch_tokens and settings.steps and run.optimizer.learning_rate
    loader = rows.open_rows(run, place.folder, place.shards, max(1, settings.batch_tokens // length))
    loader.check_tokenizer(place.tokenizer)
    validation = rows.open_validation(run, place.shards)
    mesh = Mesh.build(run.parallel, place.world)
    whole = _whole(run, place, loader, say)
    micro = settings.micro_rows or loader.batch_rows
    if isinstance(whole, Decoder):
        run.parallel.check(whole.config, rows=loader.batch_rows, micro_rows=micro, length=length)
    backend = "inductor" if settings.compile else None
    arithmetic = place.arithmetic
    model = parallelise(whole, run.parallel, mesh, arithmetic.dtype, backend, float8=arithmetic.float8)
    if on_meta(model.module):
        assert run.model.start is not None
        materialise(model.module, torch.device("cpu") if run.parallel.offload else place.world.device)
        fill_model(run.model.start, model.module)
    optimizer = Optimizer(model.module, run.optimizer, run.optimizer.learning_rate, mesh.group("stage"))
    step = Step(model, place.objective, optimizer, settings.clip, place.arithmetic.dtype)
    # What is drawn while training (dropout) begins the same each time, and differs between data ranks.
    torch.manual_seed((run.train.seed + (mesh.coordinate("data") << 32)) % (1 << 63))
    identity = {
        "tokenizer": place.tokenizer.fingerprint,
        "data": loader.data_fingerprint,
        "arithmetic": str(arithmetic.dtype) + (", products in fp8" if arithmetic.float8 else ""),
    }
    return Trainer(
        run=run,
        folder=place.folder,
        model=model,
        step=step,
        loader=rows.ahead(run, loader, mesh.coordinate("data"), mesh.size("data")),
        validation=validation,
        average=Average(model.module, settings.ema) if settings.ema else None,
        balance=Balance(model.module, run.balance, settings.steps, model.total_load),
        saver=Saver(
            place.folder / "checkpoints", settings.keep_checkpoints, place.company, beside=settings.async_save
        ),
        best=_best(run, place),
        peak=place.arithmetic.peak * place.world.size,
        identity=identity,
    )


def _whole(run: TrainRun, place: Place, loader: rows.TrainingRows, say: Say) -> shapes.Network:
    """The model before it is spread over ranks, with adapters if it has any."""
    decoder = run.objective.name not in shapes.ARCHITECTURES
    if run.lora.rank and not decoder:
        raise ConfigError(
            f"lora.rank is for decoders; objective.name = {run.objective.name} trains all weights."
        )
    if decoder and run.model.start is not None and not run.parallel.alone and not run.lora.rank:
        # Each rank reads its parts later, when it is known which they are.
        return empty_model(run.model.start, place.world.device)
    whole = shapes.fresh_model(run, loader, place.world.device)
    if run.model.vectors is not None and _begun(place) is None:
        say(vectors.begin(whole.embedding.weight, place.tokenizer, run.model.vectors))
    if run.lora.rank and isinstance(whole, Decoder):
        lora.apply(whole, run, place.arithmetic.dtype)
    return whole


def _best(run: TrainRun, place: Place) -> Best | None:
    """Who keeps the best state. ConfigError for a figure that the objective does not have."""
    section = run.train
    if section.best in (None, "none"):
        if section.patience is not None:
            raise ConfigError("train.patience needs train.best, the figure that shall get better.")
        return None
    if section.best == "validation_accuracy" and run.objective.name not in MEASURED:
        raise ConfigError(
            f"objective.name = {run.objective.name} has no accuracy; set train.best = validation_loss."
        )
    if section.best == "validation_f1" and run.objective.name != "tag":
        raise ConfigError(
            f"objective.name = {run.objective.name} has no spans, whose F1 validation_f1 is; set another "
            "figure as train.best."
        )
    newest = _begun(place)
    done = 0 if newest is None else int(newest.name.removeprefix("step-"))
    return Best(place.folder, section, place.company, records(place.folder / "metrics.jsonl", done))


def _begun(place: Place) -> Path | None:
    """The newest checkpoint of the run, from which it goes on; None where it is new."""
    return place.company.first(lambda: checkpoint.newest(place.folder / "checkpoints"))
