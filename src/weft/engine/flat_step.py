"""The attention context of a step over flat pages (:mod:`weft.ops.flat_pages`): rows alone, rows in tiles.

Sizes come from ladders, since the attention is compiled for each: rows that are alone are filled up to the
next size, and so are tiles. What fills up belongs to nobody and writes nowhere.

Dimensions: N rows of the step, I items (a stretch of rows of one sequence), W entries of a block table.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from weft.engine.cache import StepContext, step_items
from weft.engine.scheduler import Work
from weft.ops.cache import AttentionContext
from weft.ops.compiled import plainly, said, wanted
from weft.ops.flat_pages import FlatPages
from weft.ops.flex import LONE, TILE, Tiles, attend
from weft.ops.page_layout import PAGE, Item, Layout
from weft.ops.paged import Pages, attend_gathered

_FEW = 8
"""Rows of an item that go each alone: tokens and drafts. More share the pages they read, in tiles."""

_log = logging.getLogger("weft.engine")


def sizes(most: int) -> list[int]:
    """The ladder of numbers of rows: 1, 2, 4, 8, 16, 24, 32, 48, 64, ... to the first that holds ``most``."""
    ladder = [1, 2, 4, 8, 16]
    while ladder[-1] < most:
        last = ladder[-1]
        ladder.append(last * 4 // 3 if last & (last - 1) else last * 3 // 2)
    return [size for size in ladder if size < most] + [next(size for size in ladder if size >= most)]


def tile_sizes(most: int) -> list[int]:
    """The ladder of numbers of tiles: 4, 16, 64, 128, 256, 512, ... to the first that holds ``most``."""
    ladder = [4]
    while ladder[-1] < most:
        ladder.append(ladder[-1] * (4 if ladder[-1] < 64 else 2))
    return ladder


def step_context(pages: Pages, work: Sequence[Work]) -> AttentionContext:
    """The context that these pages need."""
    return FlatStep(pages, step_items(work)) if isinstance(pages, FlatPages) else StepContext(pages, work)


@dataclass(frozen=True)
class _Group:
    """Rows of a step that are attended to in one call: places of ``tiles`` take ``rows`` int64 [Z * S] of the
    step, and the ``real`` int64 [M] among them give theirs to ``target`` int64 [M]."""

    rows: Tensor
    real: Tensor
    target: Tensor
    tiles: Tiles


class FlatStep:
    """The context of a step of any ``items``, single tokens and chunks of prompts."""

    def __init__(self, pages: FlatPages, items: Sequence[Item]):
        self._pages, self._items = pages, items
        spans = [(item.blocks, range(item.past, item.past + item.count)) for item in items]
        places = [blocks[p // PAGE] * PAGE + p % PAGE for blocks, span in spans for p in span]
        self._positions_N = self._tensor([p for _, span in spans for p in span])
        self._places_N = self._tensor(places)

    def positions(self, tokens_BT: Tensor) -> Tensor:
        """int64 [1, N]."""
        return self._positions_N.unsqueeze(0)

    def attend(self, layer: int, q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor) -> Tensor:
        """[1, N, H, D]; stores the new keys and values first."""
        self._pages.write(layer, self._places_N, k_BTGD[0], v_BTGD[0])
        return self.mixed(layer, q_BTHD[0]).unsqueeze(0)

    def mixed(self, layer: int, q_NHD: Tensor) -> Tensor:
        """[N, H, D]: attention over what is stored, through copies where flex_attention has failed once."""
        if self._pages.paged and wanted():
            try:
                return self._paged(layer, q_NHD)
            except torch.OutOfMemoryError:
                raise
            except Exception as failure:
                _give_up(self._pages, f"flex_attention fails here ({said(failure)})")
        return attend_gathered(self._pages, layer, self._layout, q_NHD)

    def _paged(self, layer: int, q_NHD: Tensor) -> Tensor:
        out = torch.empty_like(q_NHD, memory_format=torch.contiguous_format)
        for group in self._groups:
            batches, heads = group.tiles.positions.shape[0], q_NHD.shape[1:]
            q_ZSHD = q_NHD[group.rows].view(batches, -1, *heads)
            mixed_ZHSD = attend(self._pages, layer, group.tiles, q_ZSHD.transpose(1, 2))
            out[group.target] = mixed_ZHSD.transpose(1, 2).reshape(-1, *heads)[group.real]
        return out

    @cached_property
    def _layout(self) -> Layout:
        return Layout(self._items, self._pages.device)

    @cached_property
    def _groups(self) -> list[_Group]:
        pages, items = self._pages, self._items
        tables_IW = np.full((len(items) + 1, pages.width), pages.scratch, np.int32)
        for table_W, item in zip(tables_IW, items, strict=False):
            table_W[: len(item.blocks)] = item.blocks
        tables = self._tensor(tables_IW)
        pages.place(tables[:-1].long(), self._tensor([-(-(i.past + i.count) // PAGE) for i in items]))
        numbered = list(enumerate(items))
        few = [(number, item) for number, item in numbered if item.count <= _FEW]
        long = [(number, item) for number, item in numbered if item.count > _FEW]
        return [*([self._lone(few, tables)] if few else []), *([self._tiled(long, tables)] if long else [])]

    def _lone(self, few: Sequence[tuple[int, Item]], tables: Tensor) -> _Group:
        rows = [item.first + place for _, item in few for place in range(item.count)]
        owners = [number for number, item in few for _ in range(item.count)]
        positions = [item.past + place for _, item in few for place in range(item.count)]
        missing = sizes(len(rows))[-1] - len(rows)
        table = tables[self._tensor([*owners, *[-1] * missing])].unsqueeze(1)
        places = self._tensor([*positions, *[0] * missing]).int().unsqueeze(1)
        tiles = Tiles.of(places, table, LONE, self._pages.window)
        taken, real = self._tensor([*rows, *[0] * missing]), self._tensor(list(range(len(rows))))
        return _Group(taken, real, taken[: len(rows)], tiles)

    def _tiled(self, long: Sequence[tuple[int, Item]], tables: Tensor) -> _Group:
        owners = [number for number, item in long for _ in range(0, item.count, TILE)]
        owners += [-1] * (tile_sizes(len(owners))[-1] - len(owners))
        rows, positions = np.zeros(len(owners) * TILE, np.int64), np.full(len(owners) * TILE, -1, np.int32)
        real: list[int] = []
        begin = 0
        for _, item in long:
            own = slice(begin, begin + item.count)
            rows[own] = np.arange(item.first, item.first + item.count)
            positions[own] = np.arange(item.past, item.past + item.count)
            real += range(own.start, own.stop)
            begin += -(-item.count // TILE) * TILE
        table = tables[self._tensor(owners)].unsqueeze(0)
        tiles = Tiles.of(self._tensor(positions).unsqueeze(0), table, TILE, self._pages.window)
        return _Group(self._tensor(rows), self._tensor(real), self._tensor(rows[real]), tiles)

    def _tensor(self, numbers: Sequence[int] | npt.NDArray[np.int32] | npt.NDArray[np.int64]) -> Tensor:
        return torch.as_tensor(numbers).to(self._pages.device)


class LoneRows:
    """The context of a step whose rows are each alone, and lie in memory that stays.

    ``rows`` int32 [N, 2 + W] on the device of ``pages``: position, place (block * 16 + offset), block table.
    """

    def __init__(self, pages: FlatPages, rows: Tensor):
        self._pages = pages
        # A copy, since a view of one row has strides of its own, for which all would be compiled again.
        numbers = rows[:, :2].T.clone(memory_format=torch.contiguous_format)
        self._positions_N, self._places_N = numbers[0], numbers[1].long()
        tables_NW = rows[:, 2:]
        pages.place(tables_NW.long(), self._positions_N // PAGE + 1)
        self._tiles = Tiles.of(self._positions_N.unsqueeze(1), tables_NW.unsqueeze(1), LONE, pages.window)

    def positions(self, tokens_BT: Tensor) -> Tensor:
        """int32 [1, N]."""
        return self._positions_N.unsqueeze(0)

    def attend(self, layer: int, q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor) -> Tensor:
        """[1, N, H, D]; stores the new keys and values first. Raises what the compiler raises."""
        self._pages.write(layer, self._places_N, k_BTGD[0], v_BTGD[0])
        # The same strides as in a step of any items.
        q_NHSD = q_BTHD[0].contiguous().unsqueeze(1).transpose(1, 2)
        mixed_NHSD = attend(self._pages, layer, self._tiles, q_NHSD)
        return mixed_NHSD.squeeze(2).unsqueeze(0)


def compare_paged(pages: FlatPages, budget: int) -> None:
    """Compile attention for steps of up to ``budget`` tokens of prompts, and compare it with that of copies.

    Where it fails or differs, a warning says so and copies serve. The cache must not be in use yet.
    """
    for tensor in (pages.keys[0], pages.values[0]):
        tensor.normal_()
    blocks = range(min(pages.width, pages.scratch, 2 * TILE // PAGE))
    rows = len(blocks) * PAGE
    # Tiles of many sequences are not all full.
    for tiles in tile_sizes(-(-2 * budget // TILE)):
        # Two tiles each, fewer than there is room for, and a token behind them.
        many = max(1, tiles // 2 - 1)
        items = [Item(0, rows - place % 3, place % 3, blocks) for place in range(many)]
        items.append(Item(0, 1, rows - 3, blocks))
        items = [replace(item, first=sum(i.count for i in items[:n])) for n, item in enumerate(items)]
        step = FlatStep(pages, items)
        q_NHD = torch.randn(sum(item.count for item in items), pages.H, pages.D, device=pages.device)
        found = step.mixed(0, q_NHD.to(pages.dtype)).float()
        if not pages.paged:
            return
        with plainly():
            expected = step.mixed(0, q_NHD.to(pages.dtype)).float()
        bound = 5e-3 if pages.dtype == torch.float32 else 0.02
        if not float((found - expected).norm()) <= bound * float(expected.norm()):
            return _give_up(pages, "flex_attention gives other results here than plain attention")


def _give_up(pages: FlatPages, why: str) -> None:
    pages.paged = False
    _log.warning("%s; attention goes through copies, slower.", why)


def fill(rows: npt.NDArray[np.int32], items: Sequence[Item], scratch: int) -> None:
    """Write ``items`` into the rows [N, 2 + W] of :class:`LoneRows`; what is left over writes to ``scratch``.

    Entries of a table behind a row's position keep what they had: nobody reads them.
    """
    row = 0
    for item in items:
        for position in range(item.past, item.past + item.count):
            own = rows[row]
            own[0], own[1] = position, item.blocks[position // PAGE] * PAGE + position % PAGE
            own[2 : 2 + len(item.blocks)] = item.blocks
            row += 1
    rows[row:, :3] = (0, scratch * PAGE, scratch)
