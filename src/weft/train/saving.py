"""What a checkpoint of a run consists of, and how a run goes on from one, in the same layout or another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft.checkpoint import state as checkpoint
from weft.checkpoint.state import State
from weft.core.errors import CheckpointError
from weft.parallel.company import Company
from weft.parallel.model import ParallelModel
from weft.train.ema import Average
from weft.train.optim import Optimizer


@dataclass(frozen=True)
class Progress:
    """All that changes while a run goes on, as this rank holds it. The data position is the step.

    Names are those of one whole model, whatever the layout. Weights and buffers, optimiser state and
    averages may be spread over ranks; random state is each rank's own.
    """

    model: ParallelModel
    optimizer: Optimizer
    average: Average | None
    identity: dict[str, Any]

    def state(self, finished: int) -> State:
        """The state after ``finished`` steps; its tensors are those that are trained, not copies."""
        return State(finished, dict(self._tensors()) | _random(self.model), self.identity)

    def restore(self, path: Path, company: Company) -> int:
        """Go on from the checkpoint ``path`` and return its step.

        Raises CheckpointError when it is damaged, or belongs to other data or another tokenizer.
        """
        step, info = checkpoint.verify(path, company)
        if info != self.identity:
            changed = [key for key in self.identity if info.get(key) != self.identity[key]]
            raise CheckpointError(
                f"{path} belongs to another {' and '.join(changed)} than this run's; "
                "restore that, or start a new run with another --out."
            )
        self.optimizer.prepare()
        pairs = self._tensors()
        tensors = dict(pairs)
        saved = checkpoint.shapes(path)
        # A rank that an earlier layout did not have keeps the random state it started with.
        random = {name: tensor for name, tensor in _random(self.model).items() if name in saved}
        checkpoint.load_into(path, tensors | random, company)
        for name, tensor in pairs:
            if tensor is not tensors[name]:
                tensor.copy_(tensors[name])
        _set_random(self.model, random)
        return step

    @torch.no_grad()
    def _tensors(self) -> list[tuple[str, Tensor]]:
        """Everything under its name; a matrix that two stages of this rank share is there twice."""
        found = [(f"model/{name}", t.detach()) for name, t in self.model.module.state_dict().items()]
        found += [(f"optimizer/{name}", t.detach()) for name, t in self.optimizer.state().items()]
        if self.average is not None:
            found += [(f"average/{name}", t) for name, t in self.average.weights.items()]
        if self.model.config.tie_word_embeddings:
            # The stage with the output matrix calls its copy of the embeddings by that.
            found = [(name.replace("/output.weight", "/embedding.weight"), t) for name, t in found]
        return found


def _random(model: ParallelModel) -> dict[str, Tensor]:
    world = model.mesh.world
    state = {f"random/cpu/{world.rank}": torch.get_rng_state()}
    if world.device.type == "cuda":
        state[f"random/cuda/{world.rank}"] = torch.cuda.get_rng_state(world.device)
    return state


def _set_random(model: ParallelModel, state: dict[str, Tensor]) -> None:
    for name, tensor in state.items():
        if name.startswith("random/cpu/"):
            torch.set_rng_state(tensor)
        else:
            torch.cuda.set_rng_state(tensor, model.device)
