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
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from weft.checkpoint.huggingface import Held, save_model
from weft.core import config, manifest
from weft.core.errors import ConfigError, DataError, ResourceError, WeftError
from weft.core.files import disk_errors, write_text_atomic
from weft.core.hardware import probe, usable_cores
from weft.core.neighbours import Neighbours, advice
from weft.models import DecoderConfig
from weft.ops.arithmetic import Arithmetic, choose, choose_device, share_cores
from weft.ops.kernels import kernels
from weft.ops.memory import keep_memory
from weft.parallel.company import Company
from weft.parallel.elastic import fitted
from weft.parallel.world import World, joined
from weft.tasks import write_card
from weft.tokenizer import Tokenizer
from weft.train import cards, lora, planning, rows
from weft.train.assemble import Place, Say, assemble, resolve
from weft.train.config import LoraSection, ObjectiveSection, TrainRun, TrainSection
from weft.train.faults.guard import Guard, guarded, patience, refuse_again, watchers
from weft.train.hooks import Console, Hook, MetricsLog, TensorBoard
from weft.train.loop import Trainer
from weft.train.objectives.base import Objective
from weft.train.objectives.choose import choose as choose_objective


def train(
    run: TrainRun,
    folder: Path,
    *,
    objective: Objective | None = None,
    say: Say = print,
    hooks: Sequence[Hook] = (),
) -> dict[str, Any]:
    """Train ``run`` in ``folder``, or go on with it, and return the manifest.

    ``objective`` is what is minimised, by default what the run names. Calling it again on a
    finished folder does nothing. Raises ConfigError when the folder holds a run with other settings, and
    every error of the loop.
    """
    refuse_again(folder)
    timeout = config.duration(run.train.timeout)
    device = choose_device(run.train.device)
    with joined(device, patience(timeout)) as world, guarded(folder, world, timeout) as guard:
        run = dataclasses.replace(run, parallel=fitted(run.parallel, world.size, run.train.elastic))
        say = say if world.first else _silent
        if world.first:
            with disk_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
        with _only_one(folder) if world.first else contextlib.nullcontext():
            done = manifest.read(folder)
            if world.first:
                _check_same(folder, _fixed(run))
                if rows.note(folder, run.mixture, finished=done is not None):
                    say("the mixture is another from the next step on")
            world.barrier()
            if done is not None:
                say(f"{folder} is already trained; nothing to do.")
                return done
            place = _prepare(run, folder, objective, world, say)
            return _train(run, place, guard, say, hooks)


def data_folders(path: str) -> tuple[Path, Path]:
    """(shards, tokenizer) of a data folder; ConfigError when none is named, DataError when it is not one."""
    if not path:
        raise ConfigError("data.path is not set; name the folder that `weft data` made.")
    if not (Path(path) / "shards").is_dir():
        raise DataError(f"{path} is no finished data folder; check the path, or make it with weft data.")
    return Path(path) / "shards", Path(path) / "tokenizer"


def _prepare(run: TrainRun, folder: Path, given: Objective | None, world: World, say: Say) -> Place:
    keep_memory()
    shards, tokenizer_folder = data_folders(run.data.path)
    tokenizer = Tokenizer.load(tokenizer_folder)
    say(f"machine: {probe().describe()}" + ("" if world.alone else f"; {world.size} processes"))
    share_cores(world.local_size if world.device.type == "cpu" else 1)
    # Compiled, if they must be, before anybody watches for other processes.
    native, neighbours = kernels().status, Neighbours()
    arithmetic = _agreed(world, run)
    say(f"arithmetic: {arithmetic.reason}; native kernels {native}")
    if world.alone and world.device.type == "cpu":
        _warn(neighbours.cores(), say)
    objective = given or choose_objective(run, tokenizer, rows.shares(shards))
    return Place(folder, shards, tokenizer, world, Company.gather(), arithmetic, objective)


def _warn(busy: float | None, say: Say) -> None:
    if busy is not None and (said := advice(busy, usable_cores(), torch.get_num_threads())) is not None:
        say(f"warning: {said}")


def _agreed(world: World, run: TrainRun) -> Arithmetic:
    """The first process measures while the others wait, and all compute in the same way."""
    found = [choose(world.device, run.train.arithmetic) if world.first else None]
    if not world.alone:
        dist.broadcast_object_list(found, src=0)
    assert found[0] is not None
    return found[0]


