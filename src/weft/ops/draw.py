"""A token from a row of scores: a plain reference and a native path.

The filters, in this order: temperature, top-k, top-p (arXiv:1904.09751), min-p (arXiv:2407.01082); each works
on what the one before kept, made to sum to 1 again. V is the vocabulary size, C the number of candidates.
"""

from __future__ import annotations

import ctypes
import functools
import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.ops.kernels import address, serving, usable, whole

_NUCLEUS = 256
_TOGETHER = 64
"""Rows whose sums are held at once: 80 MB with 150,000 tokens in fp64."""


@dataclass(frozen=True)
class Draw:
    """How to draw: ``top_k`` 0, ``top_p`` 1 and ``min_p`` 0 are off; ``number`` in [0, 1) decides."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    number: float


class _Filters(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_float) for name in ("temperature", "top_p", "min_p")),
        ("top_k", ctypes.c_int64),
        ("number", ctypes.c_double),
    )


def draw_rows(scores_MV: Tensor, rows: Sequence[int], draws: Sequence[Draw]) -> list[int]:
    """A token for each of ``rows`` of fp32 scores, by the draw that stands beside it."""
    library = serving("draw") if usable(scores_MV) and scores_MV.dtype == torch.float32 else None
    if scores_MV.device.type == "cuda" and all(not d.top_k and d.top_p == 1 and not d.min_p for d in draws):
        return draw_together(scores_MV, rows, draws)
    if library is None:
        return [draw_plain(scores_MV[row], draw) for row, draw in zip(rows, draws, strict=True)]
    if scores_MV.stride(1) != 1:
        scores_MV = scores_MV.contiguous()
    index, tokens = torch.tensor(rows), torch.empty(len(rows), dtype=torch.int64)
    filters = (_Filters * len(draws))(
        *(_Filters(d.temperature, d.top_p, d.min_p, d.top_k, d.number) for d in draws)
    )
    numbers = whole(scores_MV.stride(0), scores_MV.shape[1], len(rows))
    library.weft_draw(address(scores_MV), *numbers, address(index), filters, address(tokens))
    chosen: list[int] = tokens.tolist()
    return chosen


def greatest_rows(scores_MV: Tensor) -> tuple[list[float], list[int]]:
    """The greatest score of each row, NaN where one is, and the first token that has it (0 for NaN)."""
    native = _greatest()
    M, V = scores_MV.shape
    stride, step = scores_MV.stride()
    if native is None or step != 1 or scores_MV.dtype != torch.float32 or not scores_MV.is_cpu:
        return greatest_plain(scores_MV)
    best, tokens = array("f", bytes(4 * M)), array("q", bytes(8 * M))
    native(scores_MV.data_ptr(), stride, V, M, best.buffer_info()[0], tokens.buffer_info()[0])
    return best.tolist(), tokens.tolist()


@functools.cache
def _greatest() -> Callable[..., None] | None:
    library = serving("draw")
    if library is None:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_long
    function: Callable[..., None] = library.weft_greatest
    function.argtypes = [pointer, number, number, number, pointer, pointer]  # type: ignore[attr-defined]
    function.restype = None  # type: ignore[attr-defined]
    return function


def greatest_plain(scores_MV: Tensor) -> tuple[list[float], list[int]]:
    """Reference: as :func:`greatest_rows`."""
    best_M, token_M = scores_MV.max(-1)
    return best_M.tolist(), token_M.where(~best_M.isnan(), 0).tolist()


def draw_together(scores_MV: Tensor, rows: Sequence[int], draws: Sequence[Draw]) -> list[int]:
    """As :func:`draw_rows` where temperature is the only filter, many rows at once; for GPUs, which wait for
    each number that is read."""
    chosen: list[int] = []
    for begin in range(0, len(rows), _TOGETHER):
        some = slice(begin, begin + _TOGETHER)
        picked_MV = scores_MV[torch.tensor(rows[some], device=scores_MV.device)]
        numbers = torch.tensor([(d.temperature, d.number) for d in draws[some]], dtype=torch.float64)
        heat, number = numbers.to(picked_MV.device).unbind(-1)
        highest = picked_MV.amax(-1, keepdim=True)
        weights = ((picked_MV - highest) / heat.float().unsqueeze(-1)).softmax(-1)
        total = weights.double().cumsum(-1)
        most = total[:, -1]
        target = torch.minimum(number * most, torch.nextafter(most, torch.zeros_like(most)))
        chosen += torch.searchsorted(total, target.unsqueeze(-1), right=True).squeeze(-1).tolist()
    return chosen


def draw_plain(scores_V: Tensor, draw: Draw) -> int:
    """Reference: the token at ``draw.number`` of the cumulative weights of the candidates."""
    weights_C, ids_C = candidates(scores_V, draw)
    total = weights_C.double().cumsum(-1)
    target = min(draw.number * float(total[-1]), math.nextafter(float(total[-1]), 0.0))
    place = int(torch.searchsorted(total, target, right=True))
    return place if ids_C is None else int(ids_C[place])


def candidates(scores_V: Tensor, draw: Draw) -> tuple[Tensor, Tensor | None]:
    """Weights [C] of the tokens that pass the filters, and their ids [C] (None: all tokens, in order)."""
    weights = ((scores_V - scores_V.max()) / draw.temperature).softmax(-1)
    ids: Tensor | None = None
    if 0 < draw.top_k < weights.shape[0]:
        weights, ids = weights.topk(draw.top_k)
        weights = weights / weights.sum()
    if draw.top_p < 1:
        weights, order = _nucleus(weights, draw.top_p)
        ids = order if ids is None else ids[order]
    if draw.min_p > 0:
        kept = weights >= draw.min_p * weights.max()
        ids = kept.nonzero().squeeze(-1) if ids is None else ids[kept]
        weights = weights[kept]
    return weights, ids


def _nucleus(weights: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The smallest set of largest weights that sums to ``top_p``, and their places."""
    # Sorting a whole vocabulary costs more than a small model's step; the head nearly always suffices.
    size = weights.shape[0]
    for width in (min(_NUCLEUS, size), size):
        largest, places = weights.topk(width)
        before = largest.cumsum(-1) - largest
        if width == size or float(before[-1]) >= top_p:
            break
    kept = before < top_p
    # The best one stays even where top_p is too small for a float, which is then 0.
    kept[0] = True
    return largest[kept], places[kept]
