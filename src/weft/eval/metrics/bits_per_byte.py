"""Bits per byte: how many bits a model needs for the text, per byte of it; comparable over tokenizers.

The sum of -log2 p over all targets of every document (its first token and its end of text included)
divided by the UTF-8 bytes of the texts. How long documents are cut: :mod:`weft.eval.windows`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from weft.data.batch import IGNORED, Batch
from weft.eval.windows import batches
from weft.models import Decoder
from weft.ops.attention import PackedRows

POSITIONS = 1024
"""Positions whose scores over the vocabulary exist at the same time."""


def document_bits(
    model: Decoder,
    tokens: npt.NDArray[np.integer],
    lengths: npt.NDArray[np.int64],
    eos_id: int,
    *,
    context: int,
    overlap: int = 0,
    rows: int = 8,
    dtype: torch.dtype | None = None,
) -> npt.NDArray[np.float64]:
    """float64 [documents]: bits of each document.

    ``tokens`` holds all documents one after another, each with its end of text, of ``lengths``, as in a
    shard. Windows are of ``context`` tokens and share ``overlap``; ``rows`` of them are worked on at once,
    matrix products in ``dtype`` (None: that of the weights).
    """
    bits = np.zeros(len(lengths))
    for batch, owners in batches(tokens, lengths, eos_id, context, overlap, rows):
        losses = target_losses(model, batch, dtype)
        bits += np.bincount(owners, weights=losses, minlength=len(lengths))
    return bits / math.log(2)


@torch.inference_mode()
def target_losses(model: Decoder, batch: Batch, dtype: torch.dtype | None) -> npt.NDArray[np.float64]:
    """float64 [targets]: -ln p of every target that is not IGNORED, in row-major order."""
    device = model.embedding.weight.device
    tokens, start = (torch.from_numpy(array).to(device) for array in (batch.tokens, batch.document_start))
    kept = torch.from_numpy(batch.targets.reshape(-1) != IGNORED).to(device)
    targets = torch.from_numpy(batch.targets).to(device).view(-1)[kept]
    hidden = model(tokens, PackedRows(start, model.config.sliding_window), dtype).flatten(0, 1)[kept]
    losses = [
        F.cross_entropy(
            model.logits(hidden[at : at + POSITIONS]).float(), targets[at : at + POSITIONS], reduction="none"
        )
        for at in range(0, len(targets), POSITIONS)
    ]
    found: npt.NDArray[np.float64] = torch.cat(losses).double().cpu().numpy()
    return found
