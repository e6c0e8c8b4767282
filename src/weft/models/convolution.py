"""A small CNN as a baseline: parallel convolutions over the tokens of a document.

Dimensions: B batch rows, T positions, E model width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.models.baseline import Baseline
from weft.models.baseline_config import BaselineConfig
from weft.models.layers import Linear
from weft.ops.both_ways import BothWays
from weft.ops.dropout import dropout


class Convolution(nn.Module):
    """relu(convolution) of several sizes side by side; a document is as long afterwards as before.

    Beyond the ends of its document a convolution reads zeros. One of an even size reads one token more after
    its position than before it.
    """

    def __init__(self, width: int, filters: dict[int, int]):
        """``filters``: the channels of the convolution of each size."""
        super().__init__()
        self.of_size = nn.ModuleDict(
            {str(size): Linear(size * width, count) for size, count in filters.items()}
        )
        sizes = list(filters)
        self.before, self.after = (max(sizes) - 1) // 2, max(sizes) // 2

    def forward(self, x_BTE: Tensor, context: BothWays) -> Tensor:
        """[B, T, E] -> [B, T, filters of all sizes]."""
        E = x_BTE.shape[-1]
        seen = torch.cat([shifted(x_BTE, context, by) for by in range(-self.before, self.after + 1)], dim=-1)
        found = []
        for name, matrix in self.of_size.items():
            size = int(name)
            first = self.before - (size - 1) // 2
            found.append(matrix(seen[..., first * E : (first + size) * E]))
        return F.relu(torch.cat(found, dim=-1))


class Convolutional(Baseline):
    """The CNN of Kim (arXiv:1408.5882): one layer, ReLU, max over the document, dropout, classifier.

    Convolutions reach beyond both ends of a text, which is padded with zeros, as in his programs. Labels of
    tokens come from the same features of each position (arXiv:1103.0398); further layers add to what is below
    them (arXiv:1512.03385) and see further. ``WeftCnnFor...`` are no stock architectures: no
    other program opens their checkpoints.
    """

    def __init__(self, config: BaselineConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(
            Convolution(config.hidden_size if number else config.input_size, config.filters)
            for number in range(config.num_hidden_layers)
        )

    def body(self, x_BTE: Tensor, context: BothWays) -> Tensor:
        """[B, T, E] -> [B, T, E]: the features of the window around each position."""
        for number, layer in enumerate(self.layers):
            if number:
                x_BTE = x_BTE + layer(dropout(x_BTE, self.config.dropout, self.training), context)
            else:
                x_BTE = layer(x_BTE, context)
        return x_BTE


def shifted(x_BTE: Tensor, context: BothWays, by: int) -> Tensor:
    """[B, T, E]: at each position what stands ``by`` positions after it in its document, or zeros."""
    index = torch.arange(by, x_BTE.shape[1] + by, device=x_BTE.device)
    inside = (index >= context.start) & (index < context.end)
    return x_BTE.roll(-by, 1) * inside.unsqueeze(-1).to(x_BTE.dtype)
