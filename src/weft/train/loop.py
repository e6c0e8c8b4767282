"""The loop: a batch for the step, the step, the records, now and then a validation and a checkpoint."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from weft.checkpoint import state as checkpoint
from weft.core.errors import CheckpointError, Interrupted, TrainingError
from weft.core.hardware import peak_memory
from weft.data.ahead import Ahead
from weft.data.loader import Loader
from weft.parallel.model import ParallelModel
from weft.train.config import TrainRun
from weft.train.ema import Average
from weft.train.hooks import Hook
from weft.train.interruption import Interruption
from weft.train.schedule import factor
from weft.train.step import Step


@dataclass
class Trainer:
    """Everything that a run in progress consists of. ``peak``: matrix FLOP/s of all its processes."""

    run: TrainRun
    folder: Path
    model: ParallelModel
    step: Step
    loader: Ahead
    validation: Loader
    average: Average | None
    peak: float
    identity: dict[str, Any]

    @property
    def checkpoints(self) -> Path:
        """Where the training state is kept."""
        return self.folder / "checkpoints"

    def resume(self) -> int:
        """Load the newest checkpoint, if any, and return the number of finished steps.

        A damaged newest checkpoint is an error that names it, never a silent step back. CheckpointError
        too when it belongs to other data or another tokenizer.
        """
        newest = checkpoint.newest(self.checkpoints)
        if newest is None:
            return 0
        saved = checkpoint.load(newest)
        if saved.info != self.identity:
            changed = [key for key in self.identity if saved.info.get(key) != self.identity[key]]
            raise CheckpointError(
                f"{newest} belongs to another {' and '.join(changed)} than this run's; "
                "restore that, or start a new run with another --out."
            )
        with torch.no_grad():
            for name, parameter in self.model.module.named_parameters():
                parameter.copy_(saved.tensors[f"model/{name}"])
        self.step.optimizer.load_state(_below(saved.tensors, "optimizer/"))
        if self.average is not None:
            self.average.weights = _below(saved.tensors, "average/")
        torch.set_rng_state(saved.tensors["random/torch"])
        return saved.step

    def save(self, finished: int) -> None:
        """Write the state after ``finished`` steps and drop checkpoints that are no longer kept."""
        tensors = {f"model/{name}": p.detach() for name, p in self.model.module.named_parameters()}
        tensors |= {f"optimizer/{name}": t for name, t in self.step.optimizer.state().items()}
        if self.average is not None:
            tensors |= {f"average/{name}": t for name, t in self.average.weights.items()}
        tensors["random/torch"] = torch.get_rng_state()
        if self.model.mesh.world.first:
            checkpoint.save(self.checkpoints, checkpoint.State(finished, tensors, self.identity))
            checkpoint.prune(self.checkpoints, self.run.train.keep_checkpoints)
        self.model.mesh.world.barrier()

    def train(self, first: int, hooks: Sequence[Hook]) -> None:
        """Run the steps from ``first`` to the end.

        Raises Interrupted after saving when a signal came, TrainingError when a loss is not finite.
        """
        settings = self.run.train
        assert settings.steps is not None and settings.save_steps and settings.validate_steps
        with Interruption() as interruption:
            for index in range(first, settings.steps):
                record = self._one(index, settings.steps)
                finished = index + 1
                if finished % settings.validate_steps == 0 or finished == settings.steps:
                    record |= self._validate()
                for hook in hooks:
                    hook.after_step(record)
                # A signal may reach one rank before another; all stop after the same step.
                stop = self.model.most(int(interruption.requested)) > 0 and finished < settings.steps
                if stop or finished % settings.save_steps == 0 or finished == settings.steps:
                    self.save(finished)
                if stop:
                    raise Interrupted(
                        f"Interrupted after step {finished} of {settings.steps}; the state is saved in "
                        f"{self.checkpoints}; run the same command again to continue."
                    )

    def _one(self, index: int, steps: int) -> dict[str, Any]:
        started = time.perf_counter()
        rate = factor(index, steps, self.run.optimizer)
        try:
            batches = [self.loader.gather(rows) for rows in self.loader.micro_batches(index)]
            result = self.step.run(batches, rate)
        except TrainingError as error:
            newest = checkpoint.newest(self.checkpoints)
            kept = f"the last good checkpoint is {newest}" if newest else "no checkpoint had been made yet"
            raise TrainingError(f"Step {index + 1}: {error}; {kept}.", error.ranks) from error
        if self.average is not None:
            self.average.update(self.model.module, index)
        seconds = time.perf_counter() - started
        flops = result.targets * self.model.config.flops_per_token(self.run.data.sequence_length)
        return {
            "step": index + 1,
            "loss": result.loss,
            "learning_rate": self.step.optimizer.peak * rate,
            "gradient_norm": result.gradient_norm,
            "tokens": result.targets,
            "tokens_per_second": result.targets / seconds,
            "peak_share": flops / seconds / self.peak,
            "memory_bytes": self.model.most(peak_memory()),
            "seconds": seconds,
        }

    def _validate(self) -> dict[str, float]:
        rows = min(self.run.train.validate_rows, self.validation.rows)
        # What is measured is what will be written as the model.
        averaged = self.average.swapped_in(self.model.module) if self.average else contextlib.nullcontext()
        with averaged:
            return self._validation_loss(rows)

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
        return {"validation_loss": total / max(targets, 1)}


def _below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
