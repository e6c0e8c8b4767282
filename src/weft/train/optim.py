"""Optimisers: AdamW for everything, or Muon for the matrices inside blocks and AdamW for the rest.

Muon's update has the root mean square of AdamW's, so one learning rate serves both. Experts are stacks of
matrices, each of which is updated on its own; their routers are left to AdamW. So are recurrent networks and
CNNs, whatever a run says: their matrices are stacks of gates and windows, for which Muon was not made.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from weft.models.baseline import Baseline
from weft.models.encdec_config import EncoderDecoderConfig
from weft.parallel.model import Network
from weft.parallel.stage import Stage
from weft.train.config import OptimizerSection
from weft.train.muon import Muon
from weft.train.transfer import rate

TABLES = ("embedding.", "output.", "classifier.", "crf.")


class Optimizer:
    """One or two PyTorch optimisers driven as one, with their state under names."""

    def __init__(
        self,
        model: Network | Stage,
        config: OptimizerSection,
        peak: float,
        group: dist.ProcessGroup | None = None,
    ):
        """``group``: the ranks that hold the same parameters, whole or in shards; None for one process."""
        self.peak = peak
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        self.parts: dict[str, torch.optim.Optimizer] = {}
        matrices, others = _groups(model, config)
        if matrices:
            self.parts["muon"] = Muon(matrices, peak, config.weight_decay, config.momentum, group)
        self.parts["adamw"] = torch.optim.AdamW(
            others, lr=peak, betas=(config.beta1, config.beta2), eps=1e-10, fused=True
        )

    def step(self, factor: float) -> None:
        """Update at ``factor`` times the peak rate and drop the gradients."""
        for part in self.parts.values():
            for group in part.param_groups:
                group["lr"] = self.peak * factor * group["scale"]
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
            for group, before in zip(part.param_groups, kept, strict=True):
                group["lr"] = before


Group = dict[str, Any]


def _groups(model: Network | Stage, config: OptimizerSection) -> tuple[list[Group], list[Group]]:
    """Parameter groups for Muon and for AdamW; each has its decay and the ``scale`` of its rate."""
    ratio = 1.0 if config.base_width is None else model.config.hidden_size / config.base_width
    method = "adamw" if isinstance(model, Baseline) else config.name
    muon, adamw = _Grouped(), _Grouped()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        # What looks tokens or experts up has rows that mean something each, and stays with AdamW.
        table = name.startswith(TABLES) or name.endswith((".router.weight", ".relative.weight"))
        # Nor are the halves of a low-rank product matrices of their own.
        low = name.endswith((".lora_a", ".lora_b"))
        turned = method == "muon" and parameter.ndim > 1 and not table and not low
        scale = rate(name, parameter, "muon" if turned else "adamw", ratio)
        if isinstance(model.config, EncoderDecoderConfig) and name.endswith(".q.weight"):
            # T5's scores are not divided by the root of the head's size: its queries are that much smaller.
            scale *= model.config.d_kv**-0.5
        if turned:
            muon.add(parameter, config.weight_decay, scale)
        else:
            decayed = parameter.ndim > 1 and method == "adamw"
            adamw.add(parameter, config.weight_decay if decayed else 0.0, scale)
    return muon.groups, adamw.groups


class _Grouped:
    """Parameters of equal settings and on one mesh together, in their order.

    A fused update takes no mixture of meshes, which experts and fsdp bring.
    """

    def __init__(self) -> None:
        self._groups: dict[Any, Group] = {}

    @property
    def groups(self) -> list[Group]:
        return list(self._groups.values())

    def add(self, parameter: nn.Parameter, decay: float, scale: float) -> None:
        mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
        new: Group = {"params": [], "weight_decay": decay, "scale": scale}
        self._groups.setdefault((decay, scale, mesh), new)["params"].append(parameter)
