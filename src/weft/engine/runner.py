"""One step of the model: the tokens of the scheduled work in, scores for the next tokens out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weft.core.errors import UsageError
from weft.core.hardware import probe
from weft.engine.cache import StepContext
from weft.engine.scheduler import Work
from weft.models import Decoder
from weft.ops.linear import row_invariant
from weft.ops.paged import Pages


class Runner:
    """A decoder and its cache."""

    def __init__(self, model: Decoder, pages: Pages):
        self.model, self.pages = model.eval(), pages

    @torch.inference_mode()
    def run(self, work: Sequence[Work]) -> Tensor:
        """Scores fp32 [M, V] after the newest token of each sequence that has it in ``work``, and its drafts.

        The M rows stand in the order of ``work``, those after drafts behind that of their sequence.
        """
        tokens: list[int] = []
        wanted: list[int] = []
        for item in work:
            past = item.sequence.cached
            tokens += item.sequence.tokens[past : past + item.tokens]
            tokens += item.drafts
            if item.last:
                wanted += range(len(tokens) - 1 - len(item.drafts), len(tokens))
        device = self.pages.device
        with row_invariant():
            context = StepContext(self.pages, work)
            hidden: Tensor = self.model(torch.tensor([tokens], device=device), context)[0]
            if not wanted:
                return torch.empty((0, self.model.config.vocab_size), device=device)
            if len(wanted) < len(tokens):
                hidden = hidden[torch.tensor(wanted, device=device)]
            return self.model.logits(hidden).float()


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
