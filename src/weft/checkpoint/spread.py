"""Tensors that are spread over ranks: where their parts lie, and one box of one of them put together.

A box is a rectangular part of a tensor: ``(first, size)`` for each dimension. A rank holds one box of each
tensor that it knows (of a DTensor its local part), several may hold the same, and together they cover it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from weft.ops.local import local
from weft.parallel.company import Company

Box = tuple[tuple[int, int], ...]


def box(tensor: Tensor) -> Box:
    """The part of ``tensor`` that this rank holds."""
    if not isinstance(tensor, DTensor):
        return whole(tuple(tensor.shape))
    sizes, firsts = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(zip(firsts, sizes, strict=True))


def whole(shape: tuple[int, ...]) -> Box:
    """The box that is all of a tensor."""
    return tuple((0, size) for size in shape)


def shape(box: Box) -> tuple[int, ...]:
    """The shape of what is in it."""
    return tuple(size for _, size in box)


def common(a: Box, b: Box) -> Box | None:
    """What two boxes of one tensor share, None for nothing."""
    found = []
    for (first_a, size_a), (first_b, size_b) in zip(a, b, strict=True):
        first, stop = max(first_a, first_b), min(first_a + size_a, first_b + size_b)
        if stop <= first:
            return None
        found.append((first, stop - first))
    return tuple(found)


def within(inner: Box, outer: Box) -> tuple[slice, ...]:
    """``inner`` as an index into a tensor that holds ``outer``."""
    return tuple(
        slice(first - base, first - base + size)
        for (first, size), (base, _) in zip(inner, outer, strict=True)
    )


class Spread:
    """Named tensors of one model that the ranks of ``company`` hold together; every rank must make one."""

    def __init__(self, tensors: Mapping[str, Tensor], company: Company):
        self.company = company
        self._own = {name: (box(t), local(t.detach())) for name, t in tensors.items()}
        told = {name: (held, part.dtype) for name, (held, part) in self._own.items()}
        self._holders: dict[str, dict[Box, list[int]]] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        for rank, boxes in enumerate(company.all(lambda: told)):
            for name, (held, dtype) in boxes.items():
                self._holders.setdefault(name, {}).setdefault(held, []).append(rank)
                self._dtypes[name] = dtype

    def dtype(self, name: str) -> torch.dtype:
        """Of a tensor that any rank holds."""
        return self._dtypes[name]

    def fetch(self, name: str, wanted: Box, dtype: torch.dtype, rank: int) -> Tensor | None:
        """The box of ``name`` as a CPU tensor on ``rank``, None on the others; every rank must call it.

        Parts travel from one rank that holds them to ``rank``, one at a time and already in ``dtype``.
        """
        me = self.company.rank
        result: Tensor | None = None
        for held, ranks in self._holders[name].items():
            piece = common(held, wanted)
            if piece is None:
                continue
            source = rank if rank in ranks else ranks[0]
            part = self._part(name, piece, dtype) if me == source else None
            if me == source and source != rank and part is not None:
                self.company.send(part, rank)
            if me != rank:
                continue
            if part is None:
                part = self.company.receive(shape(piece), dtype, source)
            if piece == wanted:
                result = part
            else:
                result = torch.empty(shape(wanted), dtype=dtype) if result is None else result
                result[within(piece, wanted)] = part
        return result

    def _part(self, name: str, piece: Box, dtype: torch.dtype) -> Tensor:
        held, tensor = self._own[name]
        return tensor[within(piece, held)].to(device="cpu", dtype=dtype).contiguous()
