"""The loop: a batch for the step, the step, the records, now and then a validation and a checkpoint."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.checkpoint import state as checkpoint
from weft.checkpoint.saver import Saver
from weft.core.errors import Interrupted, TrainingError, WeftError
from weft.core.hardware import peak_memory
from weft.data.ahead import Ahead
from weft.parallel.model import ParallelModel
from weft.train.balance import Balance
from weft.train.best import Best
from weft.train.config import TrainRun
from weft.train.ema import Average
from weft.train.hooks import Hook
from weft.train.interruption import Interruption
from weft.train.objectives.base import AnyBatch, Deriving, Measuring
from weft.train.rows import ValidationRows
from weft.train.saving import Progress
from weft.train.schedule import factor
from weft.train.step import Step

_BESIDE = 5
"""A save may be written beside this part of the steps until the next; then they wait for it, so that whoever
is killed does no more than six fifths of those steps again, rounded up."""


@dataclass
class Trainer:
    """Everything that a run in progress consists of. ``peak``: matrix FLOP/s of all its processes."""

    run: TrainRun
    folder: Path
    model: ParallelModel
    step: Step
    loader: Ahead[AnyBatch]
    validation: ValidationRows
    average: Average | None
    balance: Balance
    saver: Saver
    best: Best | None
    peak: float
    identity: dict[str, Any]

    @property
    def progress(self) -> Progress:
        """What is saved."""
        return Progress(self.model, self.step.optimizer, self.average, self.identity)

    def resume(self) -> int:
        """Load the newest checkpoint, if any, and return the number of finished steps.

        A damaged newest checkpoint is an error that names it, never a silent step back. CheckpointError
        too when it belongs to other data or another tokenizer.
        """
        newest = self.saver.company.first(lambda: checkpoint.newest(self.saver.folder))
        return 0 if newest is None else self.progress.restore(newest, self.saver.company)

    def train(self, first: int, hooks: Sequence[Hook]) -> None:
        """Run the steps from ``first`` to the end.

        Raises Interrupted after saving when a signal came, TrainingError when a loss is not finite, and
        ResourceError when a checkpoint could not be written. Nothing is being written any more afterwards.
        """
        settings = self.run.train
        assert settings.steps is not None and settings.save_steps and settings.validate_steps
        with Interruption() as interruption, self.saver:
            for index in range(first, settings.steps):
                record = self._one(index, settings.steps)
                finished = index + 1
                if finished % settings.validate_steps == 0 or finished == settings.steps:
                    record |= self._validate()
                    if self.best is not None:
                        # Both kinds of saves speak over one group of processes, one thread at a time.
                        self.saver.settle()
                        self.best.after_validation(record, self.progress)
                for hook in hooks:
                    hook.after_step(record)
                if finished % settings.save_steps == -(-settings.save_steps // _BESIDE):
                    self.saver.settle()
                # Ranks hear of a signal, or of a save that failed, at different moments, and act on it after
                # the same step.
                heard = self.model.most(2 if self.saver.failed else int(interruption.requested))
                if heard == 2:
                    self.saver.wait()
                ended = finished == settings.steps or (self.best is not None and self.best.exhausted)
                stop = heard == 1 and not ended
                if stop or finished % settings.save_steps == 0 or ended:
                    self.saver.save(self.progress.state(finished))
                if ended:
                    break
                if stop:
                    self.saver.wait()
                    raise Interrupted(
                        f"Interrupted after step {finished} of {settings.steps}; the state is saved in "
                        f"{self.saver.folder}; run the same command again to continue."
                    )

    def _one(self, index: int, steps: int) -> dict[str, Any]:
        started = time.perf_counter()
        rate = factor(index, steps, self.run.optimizer)
        try:
            batches = [self.loader.gather(rows) for rows in self.loader.micro_batches(index)]
            result = self.step.run(batches, rate)
        except TrainingError as error:
            with contextlib.suppress(WeftError):
                self.saver.wait()
            newest = checkpoint.newest(self.saver.folder)
            kept = f"the last good checkpoint is {newest}" if newest else "no checkpoint had been made yet"
            raise TrainingError(f"Step {index + 1}: {error}; {kept}.", error.ranks) from error
        if self.average is not None:
            self.average.update(self.model.module, index)
        self.balance.after_step(index + 1)
        seconds = time.perf_counter() - started
        # A label a text says nothing about the work; the positions that were computed do.
        tokens = result.targets if self._decodes else self.model.count(sum(b.tokens.size for b in batches))
        flops = tokens * self.model.config.flops_per_token(self.run.data.sequence_length)
        return {
            "step": index + 1,
            "loss": result.loss,
            "learning_rate": self.step.optimizer.peak * rate,
            "gradient_norm": result.gradient_norm,
            "tokens": tokens,
            "tokens_per_second": tokens / seconds,
            "peak_share": flops / seconds / self.peak,
            "memory_bytes": int(self.model.most(peak_memory())),
            "seconds": seconds,
            **self._imbalance(),
        }

    @property
    def _decodes(self) -> bool:
        return self.step.objective.kind == "decoder"

    def _imbalance(self) -> dict[str, float]:
        if not self.model.config.sparse_layers:
            return {}
        return {"expert_imbalance": self.model.most(self.balance.load.imbalance)}

    def _validate(self) -> dict[str, Any]:
        rows = min(self.run.train.validate_rows, self.validation.rows)
        # What is measured is what will be written as the model.
        averaged = self.average.swapped_in(self.model.module) if self.average else contextlib.nullcontext()
        with averaged:
            found: dict[str, Any] = self._validation_loss(rows)
        return found | ({"expert_load": self.balance.load.shares} if self.balance.routers else {})

    def _validation_loss(self, rows: int) -> dict[str, float]:
        mesh, objective = self.model.mesh, self.step.objective
        total, targets = 0.0, 0
        for batch in self.validation.sequential(8):
            if rows <= 0:
                break
            rows -= len(batch.tokens)
            part = batch.part(mesh.coordinate("data"), mesh.size("data"))
            total += self.model.evaluate(objective, part, self.step.dtype)
            targets += objective.count(batch)
        figures: dict[str, float] = {}
        if isinstance(objective, Measuring):
            sums = {name: self.model.total(value) for name, value in objective.figures().items()}
            figures = {name: value / max(targets, 1) for name, value in sums.items()}
            if isinstance(objective, Deriving):
                figures = objective.recorded(sums, targets)
        return {"validation_loss": total / max(targets, 1)} | figures
