"""From a small model to a wide one with the same learning rate: muP (arXiv:2203.03466), in stock models.

Rates and starting weights follow the width, so that what a step changes in each activation does not depend
on it. With m = width / base width, of a matrix inside a block the weights start at m^-1/2 of the usual
spread, and its rate is m^-1 under AdamW and m^-1/2 under Muon, whose update has the root mean square of
AdamW's but the spectral norm of an orthogonal matrix (arXiv:2410.21265). Embeddings and vectors keep their
rate. Scores must shrink with the width: an output matrix of its own starts at m^-1 and learns at m^-1; a tied
one cannot, so the final norm starts at m^-1 instead, which every program that reads the checkpoint
multiplies in.
"""

from __future__ import annotations

import torch
from torch import nn

from weft.models import Decoder


def rate(name: str, parameter: nn.Parameter, optimizer: str, ratio: float) -> float:
    """The factor of the learning rate of a parameter for a model ``ratio`` times the base width."""
    if parameter.ndim < 2 or name.startswith("embedding."):
        return 1.0
    if name.startswith("output."):
        return 1.0 / ratio
    return ratio**-0.5 if optimizer == "muon" else 1.0 / ratio


@torch.no_grad()
def rescale(model: Decoder, ratio: float) -> None:
    """Shrink freshly drawn weights as a model ``ratio`` times the base width needs it."""
    tied = model.config.tie_word_embeddings
    for name, parameter in model.named_parameters():
        if name.startswith("output.") or (name == "norm.weight" and tied):
            parameter.mul_(1.0 / ratio)
        elif name.startswith("blocks.") and parameter.ndim > 1:
            parameter.mul_(ratio**-0.5)
