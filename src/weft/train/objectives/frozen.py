"""A decoder beside the one that is trained, which stays as it is: a reference, or a teacher.

B rows, T positions, E model width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from weft.checkpoint.huggingface import load_model
from weft.checkpoint.safe_folder import resolve
from weft.core.errors import ConfigError
from weft.models import Decoder
from weft.models.layers import Linear
from weft.ops.attention import PackedRows
from weft.parallel.rows import Rows
from weft.tokenizer import Tokenizer
from weft.train.lora import LowRankLinear


class Frozen:
    """The checkpoint ``folder``; read when it is first asked, in the arithmetic's number format."""

    def __init__(self, folder: str):
        self.folder = folder
        self._held: tuple[Decoder, torch.dtype] | None = None

    def model(self, device: torch.device, dtype: torch.dtype) -> Decoder:
        """The decoder on ``device``, its matrices in ``dtype``, which is what products would make of them."""
        if self._held is None or self._held[1] != dtype:
            found = load_model(self.folder, torch.float32, device).requires_grad_(False).eval()
            matrices = [part for part in found.modules() if isinstance(part, (Linear, torch.nn.Embedding))]
            for part in matrices:
                part.weight.data = part.weight.data.to(dtype)
            self._held = found, dtype
        return self._held[0]

    @torch.no_grad()
    def hidden(self, rows: Rows, dtype: torch.dtype) -> Tensor:
        """Final hidden states [B, T, E] of packed rows."""
        model, seen = self.model(rows.tokens.device, dtype), packed(rows)
        # The window is this model's, which may be another than that of the model that is trained.
        context = PackedRows(seen.document_start, model.config.sliding_window)
        context.causal = seen.causal and seen.window == context.window
        found: Tensor = model(rows.tokens, context, dtype)
        return found


def packed(rows: Rows) -> PackedRows:
    """The context of whole rows, the only one that a plan without cp has."""
    assert isinstance(rows.context, PackedRows)
    return rows.context


def teacher(folder: str, tokenizer: Tokenizer) -> Frozen:
    """The checkpoint ``folder``; ConfigError unless it has exactly this tokenizer."""
    if Tokenizer.load(resolve(folder)).fingerprint != tokenizer.fingerprint:
        raise ConfigError(
            f"objective.teacher = {folder} has another tokenizer than data.path, so their distributions are "
            "over other tokens; make the data with weft data --tokenizer and the teacher's."
        )
    return Frozen(folder)


def adapters(model: torch.nn.Module) -> list[LowRankLinear]:
    """The matrices of ``model`` with a trained part beside frozen weights."""
    return [part for part in model.modules() if isinstance(part, LowRankLinear)]


@contextlib.contextmanager
def without(parts: list[LowRankLinear]) -> Iterator[None]:
    """The model that adapters stand beside, as long as this lasts."""
    before = [(part.scale, part.dropout) for part in parts]
    for part in parts:
        part.scale, part.dropout = 0.0, 0.0
    try:
        yield
    finally:
        for part, kept in zip(parts, before, strict=True):
            part.scale, part.dropout = kept
