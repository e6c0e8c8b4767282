"""Low-rank adapters beside frozen weights (LoRA, arXiv:2106.09685), which may be int8 (after QLoRA,
arXiv:2305.14314, which has four bits).

Dimensions: R rank, K inputs, N outputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.checkpoint.huggingface import load_model
from weft.checkpoint.peft import merge, write_adapter
from weft.core.errors import ConfigError
from weft.models import Decoder
from weft.models.layers import Linear
from weft.parallel.company import Company
from weft.parallel.plan import Plan
from weft.train.config import LoraSection, TrainRun

FOLDER = "adapter"
"""In the run folder: the adapter that was trained, a PEFT folder."""


class LowRankLinear(Linear):
    """A frozen matrix and its trained part: x W^T + scale * x A^T B^T; B begins at zero."""

    def __init__(self, base: Linear, section: LoraSection, generator: torch.Generator):
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias, self.product = base.weight, base.bias, base.product
        self.scale, self.dropout = section.alpha / section.rank, section.dropout
        a = torch.empty(section.rank, base.in_features)
        a.uniform_(-(base.in_features**-0.5), base.in_features**-0.5, generator=generator)
        device = base.weight.device
        self.lora_a = nn.Parameter(a.to(device))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, section.rank, device=device))
        self.whole_numbers = section.base == "int8"
        if self.whole_numbers:
            scale = base.weight.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
            quantised = (base.weight.float() / scale).round().to(torch.int8)
            self.register_buffer("quantised", quantised, persistent=False)
            self.register_buffer("row_scale", scale, persistent=False)
            del self.weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N] in the dtype of ``x``."""
        if self.whole_numbers:
            base: Tensor = _Int8.apply(x, self.quantised, self.row_scale)  # type: ignore[no-untyped-call]
            base = base if self.bias is None else base + self.bias.to(x.dtype)
        else:
            base = super().forward(x)
        kept = F.dropout(x, self.dropout, self.training)
        low = F.linear(F.linear(kept, self.lora_a.to(x.dtype)), self.lora_b.to(x.dtype))
        return base + self.scale * low


class _Int8(torch.autograd.Function):
    """x W^T for int8 W [N, K] and fp32 scales [N, 1]; between forward and backward W exists as int8 alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, quantised: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(quantised, scale)
        return F.linear(x, quantised.to(x.dtype) * scale.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        quantised, scale = ctx.saved_tensors
        return grads[0] @ (quantised.to(grads[0].dtype) * scale.to(grads[0].dtype)), None, None


def apply(model: Decoder, run: TrainRun, dtype: torch.dtype) -> None:
    """Freeze ``model`` and put trained parts beside the matrices that ``run.lora`` names, in place.

    Frozen matrices are kept in ``dtype``, that of the arithmetic. Raises ConfigError when no matrix has a
    name that was given, or the run cannot train adapters.
    """
    section = run.lora
    check(run)
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(run.train.seed)
    matrices = {n: m for n, m in model.named_modules() if isinstance(m, Linear) and n.startswith("blocks.")}
    chosen = [name for name in matrices if name.endswith(section.targets)]
    if not chosen:
        known = sorted({name.split(".", 2)[2] for name in matrices})
        raise ConfigError(f"lora.targets names no matrix of this model; it has {', '.join(known)}.")
    for name in matrices:
        matrices[name].weight.data = matrices[name].weight.data.to(dtype)
    for name in chosen:
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, LowRankLinear(matrices[name], section, generator))


def check(run: TrainRun) -> None:
    """ConfigError for a run that cannot train adapters."""
    plan = run.parallel
    if run.model.start is None:
        raise ConfigError("lora.rank needs model.start: an adapter stands beside a model trained before.")
    if plan != Plan(dp=plan.dp):
        raise ConfigError("Adapters are trained alone or with dp alone; leave the rest of the plan out.")


def parts(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """A [R, K] and B [N, R] of each matrix that has a trained part."""
    found = {n: m for n, m in model.named_modules() if isinstance(m, LowRankLinear)}
    return {name: (module.lora_a, module.lora_b) for name, module in found.items()}


def finish(model: nn.Module, run: TrainRun, folder: Path, company: Company) -> Decoder:
    """Write the adapter into the run ``folder``; returns the model it began with, the adapter merged in."""
    start, section, adapter = run.model.start, run.lora, folder / FOLDER
    assert start is not None
    # Every rank holds the whole adapter.
    company.first(lambda: write_adapter(adapter, parts(model), section.rank, section.alpha, start))
    merged = load_model(start, torch.float32)
    merge(merged, adapter)
    return merged
