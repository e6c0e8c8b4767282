"""Keys and values of the past, one slot a sequence, and the attention of one step over them.

Dimensions: N tokens of the step, S neighbouring slots, L positions, H query heads, G key-value heads,
R = H / G, D head size. A step is flat: one row of N tokens, the decodes (one token each) first, then the
chunks of prompts; matrices see N rows, and only attention knows to which sequence a row belongs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.core.errors import ResourceError
from weft.engine.scheduler import Work
from weft.models.config import DecoderConfig

_FIRST_CAPACITY = 256


class SlotCache:
    """One tensor [slots, capacity, G, D] for keys and one for values in each layer.

    Capacity starts small and doubles when a sequence outgrows it, up to ``length`` positions.
    """

    def __init__(
        self, config: DecoderConfig, slots: int, length: int, dtype: torch.dtype, device: torch.device | str
    ):
        self.config, self.slots, self.length = config, slots, length
        self.dtype, self.device = dtype, torch.device(device)
        self.capacity = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.reserve(min(_FIRST_CAPACITY, length))

    def reserve(self, positions: int) -> None:
        """Make room for ``positions`` in every slot, keeping what is stored."""
        if positions <= self.capacity:
            return
        capacity = min(max(positions, 2 * self.capacity), self.length)
        layers = range(self.config.num_hidden_layers)
        # Zeros, not empty: attention multiplies hidden positions by 0, and 0 * NaN would be NaN.
        shape = (self.slots, capacity, self.config.num_key_value_heads, self.config.head_dim)
        try:
            keys, values = (
                [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in layers] for _ in range(2)
            )
        except (RuntimeError, MemoryError) as error:
            raise ResourceError(
                f"There is no memory for a cache of {self.slots} x {capacity} positions; "
                "allow fewer sequences at once."
            ) from error
        for old, new in zip(self.keys + self.values, keys + values, strict=False):
            new[:, : self.capacity] = old
        self.keys, self.values, self.capacity = keys, values, capacity


def fit(config: DecoderConfig, slots: int, dtype: torch.dtype, memory_bytes: int) -> tuple[int, int]:
    """(slots, positions in each) whose full cache fits in ``memory_bytes``: fewer slots, then shorter."""
    values = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    positions = max(1, memory_bytes // (values * dtype.itemsize))
    length = min(config.max_position_embeddings, positions)
    return max(1, min(slots, positions // length)), length


@dataclass(frozen=True)
class _Decodes:
    """One token each for neighbouring slots: rows [start, end) of the step, slots [first, first + S)."""

    start: int
    end: int
    first: int
    length: int
    mask: Tensor | None


@dataclass(frozen=True)
class _Chunk:
    """Several tokens of one sequence: rows [start, end) of the step."""

    start: int
    end: int
    slot: int
    length: int
    mask: Tensor | None
    causal: bool


class StepContext:
    """The attention context (see :mod:`weft.ops.cache`) of one step over a :class:`SlotCache`."""

    def __init__(self, cache: SlotCache, work: Sequence[Work]):
        self._cache = cache
        self._window = cache.config.sliding_window
        cache.reserve(max(item.sequence.cached + item.tokens for item in work))
        spans = [(_slot(item), item.sequence.cached, item.tokens) for item in work]
        positions = [p for _, past, tokens in spans for p in range(past, past + tokens)]
        places = [s * cache.capacity + p for s, past, tokens in spans for p in range(past, past + tokens)]
        self._positions = torch.tensor([positions], device=cache.device)
        self._places = torch.tensor(places, device=cache.device)
        singles = sum(tokens == 1 for *_, tokens in spans)
        self._parts: list[_Decodes | _Chunk] = [*self._decodes(spans[:singles])]
        row = singles
        for slot, past, tokens in spans[singles:]:
            self._parts.append(self._chunk(row, slot, past, tokens))
            row += tokens

    def positions(self, tokens_BT: Tensor) -> Tensor:
        """int64 [1, N]."""
        return self._positions

    def attend(self, layer: int, q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor) -> Tensor:
        """[1, N, H, D]; stores the new keys and values first."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys.view(-1, *keys.shape[2:]).index_copy_(0, self._places, k_BTGD[0])
        values.view(-1, *values.shape[2:]).index_copy_(0, self._places, v_BTGD[0])
        mixed = [_attend(part, q_BTHD[0, part.start : part.end], keys, values) for part in self._parts]
        return (mixed[0] if len(mixed) == 1 else torch.cat(mixed)).unsqueeze(0)

    def _decodes(self, spans: list[tuple[int, int, int]]) -> list[_Decodes]:
        """Runs of neighbouring slots, each attended over in one call."""
        runs: list[_Decodes] = []
        start = 0
        for row in range(1, len(spans) + 1):
            if row < len(spans) and spans[row][0] == spans[row - 1][0] + 1:
                continue
            lengths = [past + 1 for _, past, _ in spans[start:row]]
            runs.append(_Decodes(start, row, spans[start][0], max(lengths), self._lengths_mask(lengths)))
            start = row
        return runs

    def _lengths_mask(self, lengths: list[int]) -> Tensor | None:
        """[S, 1, 1, L], 0 where a newest token may look and -inf elsewhere; None when it sees all."""
        longest = max(lengths)
        windowed = self._window is not None and longest > self._window
        if min(lengths) == longest and not windowed:
            return None
        ends = torch.tensor(lengths, device=self._cache.device)[:, None]
        index = torch.arange(longest, device=self._cache.device)
        hidden = index >= ends
        if self._window is not None:
            hidden |= index < ends - self._window
        return _additive(hidden, self._cache.dtype)[:, None, None]

    def _chunk(self, row: int, slot: int, past: int, tokens: int) -> _Chunk:
        length = past + tokens
        windowed = self._window is not None and length > self._window
        if past == 0 and not windowed:
            return _Chunk(row, row + tokens, slot, length, None, causal=True)
        query = torch.arange(past, length, device=self._cache.device)[:, None]
        index = torch.arange(length, device=self._cache.device)
        hidden = index > query
        if self._window is not None:
            hidden |= index <= query - self._window
        return _Chunk(row, row + tokens, slot, length, _additive(hidden, self._cache.dtype), causal=False)


def _attend(part: _Decodes | _Chunk, q_NHD: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    N, H, D = q_NHD.shape
    if isinstance(part, _Decodes):
        k, v = (x[part.first : part.first + N, : part.length].transpose(1, 2) for x in (keys, values))
        # The R query heads of a group take the place of query positions, so that no key is repeated.
        q_SGRD = q_NHD.view(N, k.shape[1], H // k.shape[1], D)
        mixed = F.scaled_dot_product_attention(q_SGRD, k, v, attn_mask=part.mask)
        return mixed.reshape(N, H, D)
    k, v = (x[part.slot : part.slot + 1, : part.length].transpose(1, 2) for x in (keys, values))
    q_1HND = q_NHD.transpose(0, 1).unsqueeze(0)
    mixed = F.scaled_dot_product_attention(
        q_1HND, k, v, attn_mask=part.mask, is_causal=part.causal, enable_gqa=k.shape[1] != H
    )
    return mixed[0].transpose(0, 1)


def _additive(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))


def _slot(item: Work) -> int:
    assert item.sequence.slot is not None
    return item.sequence.slot
