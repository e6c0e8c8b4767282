"""The training rows of a run: of its data folder, or of a mixture that may be changed while it runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from weft.checkpoint import state as checkpoint
from weft.core import config
from weft.core.errors import ConfigError, DataError
from weft.core.files import write_text_atomic
from weft.data.ahead import Ahead
from weft.data.answers import AnswerLoader
from weft.data.cache import BlockCache
from weft.data.config import MixtureConfig
from weft.data.loader import Loader
from weft.data.mixed import MixedLoader
from weft.data.remote import is_remote
from weft.train.config import TrainRun

FILE = "mixture.json"
"""In the run folder: every mixture of the run, and the step from which on it held."""


def open_rows(run: TrainRun, folder: Path, shards: Path, rows: int) -> Loader | MixedLoader:
    """The loader of a run whose batches have ``rows`` rows; ``folder`` holds its history, if any."""
    length, seed = run.data.sequence_length, run.train.seed
    if run.objective.name == "sft":
        return AnswerLoader(shards, "train", length, rows, seed, long=run.objective.long)
    if not run.mixture.sources:
        return Loader(shards, "train", length, rows, seed)
    cache = BlockCache.of(run.stream) if any(map(is_remote, run.mixture.sources)) else None
    return MixedLoader(history(folder) or [(0, run.mixture)], "train", length, rows, seed, cache=cache)


def open_validation(run: TrainRun, shards: Path) -> Loader:
    """The loader of the validation rows, of which the same targets count as in training."""
    length = run.data.sequence_length
    if run.objective.name == "sft":
        return AnswerLoader(shards, "valid", length, 8, 0, long=run.objective.long)
    # The split may be small: whole documents tell more there than full rows.
    return Loader(shards, "valid", length, 8, 0, max_padding=1.0)


def ahead(run: TrainRun, loader: Loader | MixedLoader, rank: int = 0, ranks: int = 1) -> Ahead:
    """``loader`` with the next micro-batches of a data rank prepared by a thread.

    Raises DataError when it cannot last so long.
    """
    steps = loader.mixture.steps if isinstance(loader, MixedLoader) else None
    if steps is not None and run.train.steps is not None and steps < run.train.steps:
        raise DataError(
            f"The mixture is used up after {steps} of {run.train.steps} steps; raise mixture.epochs, or "
            f"train for {steps} steps."
        )
    return Ahead(loader, run.train.micro_rows, rank=rank, ranks=ranks)


def note(folder: Path, asked: MixtureConfig, *, finished: bool) -> bool:
    """Note that ``asked`` is the mixture from the next step on, and say whether that is a change.

    What a run has read stays as it was: a changed mixture begins after the newest checkpoint. Raises
    ConfigError when a run that has begun shall get other sources, or a finished one another mixture.
    """
    if not asked.sources and not (folder / FILE).exists():
        return False
    before = history(folder)
    if before and before[-1][1] == asked:
        return False
    if finished:
        raise ConfigError(f"{folder} is a finished run of another mixture; give another --out.")
    newest = checkpoint.newest(folder / "checkpoints")
    start = int(newest.name.removeprefix("step-")) if newest is not None else 0
    if start and (not before or before[0][1].sources != asked.sources):
        raise ConfigError(
            "mixture.sources cannot change during a run; list a source that comes later from the start, with "
            "the weight 0."
        )
    entries = [entry for entry in before if entry[0] < start] + [(start, asked)]
    written = [{"from_step": step, **dataclasses.asdict(mixture)} for step, mixture in entries]
    write_text_atomic(folder / FILE, json.dumps(written, ensure_ascii=False, indent=1) + "\n")
    return bool(before)


def history(folder: Path) -> list[tuple[int, MixtureConfig]]:
    """The mixtures of the run so far; DataError when the file is damaged."""
    file = folder / FILE
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return [
            (int(entry.pop("from_step")), config.build(MixtureConfig, entry, str(file), "mixture."))
            for entry in entries
        ]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{file} is damaged ({error}); restore it, or begin a new run.") from error
