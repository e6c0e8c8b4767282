"""The cache of keys and values as kernels of GPUs read it: a position is a row of memory.

Dimensions: N rows of the step, B blocks of :data:`PAGE` positions, L = (B + 1) * 16 positions in all, G
key-value heads, D head size, W entries of a block table.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weft.ops.cache import NativeAttention
from weft.ops.compiled import Compiled
from weft.ops.page_layout import PAGE, Layout
from weft.ops.paged import Pages, attend_gathered


class FlatPages(Pages):
    """Keys and values [B + 1, 16, G, D] of every layer, in the dtype of the model.

    The last block, :attr:`scratch`, belongs to nobody: rows that only fill up a batch write there.
    ``width`` is W, the most blocks of a sequence. A value that is no finite number is stored as zero and
    makes its key NaN: so whoever sees it gets NaN, and whoever does not gets nothing of it, although a weight
    of zero would not remove a NaN (the native path leaves out what a row does not see instead).

    ``starts`` int32 [B + 1] is the position in its sequence of the first place of each block: whoever writes
    into a block notes it (:meth:`place`). It is one number whoever holds the block: what several sequences
    share is a prefix of each.
    ``paged``: whether :mod:`weft.ops.flex` may attend; else copies serve. ``lone_sizes`` and ``tile_sizes``
    are the ascending numbers of rows alone, and of tiles, for which that is compiled; without any, all are.
    """

    def __init__(
        self,
        layers: int,
        blocks: int,
        heads: tuple[int, int],
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        window: int | None = None,
        *,
        width: int,
    ):
        self.scratch, self.width = blocks, width
        super().__init__(layers, blocks, heads, head_dim, dtype, device, window)
        self.starts = torch.zeros(blocks + 1, dtype=torch.int32, device=device)
        self.paged = True
        self.lone_sizes: Sequence[int] = ()
        self.tile_sizes: Sequence[int] = ()

    def _shapes(self, blocks: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        shape = (blocks + 1, PAGE, self.G, self.D)
        return shape, shape

    def attend(
        self,
        layer: int,
        layout: Layout,
        q_NHD: Tensor,
        k_NGD: Tensor | None = None,
        v_NGD: Tensor | None = None,
    ) -> Tensor:
        """[N, H, D] through copies, as :func:`weft.ops.paged.attend_gathered` does it; stores first."""
        if k_NGD is not None and v_NGD is not None:
            self.store(layer, layout, k_NGD, v_NGD)
        return attend_gathered(self, layer, layout, q_NHD)

    def native(self, layout: Layout, q_NHD: Tensor) -> NativeAttention | None:
        """None: native code reads another order of memory."""
        return None

    def store(self, layer: int, layout: Layout, k_NGD: Tensor, v_NGD: Tensor) -> None:
        """As :meth:`write`, at the places of a layout, which are noted."""
        places_N = layout.places_N.to(self.device)
        self.place(places_N, layout.positions_N)
        self.write(layer, places_N, k_NGD, v_NGD)

    def write(self, layer: int, places_N: Tensor, k_NGD: Tensor, v_NGD: Tensor) -> None:
        """Store keys and values at int64 ``places`` [N], block * 16 + offset."""
        _write(self._rows(self.keys[layer]), self._rows(self.values[layer]), places_N, k_NGD, v_NGD)

    def gather(self, layer: int, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of ``blocks`` [W], each [W * 16, G, D]."""
        return self.keys[layer][blocks].flatten(0, 1), self.values[layer][blocks].flatten(0, 1)

    def all_rows(self, layer: int) -> tuple[Tensor, Tensor]:
        """Views of all keys and values of a layer, each [1, G, L, D]."""
        keys, values = (self._rows(x[layer]).transpose(0, 1).unsqueeze(0) for x in (self.keys, self.values))
        return keys, values

    def place(self, places_N: Tensor, positions_N: Tensor) -> None:
        """Note in ``starts`` where the blocks of int64 ``places`` [N] lie, whose positions are these.

        A step calls it for its own rows alone: the blocks before them were noted when they were written.
        """
        self.starts[places_N // PAGE] = (positions_N // PAGE * PAGE).int()

    def _rows(self, x: Tensor) -> Tensor:
        return x.view(-1, self.G, self.D)


def _write_plain(
    keys_LGD: Tensor, values_LGD: Tensor, places_N: Tensor, k_NGD: Tensor, v_NGD: Tensor
) -> None:
    finite_NG1 = v_NGD.abs().amax(-1, keepdim=True) < torch.inf
    keys_LGD.index_put_((places_N,), torch.where(finite_NG1, k_NGD, torch.nan))
    values_LGD.index_put_((places_N,), torch.where(v_NGD.isfinite(), v_NGD, 0.0))


_write = Compiled(_write_plain, dynamic=True)
