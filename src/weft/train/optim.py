"""Optimisers: AdamW for everything, or Muon for the matrices inside blocks and AdamW for the rest.

Muon's update has the root mean square of AdamW's, so one learning rate serves both.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

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
        matrices, flat, embeddings = _split(model)
        self.parts: dict[str, torch.optim.Optimizer] = {}
        decay = config.weight_decay
        if config.name == "muon":
            self.parts["muon"] = Muon(matrices, peak, decay, config.momentum, group)
            groups = [{"params": embeddings, "weight_decay": 0.0}, {"params": flat, "weight_decay": 0.0}]
        else:
            groups = [
                {"params": [*matrices, *embeddings], "weight_decay": decay},
                {"params": flat, "weight_decay": 0.0},
            ]
        self.parts["adamw"] = torch.optim.AdamW(
            groups, lr=peak, betas=(config.beta1, config.beta2), eps=1e-10, fused=True
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

    def prepare(self) -> None:
        """Make the state that the first step makes, so that :meth:`state` has every tensor to read into.

        Weights stay as they are: a step at the rate 0 with gradients of 0.
        """
        for part in self.parts.values():
            kept = [group["lr"] for group in part.param_groups]
            for group in part.param_groups:
                group["lr"] = 0.0
                for parameter in group["params"]:
                    parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
            part.step()
            part.zero_grad(set_to_none=True)
            for group, rate in zip(part.param_groups, kept, strict=True):
                group["lr"] = rate


def _split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    matrices, flat, embeddings = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            flat.append(parameter)
        elif name.startswith(("embedding.", "output.")):
            embeddings.append(parameter)
        else:
            matrices.append(parameter)
    return matrices, flat, embeddings
