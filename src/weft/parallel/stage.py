"""A piece of a decoder: some of its blocks, and its ends where this is the first or the last piece.

Parameters have the names that they have in the whole decoder. Dimensions as in :mod:`weft.models.layers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from weft.models import Decoder
from weft.models.decoder import through
from weft.models.layers import Output, RMSNorm
from weft.parallel.rows import Rows


@dataclass(frozen=True)
class Work:
    """What a stage computes on: the micro-batches of a step, which every stage of a pipeline reads itself."""

    rows: Sequence[Rows]
    dtype: torch.dtype


class Stage(nn.Module):
    """Blocks ``layers`` of ``whole``, whose modules it takes over.

    The first stage embeds the tokens, the last one has the final norm and the output matrix; elsewhere these
    attributes are None. With tied embeddings the last stage holds the embedding too, since its output
    matrix is the embedding's: a copy of the first stage's, under the same name.
    """

    embedding: nn.Embedding
    norm: RMSNorm
    output: Output
    inverse_frequencies: Tensor

    def __init__(self, whole: Decoder, layers: Iterable[int], first: bool, last: bool):
        super().__init__()
        self.config, self.first, self.last = whole.config, first, last
        self.work: Work | None = None
        embeds = first or (last and whole.config.tie_word_embeddings)
        self.register_module("embedding", whole.embedding if embeds else None)
        self.blocks = nn.ModuleDict({str(layer): whole.blocks[layer] for layer in layers})
        self.register_module("norm", whole.norm if last else None)
        self.register_module("output", whole.output if last else None)
        self.register_buffer("inverse_frequencies", whole.inverse_frequencies, persistent=False)

    def forward(self, x_BTE: Tensor | None = None, *, number: Tensor) -> Tensor:
        """Hidden states [B, T, E] after this stage, from those before it (the first stage takes none).

        ``number`` int64 [1], on the host: which micro-batch of the work this is. Schedules run them in any
        order, so it comes with each.
        """
        assert self.work is not None
        rows, dtype = self.work.rows[int(number)], self.work.dtype
        if x_BTE is None:
            x_BTE = self.embedding(rows.tokens).to(dtype)
        x_BTE = through(self.blocks.values(), x_BTE, rows.tokens, self.inverse_frequencies, rows.context)
        out: Tensor = self.norm(x_BTE) if self.last else x_BTE
        return out