def _train(
    run: TrainRun, place: Place, guard: Guard | None, say: Say, hooks: Sequence[Hook]
) -> dict[str, Any]:
    resolved = resolve(run, place, say)
    trainer = assemble(resolved, place, say)
    first = trainer.resume()
    assert resolved.train.steps is not None
    if first:
        say(f"continuing after step {first} of {resolved.train.steps}")
    beside: list[Hook] = [*watchers(guard, place.world.rank, trainer.model.parts[0], place.folder, first)]
    if place.world.first:
        beside += [
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
        trainer.loader.close()
    return _finish(trainer, place, say)


def _finish(trainer: Trainer, place: Place, say: Say) -> dict[str, Any]:
    folder = place.folder / "model"
    if trainer.best is not None:
        step = trainer.best.restore(trainer.progress)
        say(f"the best {trainer.best.figure}, {trainer.best.value:.4f}, was after step {step}")
    dropped = trainer.balance.drop()
    with contextlib.ExitStack() as stack:
        if trainer.average is not None:
            stack.enter_context(trainer.average.swapped_in(trainer.model.module))
        module: Held = trainer.model.module
        if trainer.run.lora.rank:
            module = lora.finish(trainer.model.module, trainer.run, place.folder, place.company)
        save_model(folder, module, place.tokenizer, dtype=torch.float32, company=place.company)
    return place.company.first(lambda: _described(trainer, place, dropped, say))


def _described(trainer: Trainer, place: Place, dropped: float, say: Say) -> dict[str, Any]:
    card = cards.made(trainer.run.objective, place.shards)
    if card is not None:
        write_card(place.folder / "model", card)
    return _record(trainer, place, dropped, say)


def _record(trainer: Trainer, place: Place, dropped: float, say: Say) -> dict[str, Any]:
    folder = place.folder
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seconds = sum(record["seconds"] for record in records)
    tokens = sum(record["tokens"] for record in records)
    figures = {
        "parameters": trainer.model.config.parameters,
        "trained_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "steps": len(records),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peak_share": sum(r["peak_share"] * r["seconds"] for r in records) / seconds,
        "loss": records[-1]["loss"],
        "validation_loss": records[-1].get("validation_loss"),
        "memory_bytes": max(record["memory_bytes"] for record in records),
    }
    _judge(trainer, place, records, say)
    if trainer.model.config.num_experts:
        figures["active_parameters"] = trainer.model.config.active_parameters
        figures["expert_imbalance"] = records[-1]["expert_imbalance"]
        # Above 0 only where balance.release is 0: the model that was written has no such biases.
        figures["expert_bias_dropped"] = dropped
    return manifest.write(
        folder,
        command="train",
        config=config.dump(trainer.run),
        inputs=trainer.identity,
        figures=figures,
        outputs=("metrics.jsonl", "model/model.safetensors") if _single(folder) else ("metrics.jsonl",),
    )


def _judge(trainer: Trainer, place: Place, records: list[dict[str, Any]], say: Say) -> None:
    """Say, and keep beside the run, how far off the planner would have been."""
    dtype = place.arithmetic.name
    seconds = statistics.median(record["seconds"] for record in records)
    memory = max(record["memory_bytes"] for record in records)
    file = place.folder / "planner-errors.jsonl"
    shape = trainer.model.config
    if not isinstance(shape, DecoderConfig):
        return
    try:
        say(planning.judged(trainer.run, shape, dtype, seconds, memory, file))
    except WeftError as error:
        # The run is done and good; that the planner does not know such a run does not change that.
        say(f"the planner has no estimate of this run: {error}")


def _fixed(run: TrainRun) -> str:
    """The run file without what may change while the run goes on: mixture, block cache, layout, patience."""
    free = dataclasses.replace(run.train, timeout=TrainSection.timeout, elastic=TrainSection.elastic)
    tables = re.split(r"\n(?=\[)", config.dump(dataclasses.replace(run, train=free)))
    left_out = ["[mixture]", "[stream]", "[parallel]"]
    # Runs begun before there was a choice have no such table, and can still be continued.
    left_out += ["[objective]"] if run.objective == ObjectiveSection() else []
    left_out += ["[lora]"] if run.lora == LoraSection() else []
    return "\n".join(table for table in tables if not table.startswith(tuple(left_out)))


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


def _silent(text: str) -> None:
    """What the processes beside the first have to say."""
