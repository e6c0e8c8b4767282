"""Context parallel: the positions of every row are cut over the ranks of the cp line.

The model does not know it. Tokens, targets and rotary angles are those of this rank's positions, and the
:class:`~weft.ops.cache.AttentionContext` made here lets its queries see the keys of the other ranks: by ring
attention (:mod:`weft.parallel.ring`) or by an exchange of heads (:mod:`weft.parallel.heads`). The ranks share
the weights, and their losses are parts of one sum, so their gradients are summed like those of data ranks
(the mesh's ``sum`` line) and nothing else is needed.

With tensor parallel inside cp, the tp ranks gather the cp rank's positions before attention: ``attend`` gets
all local positions and the local heads, and nothing here changes.

Dimensions: B rows, T positions a row over all ranks, P = T / cp positions of a rank.
"""

from __future__ import annotations

from torch import Tensor

from weft.ops.attention import PackedRows
from weft.ops.cache import AttentionContext
from weft.parallel.cut import Cut
from weft.parallel.heads import HeadRows
from weft.parallel.mesh import Mesh
from weft.parallel.ring import RingRows


def split(
    tokens_BT: Tensor, targets_BT: Tensor, document_start_BT: Tensor, mesh: Mesh, window: int | None = None
) -> tuple[Tensor, Tensor, AttentionContext]:
    """(tokens [B, P], targets [B, P], context) of this rank, on its device; one cp rank keeps all positions.

    The whole rows come in on the host, as in :class:`weft.data.batch.Batch`; ``document_start`` counts from
    the row's first position, ``window`` is that of the model. T is a multiple of 2 * cp
    (:meth:`weft.parallel.plan.Plan.check`).
    """
    device, group = mesh.world.device, mesh.group("cp")
    if group is None:
        start = document_start_BT.to(device)
        return tokens_BT.to(device), targets_BT.to(device), PackedRows(start, window)
    cut = Cut.of(document_start_BT, window, mesh.plan.context, group, device)
    context = RingRows(cut) if mesh.plan.context == "ring" else HeadRows(cut)
    return tokens_BT[:, cut.mine].to(device), targets_BT[:, cut.mine].to(device), context
