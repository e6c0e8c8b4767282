"""The rows of one step over pages of keys and values: whose they are, what they see, where they go.

Dimensions: N rows of the step, I items (a stretch of rows of one sequence), W entries of a block table, H
query heads, R the farthest distance that has a bias of its own, S rows and L keys of the items of a batch.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

PAGE = 16
"""Positions of a block; the native kernel takes a block as one vector of fp32 scores."""

_FEW, _BATCH = 8, 1 << 16
"""Rows of an item that shares a batch with others, and keys of such a batch: its copy stays small."""


class _Step(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("items", "width", "rows")),
        *((name, ctypes.c_void_p) for name in ("first_row", "count", "past", "seen", "tables", "places")),
        ("bias", ctypes.c_void_p),
        ("reach", ctypes.c_long),
    )


@dataclass(slots=True)
class Item:
    """``count`` rows of the step from ``first`` on: a sequence's positions ``past``, ``past + 1``, and so on.

    ``blocks`` hold its positions from 0 to at least ``past + count``. A row sees its own position and those
    before it, or with ``seen`` the first so many keys in ``blocks``, whatever its position is.
    """

    first: int
    count: int
    past: int
    blocks: Sequence[int]
    seen: int = 0

    def until(self, position: int) -> int:
        """One past the last key that a row at this position sees."""
        return self.seen or position + 1


class Layout:
    """The rows of one step: whose they are and where their keys and values go.

    ``bias`` fp32 [H, 2 R + 1] is added to scores by distance, key minus query, from -R to R; what is farther
    has the last one. ``stored`` False: the keys are there already, and rows bring none.
    """

    def __init__(
        self,
        items: Sequence[Item],
        device: torch.device,
        *,
        bias: Tensor | None = None,
        stored: bool = True,
    ):
        self.items, self.bias = items, None if bias is None else bias.float().contiguous()
        width = max(len(item.blocks) for item in items)
        tables = [number for item in items for number in (*item.blocks, *[0] * (width - len(item.blocks)))]
        spans = [(item.blocks, range(item.past, item.past + item.count)) for item in items]
        places = [blocks[p // PAGE] * PAGE + p % PAGE for blocks, span in spans for p in span if stored]
        # Plain arrays: a step of a small model has little time for tensors.
        self._positions = array("i", [p for _, span in spans for p in span])
        self._arrays = (
            array("i", [item.first for item in items]),
            array("i", [item.count for item in items]),
            array("i", [item.past for item in items]),
            array("i", [item.seen for item in items]),
            array("i", tables),
        )
        self._places = array("q", places)
        self._device = device
        self.native = _Step(
            *(len(items), width, len(self._positions)),
            *(x.buffer_info()[0] for x in self._arrays),
            self._places.buffer_info()[0] if stored else None,
            None if self.bias is None else self.bias.data_ptr(),
            0 if self.bias is None else self.reach,
        )

    @property
    def native_positions(self) -> tuple[int, int]:
        """The address of each row's position, int32 [N], and a number that all are below; it holds as long as
        this object lives."""
        return self._positions.buffer_info()[0], max(self._positions) + 1

    @cached_property
    def positions_N(self) -> Tensor:
        """int64 [N]: each row's position in its sequence."""
        return torch.tensor(self._positions.tolist(), device=self._device)

    @cached_property
    def places_N(self) -> Tensor:
        """int64 [N]: where each row's key and value go, block * PAGE + offset; none are stored if empty."""
        return torch.tensor(self._places.tolist(), dtype=torch.int64)

    @cached_property
    def batches(self) -> list[Batch]:
        """The items as attention through copies takes them (:func:`weft.ops.paged.attend_gathered`)."""
        return list(batches(self.items, self._device))

    @property
    def reach(self) -> int:
        """R of the bias, which must be there."""
        assert self.bias is not None
        return self.bias.shape[1] // 2

    def biases(self, query: Tensor, key_L: Tensor) -> Tensor:
        """fp32 [H, ..., L] for int64 positions [...] and [L]."""
        assert self.bias is not None
        distance = (key_L - query.unsqueeze(-1)).clamp(-self.reach, self.reach)
        return self.bias[:, distance + self.reach]


@dataclass(frozen=True)
class Batch:
    """Items that are attended to together, each padded to as many rows and blocks as the longest has.

    ``rows`` int64 [I, S] of the step; ``real`` int64 [M] are the places of I * S where an item has one, and
    ``target`` int64 [M] the rows there; ``blocks`` int64 [I, W]; ``query`` int64 [I, S] are positions, and
    ``until`` one past the last key that each row sees; ``end`` int64 [I] is one past the last key there is.
    """

    rows: Tensor
    real: Tensor
    target: Tensor
    blocks: Tensor
    query: Tensor
    until: Tensor
    end: Tensor

    def mask(self, key_L: Tensor, window: int | None) -> Tensor:
        """bool [I, S, L]: which keys each row sees."""
        seen = key_L < self.until.unsqueeze(-1)
        return seen if window is None else seen & (key_L > self.query.unsqueeze(-1) - window)


def batches(items: Sequence[Item], device: torch.device) -> Iterator[Batch]:
    """Items of few rows in batches of like length, and each of the others by itself."""
    few = sorted((item for item in items if item.count <= _FEW), key=lambda item: len(item.blocks))
    while few:
        longest = len(few[-1].blocks)
        most = max(1, _BATCH // (longest * PAGE))
        together = [item for item in few[-most:] if 2 * len(item.blocks) >= longest]
        del few[-len(together) :]
        yield _batch(together, device)
    for item in items:
        if item.count > _FEW:
            yield _batch([item], device)


def _batch(items: Sequence[Item], device: torch.device) -> Batch:
    places, width = range(max(item.count for item in items)), max(len(item.blocks) for item in items)

    def table(rows: list[list[int]]) -> Tensor:
        return torch.tensor(rows, device=device)

    # A row that is not there sees what the first row does: softmax needs a key.
    rows = [[place if place < item.count else 0 for place in places] for item in items]
    return Batch(
        table([[item.first + place for place in row] for item, row in zip(items, rows, strict=True)]),
        torch.tensor(
            [i * len(places) + p for i, item in enumerate(items) for p in range(item.count)], device=device
        ),
        torch.tensor([item.first + place for item in items for place in range(item.count)], device=device),
        table([[*item.blocks, *[0] * (width - len(item.blocks))] for item in items]),
        table([[item.past + place for place in row] for item, row in zip(items, rows, strict=True)]),
        table([[item.until(item.past + p) for p in row] for item, row in zip(items, rows, strict=True)]),
        torch.tensor([item.until(item.past + item.count - 1) for item in items], device=device),
    )
