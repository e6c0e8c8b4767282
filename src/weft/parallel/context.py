"""Context parallel: the positions of every row are cut over the ranks of the cp line.

The model does not know it. Tokens, targets and rotary angles are those of this rank's positions, and the
:class:`~weft.ops.cache.AttentionContext` made here lets its queries see the keys of the other ranks: by ring
attention (:mod:`weft.parallel.ring`) or by an exchange of heads (:mod:`weft.parallel.heads`). The ranks share
the weights, and their losses are parts of one sum, so their gradients are summed like those of data ranks
(the mesh's ``sum`` line) and nothing else is needed.

With tensor parallel inside cp, the tp ranks gather the cp rank's positions before attention: ``attend`` gets
all local positions and the local heads, and nothing here changes.

Dimensions: B rows, T positions a row over all ranks.
"""

from __future__ import annotations

import torch

from weft.data.batch import Batch
from weft.ops.cache import AttentionContext
from weft.parallel.cut import Cut
from weft.parallel.heads import HeadRows
from weft.parallel.mesh import Mesh
from weft.parallel.ring import RingRows
from weft.parallel.rows import Rows, packed


def split(batch: Batch, mesh: Mesh, window: int | None) -> Rows:
    """This cp rank's positions of a micro-batch, on its device; all of them where cp is 1.

    T of the batch is a multiple of 2 * cp (:meth:`weft.parallel.plan.Plan.check`); ``window`` is the model's.
    """
    device, group = mesh.world.device, mesh.group("cp")
    if group is None:
        return packed(batch, device, window)
    tokens_BT, targets_BT, start_BT = (
        torch.from_numpy(x) for x in (batch.tokens, batch.targets, batch.document_start)
    )
    cut = Cut.of(start_BT, window, mesh.plan.context, group, device)
    context: AttentionContext = RingRows(cut) if mesh.plan.context == "ring" else HeadRows(cut)
    return Rows(tokens_BT[:, cut.mine].to(device), targets_BT[:, cut.mine].to(device), context)
