"""fp8: the matrices of the blocks multiply in 8-bit floating point; see :mod:`weft.ops.float8`.

Embedding, output matrix, routers and experts stay in the work dtype: the first two decide what is read and
said, routers score in fp32, and the products of experts are grouped.
"""

from __future__ import annotations

from torch import nn

from weft.core.errors import ConfigError
from weft.models.layers import Block, Linear
from weft.ops.float8 import MULTIPLE, float8_linear
from weft.ops.local import local
from weft.parallel.tensor import RowLinear


def apply(module: nn.Module, float8: bool) -> None:
    """Let the blocks' matrices multiply in fp8; nothing without ``float8``.

    After tensor parallel, because what a rank holds decides; before compilation. A matrix whose sides on this
    rank are no multiples of 16 stays in the work dtype; ConfigError when all are so.
    """
    if not float8:
        return
    chosen = [layer for block in module.modules() if isinstance(block, Block) for layer in _matrices(block)]
    for layer in chosen:
        layer.product = float8_linear
    if not chosen:
        raise ConfigError(
            f"train.arithmetic = 'fp8' needs matrices whose sides are multiples of {MULTIPLE} on each rank; "
            "widen model.hidden_size and model.intermediate_size, or use bf16."
        )


def _matrices(block: Block) -> list[Linear | RowLinear]:
    layers = [layer for layer in block.modules() if isinstance(layer, (Linear, RowLinear))]
    return [layer for layer in layers if all(side % MULTIPLE == 0 for side in local(layer.weight).shape)]
