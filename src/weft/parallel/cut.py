"""How the positions of packed rows are cut over the ranks of the cp line.

Dimensions: B rows, T positions a row over all ranks, P = T / cp positions of a rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from weft.parallel.plan import Context


def held(method: Context, length: int, rank: int, size: int) -> Tensor:
    """int64 [P]: the positions of a row that ``rank`` of ``size`` holds, rising.

    A causal ring is balanced when rank r holds pieces r and 2 * size - 1 - r of 2 * size (each rank then has
    as many visible pairs at every turn of the ring); heads are balanced with any cut, so that stays whole.
    """
    positions = torch.arange(length)
    if method == "heads":
        return positions.chunk(size)[rank]
    pieces = positions.chunk(2 * size)
    return torch.cat((pieces[rank], pieces[2 * size - 1 - rank]))


@dataclass(frozen=True)
class Cut:
    """Packed rows, and which of their positions each rank of ``group`` holds.

    ``document_start_BT`` is that of the whole rows and lies on the host, ``window`` is the model's;
    ``places[r]``: int64 [P], what rank r holds. Computation is on ``device``.
    """

    document_start_BT: Tensor
    window: int | None
    places: list[Tensor]
    group: dist.ProcessGroup
    device: torch.device

    @classmethod
    def of(
        cls,
        document_start_BT: Tensor,
        window: int | None,
        method: Context,
        group: dist.ProcessGroup,
        device: torch.device,
    ) -> Cut:
        """The cut that ``method`` wants."""
        length, size = document_start_BT.shape[1], group.size()
        places = [held(method, length, rank, size) for rank in range(size)]
        return cls(document_start_BT, window, places, group, device)

    @property
    def mine(self) -> Tensor:
        """int64 [P]: the positions that this rank holds."""
        return self.places[self.group.rank()]

    def positions(self) -> Tensor:
        """int64 [B, P]: of each token in its own document, whichever rank holds the document's first."""
        return (self.mine - self.document_start_BT[:, self.mine].long()).to(self.device)
