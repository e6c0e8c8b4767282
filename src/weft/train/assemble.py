"""From a run file to a trainer: every setting resolved once, then loader, model, optimiser and step."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from weft.checkpoint.huggingface import load_model
from weft.checkpoint.opened import open_decoder
from weft.checkpoint.saver import Saver
from weft.checkpoint.slices import empty_model, fill_model
from weft.core import config
from weft.core.errors import ConfigError
from weft.core.files import write_text_atomic
from weft.data.loader import Loader
from weft.data.mixed import MixedLoader
from weft.models import Decoder, DecoderConfig
from weft.ops.arithmetic import Arithmetic
from weft.parallel.company import Company
from weft.parallel.materialise import materialise, on_meta
from weft.parallel.mesh import Mesh
from weft.parallel.model import parallelise
from weft.parallel.world import World
from weft.tokenizer import Tokenizer
from weft.train import dial, lora, rows
from weft.train.balance import Balance
from weft.train.calibrate import Speed, measure
from weft.train.config import TrainRun
from weft.train.ema import Average
from weft.train.loop import Trainer
from weft.train.objectives.base import Objective
from weft.train.optim import Optimizer
from weft.train.step import Step
from weft.train.transfer import rescale

Say = Callable[[str], None]

RESOLVED = "resolved.toml"
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
    config.save(resolved, place.folder / RESOLVED)


def _choices(run: TrainRun, vocab_size: int) -> list[DecoderConfig]:
    if run.model.start is not None:
        return [open_decoder(run.model.start)[1].config]
    return dial.sizes(run, vocab_size)


def _calibrate(
    run: TrainRun, place: Place, loader: Loader | MixedLoader, choices: list[DecoderConfig]
) -> Speed:
    assert run.train.budget is not None
    limit = min(config.duration(run.train.budget) * dial.CALIBRATION_SHARE, CALIBRATION_SECONDS)
    wanted = choices[1::3] if len(choices) > 1 else choices
    batch = loader.gather(range(max(1, 4096 // run.data.sequence_length)))
    return measure(
        wanted, batch, place.objective, run.optimizer, place.arithmetic.dtype, place.world.device, limit
    )


def assemble(run: TrainRun, place: Place) -> Trainer:
    """The trainer of a resolved run. Raises ConfigError when its plan does not fit."""
    length, settings = run.data.sequence_length, run.train
    assert settings.batch_tokens and settings.steps and run.optimizer.learning_rate
    loader = rows.open_rows(run, place.folder, place.shards, max(1, settings.batch_tokens // length))
    loader.check_tokenizer(place.tokenizer)
    validation = rows.open_validation(run, place.shards)
    mesh = Mesh.build(run.parallel, place.world)
    if run.model.start is not None and not run.parallel.alone and not run.lora.rank:
        # Each rank reads its parts below, when it is known which they are.
        whole = empty_model(run.model.start, place.world.device)
    else:
        whole = fresh_model(run, loader.vocab_size, place.world.device)
    if run.lora.rank:
        lora.apply(whole, run, place.arithmetic.dtype)
    micro = settings.micro_rows or loader.batch_rows
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
        peak=place.arithmetic.peak * place.world.size,
        identity=identity,
    )


def fresh_model(run: TrainRun, vocab_size: int, device: torch.device) -> Decoder:
    """The decoder that a run begins with: drawn from its seed, or the checkpoint it starts from."""
    if run.model.start is not None:
        return load_model(run.model.start, torch.float32, device)
    shape = dial.fixed_size(run.model, vocab_size, run.data.sequence_length)
    if shape is None:
        raise ConfigError("model.hidden_size is not set; give it, or give a budget from which it follows.")
    with torch.device(device):
        model = Decoder(shape)
    # Drawn on the CPU whatever the device, so that the same seed starts the same model everywhere.
    model.to("cpu").initialise(torch.Generator().manual_seed(run.train.seed))
    if run.optimizer.base_width is not None:
        rescale(model, shape.hidden_size / run.optimizer.base_width)
    return model.to(device)
