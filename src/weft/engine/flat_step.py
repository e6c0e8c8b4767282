"""The attention context of a step over flat pages (:mod:`weft.ops.flat_pages`): rows alone, rows in tiles.

Sizes come from ladders, since the attention is compiled for each: rows that are alone are filled up to the
next size, and so are tiles. What fills up belongs to nobody and writes nowhere. More than the largest size
that was compiled when the engine was made go in several calls: to compile in the middle of serving would hold
up everybody for seconds.

Dimensions: N rows of the step, I items (a stretch of rows of one sequence), W entries of a block table.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

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


def parts(count: int, ladder: Sequence[int]) -> list[tuple[range, int]]:
    """``count`` rows or tiles in calls of sizes of ``ladder``: those of each call, and its size."""
    spans = [range(begin, min(begin + ladder[-1], count)) for begin in range(0, count, ladder[-1])]
    return [(span, next(size for size in ladder if size >= len(span))) for span in spans]


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
        # Also where copies serve: recorded steps may come after them.
        pages.place(self._places_N, self._positions_N)

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
        numbered = list(enumerate(items))
        few = [(number, item) for number, item in numbered if item.count <= _FEW]
        long = [(number, item) for number, item in numbered if item.count > _FEW]
        return [*self._lone(few, tables), *self._tiled(long, tables)]

    def _lone(self, few: Sequence[tuple[int, Item]], tables: Tensor) -> Iterator[_Group]:
        alone = [(i.first + place, number, i.past + place) for number, i in few for place in range(i.count)]
        for span, size in parts(len(alone), self._pages.lone_sizes or sizes(len(alone))):
            nobody = [(0, -1, 0)] * (size - len(span))
            rows, owners, positions = zip(*alone[span.start : span.stop], *nobody, strict=True)
            table = tables[self._tensor(owners)].unsqueeze(1)
            places = self._tensor(positions).int().unsqueeze(1)
            taken, real = self._tensor(rows), self._tensor(range(len(span)))
            tiles = Tiles.of(places, table, LONE, self._pages.window)
            yield _Group(taken, real, taken[: len(span)], tiles)

    def _tiled(self, long: Sequence[tuple[int, Item]], tables: Tensor) -> Iterator[_Group]:
        tiles = [(number, item, begin) for number, item in long for begin in range(0, item.count, TILE)]
        for span, size in parts(len(tiles), self._pages.tile_sizes or tile_sizes(len(tiles))):
            yield self._tile_group(tiles[span.start : span.stop], size, tables)

    def _tile_group(self, own: Sequence[tuple[int, Item, int]], size: int, tables: Tensor) -> _Group:
        rows, positions = np.zeros((size, TILE), np.int64), np.full((size, TILE), -1, np.int32)
        for place, (_, item, begin) in enumerate(own):
            span = np.arange(begin, min(begin + TILE, item.count))
            rows[place, : len(span)], positions[place, : len(span)] = item.first + span, item.past + span
        owners = [number for number, *_ in own] + [-1] * (size - len(own))
        table = tables[self._tensor(owners)].unsqueeze(0)
        real = np.flatnonzero(positions >= 0)
        tiles = Tiles.of(self._tensor(positions.reshape(1, -1)), table, TILE, self._pages.window)
        taken = rows.reshape(-1)
        return _Group(self._tensor(taken), self._tensor(real), self._tensor(taken[real]), tiles)

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
        pages.place(self._places_N, self._positions_N)
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


def compare_paged(pages: FlatPages, lone: Sequence[int], budget: int) -> None:
    """Compile attention for calls of ``lone`` rows (ascending), and of the tiles that most steps of up to
    ``budget`` tokens need, and compare each with that of copies; steps make calls of these sizes only.

    Where it fails or differs, a warning says so and copies serve. The cache must not be in use yet.
    """
    # Tiles of many sequences are not all full.
    pages.lone_sizes, pages.tile_sizes = lone, tile_sizes(-(-2 * budget // TILE))
    try:
        differs = _differs(pages)
    except Exception as failure:
        return _give_up(pages, f"flex_attention could not be compared here ({said(failure)})")
    if differs:
        _give_up(pages, "flex_attention gives other results here than plain attention")


def _differs(pages: FlatPages) -> bool:
    """Whether a call of any size gives other results than copies; False where one failed, which is said."""
    # One of its own: that of the process is of no use after a recording that failed.
    noise = torch.Generator(pages.device).manual_seed(0)
    for tensor in (pages.keys[0], pages.values[0]):
        tensor.normal_(generator=noise)
    blocks = range(min(pages.width, pages.scratch, 2 * TILE // PAGE))
    every = torch.arange(len(blocks) * PAGE, device=pages.device)
    pages.place(every, every)
    for items in _steps_of_each_size(pages, blocks):
        shape = (sum(item.count for item in items), pages.H, pages.D)
        q_NHD = torch.randn(shape, device=pages.device, generator=noise).to(pages.dtype)
        step = FlatStep(pages, items)
        found = step.mixed(0, q_NHD).float()
        if not pages.paged:
            return False
        with plainly():
            expected = step.mixed(0, q_NHD).float()
        bound = 5e-3 if pages.dtype == torch.float32 else 0.02
        # NaN is not below the bound either.
        if not float((found - expected).norm()) <= bound * float(expected.norm()):
            return True
    return False


def _steps_of_each_size(pages: FlatPages, blocks: range) -> Iterator[list[Item]]:
    """Steps over these blocks that make a call of each size, with something to fill up where that can be."""
    most = len(blocks) * PAGE
    for below, size in zip((0, *pages.lone_sizes), pages.lone_sizes, strict=False):
        yield [Item(n, 1, (most - 1 - 7 * n) % most, blocks) for n in range(max(below + 1, size - 1))]
    for size in pages.tile_sizes:
        many = max(1, (size - 1) // -(-most // TILE))
        items = [Item(0, most - n % 3, n % 3, blocks) for n in range(many)]
        # A token behind them, as in steps that are mixed.
        items.append(Item(0, 1, most - 3, blocks))
        firsts = accumulate((item.count for item in items), initial=0)
        yield [replace(item, first=first) for item, first in zip(items, firsts, strict=False)]


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
