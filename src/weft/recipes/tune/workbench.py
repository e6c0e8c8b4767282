"""What tuning works on: the run's own model, data and arithmetic, without a run folder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from weft.core.errors import ConfigError
from weft.data.loader import Loader
from weft.models import DecoderConfig
from weft.ops.arithmetic import Arithmetic, choose, choose_device, share_cores
from weft.ops.memory import keep_memory
from weft.parallel import float8
from weft.parallel.model import ParallelModel
from weft.train import dial, rows
from weft.train.config import ModelSection, TrainRun
from weft.train.objectives.base import AnyBatch
from weft.train.objectives.pretrain import Pretrain
from weft.train.optim import Optimizer
from weft.train.session import data_folders
from weft.train.shapes import fresh_model
from weft.train.step import Step


@dataclass
class Workbench:
    """A run opened for short trials; every trial begins with the run's first weights."""

    run: TrainRun
    loader: rows.TrainingRows
    validation: Loader
    device: torch.device
    arithmetic: Arithmetic
    objective: Pretrain

    @classmethod
    def open(cls, run: TrainRun) -> Workbench:
        """ConfigError when the run does not say which model it is for, and errors of its data."""
        if run.model.hidden_size is None and run.model.start is None:
            raise ConfigError(
                "model.hidden_size is not set; tuning needs to know the model, so give it in the run file."
            )
        if run.objective.name not in ("pretrain", "sft"):
            raise ConfigError(f"objective.name = {run.objective.name} cannot be tuned; tune decoders only.")
        keep_memory()
        share_cores()
        shards, _ = data_folders(run.data.path)
        device = choose_device(run.train.device)
        length = run.data.sequence_length
        return cls(
            run=run,
            loader=rows.open_rows(run, Path(), shards, 1),
            validation=Loader(shards, "valid", length, 8, 0, max_padding=1.0),
            device=device,
            arithmetic=choose(device, run.train.arithmetic),
            objective=Pretrain(),
        )

    @property
    def length(self) -> int:
        """Positions of a row."""
        return self.run.data.sequence_length

    def model(self, width: int | None = None) -> ParallelModel:
        """The run's model with its first weights, or the same shape at another width."""
        run = self.run
        if width is not None:
            run = dataclasses.replace(run, model=narrow(run, width))
        module = fresh_model(run, self.loader, self.device)
        float8.apply(module, self.arithmetic.float8)
        return ParallelModel.alone(module)

    def shape(self) -> DecoderConfig:
        """The shape of the run's model."""
        shape = dial.fixed_size(self.run.model, self.loader.vocab_size, self.length)
        if shape is not None:
            return shape
        found = self.model().config
        assert isinstance(found, DecoderConfig)
        return found

    def step(self, model: ParallelModel, learning_rate: float) -> Step:
        """A step of the run's optimiser at this peak rate."""
        optimizer = Optimizer(model.module, self.run.optimizer, learning_rate)
        return Step(model, self.objective, optimizer, self.run.train.clip, self.arithmetic.dtype)

    def batches(self, step: int, batch_rows: int, micro_rows: int) -> list[AnyBatch]:
        """The micro-batches of batch number ``step`` (from 0) of ``batch_rows`` rows."""
        first = step * batch_rows
        edges = range(first, first + batch_rows, micro_rows)
        return [self.loader.gather(range(e, min(e + micro_rows, first + batch_rows))) for e in edges]

    def validate(self, model: ParallelModel, rows: int) -> float:
        """Mean loss in nats a token over at most ``rows`` rows of the validation split."""
        total, targets = 0.0, 0
        for batch in self.validation.sequential(8):
            if rows <= 0:
                break
            rows -= len(batch.tokens)
            total += model.evaluate(self.objective, batch, self.arithmetic.dtype)
            targets += self.objective.count(batch)
        return total / max(targets, 1)


def narrow(run: TrainRun, width: int) -> ModelSection:
    """The run's model section at another width: heads and feed-forward follow, depth and head size stay."""
    section = run.model
    assert section.hidden_size is not None
    heads = section.num_attention_heads
    return dataclasses.replace(
        section,
        hidden_size=width,
        intermediate_size=None,
        num_attention_heads=None if heads is None else max(1, heads * width // section.hidden_size),
        num_key_value_heads=None,
    )
