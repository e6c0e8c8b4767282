"""One step of the model: the tokens of the scheduled work in, scores for the next tokens out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weft.core.errors import UsageError
from weft.core.hardware import probe
from weft.engine.cache import SlotCache, StepContext
from weft.engine.scheduler import Work
from weft.models import Decoder


class Runner:
    """A decoder and its cache."""

    def __init__(self, model: Decoder, cache: SlotCache):
        self.model, self.cache = model.eval(), cache

    @torch.inference_mode()
    def run(self, work: Sequence[Work]) -> Tensor:
        """Scores fp32 [M, V] for the M sequences whose newest token is in the step, in the order of ``work``.

        ``work`` is in the scheduler's order: single tokens by slot, then chunks.
        """
        tokens: list[int] = []
        ends: list[int] = []
        for item in work:
            past = item.sequence.cached
            tokens += item.sequence.tokens[past : past + item.tokens]
            if item.last:
                ends.append(len(tokens) - 1)
        device = self.cache.device
        context = StepContext(self.cache, work)
        hidden: Tensor = self.model(torch.tensor([tokens], device=device), context)[0]
        if not ends:
            return torch.empty((0, self.model.config.vocab_size), device=device)
        scores: Tensor = self.model.logits(hidden[torch.tensor(ends, device=device)])
        return scores.float()


def best_dtype(device: torch.device, name: str | None = None) -> torch.dtype:
    """The dtype of weights and cache: ``name``, or bf16 where the processor computes in it, else fp32."""
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name is not None:
        if name not in names:
            raise UsageError(f"dtype = {name!r} is not a choice; write one of: {', '.join(names)}.")
        return names[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    native = {"avx512_bf16", "amx_bf16"} & set(probe().instruction_sets)
    return torch.bfloat16 if native else torch.float32


def prepare(model: Decoder, device: torch.device, dtype: torch.dtype) -> Decoder:
    """Move the model, in place; matrices and biases become ``dtype``.

    Norms, routers and frequencies keep fp32.
    """
    model.to(device).requires_grad_(False)
    for name, parameter in model.named_parameters():
        matrix = name.endswith("bias") or (parameter.ndim > 1 and not name.endswith("router.weight"))
        parameter.data = parameter.data.to(dtype if matrix else torch.float32)
    return model.eval()
