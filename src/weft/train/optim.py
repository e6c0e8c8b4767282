"""Optimisers: AdamW for everything, or Muon for the matrices inside blocks and AdamW for the rest.

Muon's update has the root mean square of AdamW's, so one learning rate serves both. Experts are
stacks of matrices, each of which is updated on its own; their routers are left to AdamW.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from weft.train.config import OptimizerSection
from weft.train.muon import Muon


class Optimizer:
    """One or two PyTorch optimisers driven as one, with their state under names."""

    def __init__(
        self,
        model: nn.Module,
        config: OptimizerSection,
        peak: float,
        group: dist.ProcessGroup | None = None,
    ):
        """``group``: the ranks that hold the same parameters, whole or in shards; None for one process."""
        self.peak = peak
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        matrices, stacks, flat, embeddings = _split(model)
        self.parts: dict[str, torch.optim.Optimizer] = {}
        decay = config.weight_decay
        if config.name == "muon":
            self.parts["muon"] = Muon([*matrices, *stacks], peak, decay, config.momentum, group)
            groups = [(embeddings, 0.0), (flat, 0.0)]
        else:
            groups = [([*matrices, *stacks, *embeddings], decay), (flat, 0.0)]
        self.parts["adamw"] = torch.optim.AdamW(
            _by_mesh(groups), lr=peak, betas=(config.beta1, config.beta2), eps=1e-10, fused=True
        )

    def step(self, factor: float) -> None:
        """Update at ``factor`` times the peak rate and drop the gradients."""
        for part in self.parts.values():
            for group in part.param_groups:
                group["lr"] = self.peak * factor
            part.step()
            part.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the state under ``part/parameter/key``: independent of any ordering."""
        return {
            f"{part_name}/{self._names[parameter]}/{key}": value
            for part_name, part in self.parts.items()
            for parameter, entry in part.state.items()
            for key, value in entry.items()
            if isinstance(value, Tensor)
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of :meth:`state`."""
        by_name = {name: parameter for parameter, name in self._names.items()}
        for path, value in state.items():
            part_name, rest = path.split("/", 1)
            name, key = rest.rsplit("/", 1)
            self.parts[part_name].state[by_name[name]][key] = value


def _split(
    model: nn.Module,
) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Matrices, stacks of matrices, vectors, and what looks tokens or experts up."""
    matrices, stacks, flat, embeddings = [], [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            flat.append(parameter)
        elif name.startswith(("embedding.", "output.")) or name.endswith(".router.weight"):
            embeddings.append(parameter)
        elif parameter.ndim == 3:
            stacks.append(parameter)
        else:
            matrices.append(parameter)
    return matrices, stacks, flat, embeddings


def _by_mesh(groups: Iterable[tuple[list[nn.Parameter], float]]) -> list[dict[str, Any]]:
    """Groups with their decay, each of parameters on one mesh: a fused update takes no mixture."""
    split: dict[Any, dict[str, Any]] = {}
    for number, (parameters, decay) in enumerate(groups):
        for parameter in parameters:
            mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
            group = split.setdefault((number, mesh), {"params": [], "weight_decay": decay})
            group["params"].append(parameter)
    return list(split.values())
