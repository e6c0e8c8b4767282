"""What a sweep compares: the architectures of each task, and the floor that none of them may fall below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weft.core import config, manifest
from weft.core.errors import DataError, UsageError
from weft.core.page import Words
from weft.data.schema import SHARDS
from weft.data.shards import Shards, open_split
from weft.models.presets import LADDER
from weft.train.config import TrainRun

TASKS = ("classify", "tag", "pairs", "text")
OBJECTIVES = {"classify": "classify", "tag": "tag", "pairs": "pairs", "text": "pretrain"}

BEST = {"classify": "validation_accuracy", "tag": "validation_f1"}
"""The figure that chooses a candidate's checkpoint; of other tasks the loss."""

_SETTLED = ("data.", "objective.name", "train.budget", "train.steps", "train.epochs", "train.seed")

SHORTEST, LONGEST = 32, 512
"""Tokens of a row: of the shortest that is tried, and of the longest."""
_VALIDATED = 4096
"""Positions of a validation on the way: in a short run the usual number of rows would take most of it."""
_FITTING = 99
"""Percent of the training documents that fit into a row whole."""


@dataclass(frozen=True)
class Candidate:
    """``key``: its folder; ``settings``: what a run file says of it. Floors learn nothing by gradients."""

    key: str
    name: Words
    settings: tuple[str, ...] = ()
    floor: bool = False


@dataclass(frozen=True)
class Subject:
    """The data of a sweep: its folder, the task, the tokens of a row, the validation split.

    ``most_tokens``: of the validation split are measured, the same ones for every candidate.
    """

    folder: Path
    task: str
    length: int
    valid: Shards
    most_tokens: int = 1 << 20

    @property
    def settings(self) -> tuple[str, ...]:
        """What the run files of all candidates share."""
        supervised = self.task != "text"
        return (
            f"data.path={self.folder}",
            f"data.sequence_length={self.length}",
            f"objective.name={OBJECTIVES[self.task]}",
            # A dropped text would be no question at all; a cut one is asked as it can be read.
            *(("objective.long=cut",) if supervised else ()),
            f"train.validate_rows={max(4, _VALIDATED // self.length)}",
            f"train.best={BEST.get(self.task, 'validation_loss')}",
        )


def subject(folder: Path, asked: str | None, length: int | None = None) -> Subject:
    """Open the data ``folder``; the task is that of its form, which ``asked`` may only confirm.

    ``length``: tokens of a row, by default so many that almost all documents fit, at most :data:`LONGEST`.

    DataError for a folder that is none or holds no validation documents, UsageError for a task that
    contradicts the folder or that no sweep knows.
    """
    record = manifest.read(folder / SHARDS)
    if record is None:
        raise DataError(
            f"{folder} is no finished data folder; check the path, or make it with weft data or "
            "weft data supervised."
        )
    task = task_of(record["figures"], folder, asked)
    train, valid = (open_split(folder / SHARDS, split) for split in ("train", "valid"))
    if length is not None and length < SHORTEST:
        raise UsageError(f"--length {length} must be at least {SHORTEST}.")
    return Subject(folder, task, length or _length(train), valid)


def task_of(figures: dict[str, Any], folder: Path, asked: str | None) -> str:
    """The task that a manifest's form is for; UsageError where ``asked`` is another."""
    form = str(figures.get("form", "text"))
    if form not in TASKS:
        raise UsageError(
            f"{folder} holds {form}, and weft advise compares {', '.join(TASKS)}; give a folder of these."
        )
    if asked is not None and asked != form:
        raise UsageError(
            f"--task {asked} contradicts {folder}, which holds {form}; leave --task out, or give a folder "
            f"made for {asked}."
        )
    return form


def candidates(task: str) -> tuple[Candidate, ...]:
    """What is compared for a task, floors last."""
    if task == "text":
        return _decoders()
    if task == "pairs":
        return (
            _sized("encdec-small", Words("T5 small", "T5 小"), 128, 2),
            _sized("encdec", Words("T5", "T5"), 256, 4),
            Candidate("copying", Words("copying", "照抄原文"), floor=True),
        )
    head = {"classify": "SequenceClassification", "tag": "TokenClassification"}[task]
    floor = {
        "classify": Candidate("naive-bayes", Words("naive Bayes", "朴素贝叶斯"), floor=True),
        "tag": Candidate("memory", Words("memory", "实体记忆"), floor=True),
    }[task]
    return (
        _sized("transformer-small", Words("Transformer small", "Transformer 小"), 128, 2),
        _sized("transformer", Words("Transformer", "Transformer"), 256, 4),
        _baseline("bilstm", "BiLSTM", f"WeftLstmFor{head}"),
        _baseline("bigru", "BiGRU", f"WeftGruFor{head}"),
        _baseline("cnn", "CNN", f"WeftCnnFor{head}"),
        floor,
    )


def check_settings(more: Sequence[str]) -> None:
    """UsageError for settings that a sweep decides itself."""
    taken = [text for text in more if text.startswith(_SETTLED)]
    if taken:
        raise UsageError(f"{taken[0]} is for weft advise to settle; leave it out.")


def run_of(
    subject: Subject, candidate: Candidate, seconds: float, seed: int, more: Sequence[str]
) -> TrainRun:
    """The training run of a candidate within ``seconds``; ``more`` are settings for all of them."""
    fixed = (f"train.budget={seconds:.0f}s", f"train.seed={seed}")
    return config.load(TrainRun, None, [*subject.settings, *candidate.settings, *fixed, *more])


def _decoders() -> tuple[Candidate, ...]:
    chosen = (("qwen3", "Qwen3", 0), ("qwen3", "Qwen3", 2), ("qwen3", "Qwen3", 4), ("llama", "Llama", 2))
    found = []
    for key, name, rung in chosen:
        size = LADDER[rung]
        sizes = (
            f"model.architecture={name}ForCausalLM",
            f"model.hidden_size={size.width}",
            f"model.num_hidden_layers={size.layers}",
            f"model.head_dim={size.head_dim}",
        )
        label = f"{name} {size.width}"
        found.append(Candidate(f"{key}-{size.width}", Words(label, label), sizes))
    return tuple(found)


def _sized(key: str, name: Words, width: int, layers: int) -> Candidate:
    return Candidate(key, name, (f"model.hidden_size={width}", f"model.num_hidden_layers={layers}"))


def _baseline(key: str, name: str, architecture: str) -> Candidate:
    return Candidate(key, Words(name, name), (f"model.architecture={architecture}", "model.hidden_size=256"))


def _length(train: Shards) -> int:
    """Tokens of a row into which almost all documents fit, a power of two."""
    usual = float(np.percentile(train.reader.lengths, _FITTING))
    power = 2 ** int(np.ceil(np.log2(max(usual, 1.0))))
    return int(min(max(power, SHORTEST), LONGEST))
