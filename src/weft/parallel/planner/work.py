"""How much there is to do in each piece of a step on one rank: operations and bytes, before any rate.

One :class:`Work` says for a piece how many matrix operations, bytes of products, attention operations and
bytes of pointwise work it has. A profile turns that into seconds by published rates, a calibration by
fitted ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from weft.parallel.planner.job import MASTER_BYTES
from weft.parallel.planner.local import Local

CHUNK = 1024
"""Positions whose logits exist at a time."""
NEWTON_SCHULZ = 5
"""Iterations of Muon's orthogonalisation in torch.optim.Muon."""


@dataclass(frozen=True)
class Work:
    """``products``: (rows, inputs, outputs) of matrix products, each done ``times`` times; ``attention``:
    operations; ``stream``: bytes read and written by pointwise work; ``calls``: operations started."""

    products: tuple[tuple[int, int, int], ...] = ()
    times: float = 1.0
    attention: float = 0.0
    stream: float = 0.0
    calls: float = 1.0

    @property
    def flops(self) -> float:
        """Of all products."""
        return self.times * sum(2.0 * m * k * n for m, k, n in self.products)

    def traffic(self, item: int) -> float:
        """Bytes that the products read and write, ``item`` bytes a number."""
        return self.times * item * sum(m * k + k * n + m * n for m, k, n in self.products)

    def features(self, item: int) -> list[float]:
        """What a calibration fits: operations, product bytes, attention, stream, calls."""
        return [self.flops, self.traffic(item), self.attention, self.stream, self.calls]


def block_forward(local: Local, fused: bool = True) -> Work:
    """One block, one micro-batch."""
    return Work(local.products(), 1.0, local.attention_flops, _stream(local, fused, 1.0), 20.0)


def block_backward(local: Local, fused: bool = True) -> Work:
    """Gradients of inputs and of weights; attention's backward pass has five products for two."""
    stream = _stream(local, fused, 1.6) + 2.0 * MASTER_BYTES * local.block_matrices
    return Work(local.products(), 2.0, 2.5 * local.attention_flops, stream, 40.0)


def block_recompute(local: Local, fused: bool = True) -> Work:
    """What is done again in the backward pass."""
    if local.plan.recompute == "none":
        return Work(calls=0.0)
    if local.plan.recompute == "full":
        return block_forward(local, fused)
    # Selective: the feed-forward and the norms.
    return Work(local.products()[4:-1], 1.0, 0.0, 0.7 * _stream(local, fused, 1.0), 8.0)


def embedding(local: Local) -> Work:
    """Forward and backward: the look-up, and a dense gradient that starts as zeros."""
    a, E = local.job.work_bytes, local.config.hidden_size
    dense = 2.0 * MASTER_BYTES * local.vocabulary * E
    return Work(stream=local.N * E * (4.0 * MASTER_BYTES + a) + dense, calls=4.0)


def loss(local: Local) -> Work:
    """Forward and backward of norm, output matrix and cross entropy, gradient made at once."""
    a, E, V = local.job.work_bytes, local.config.hidden_size, local.vocabulary
    chunks = -(-local.N // CHUNK)
    # A cut vocabulary has no native kernel: ten passes in fp32.
    logits = (5.0 * a if local.plan.tp == 1 else 10.0 * MASTER_BYTES) * local.N * V
    matrix = V * E * (MASTER_BYTES + a + 3.0 * MASTER_BYTES * chunks)
    return Work(((local.N, E, V),), 3.0, 0.0, logits + matrix + 5.0 * local.n * E * a, 12.0 * chunks)


def adamw(parameters: float, tensors: float = 1.0) -> Work:
    """Weights, gradients and two moments read; weights and moments written."""
    return Work(stream=7.0 * MASTER_BYTES * parameters, calls=tensors)


def muon(matrices: Sequence[tuple[int, int]]) -> Work:
    """Momentum, then five iterations of three products, for matrices of these shapes."""
    products: list[tuple[int, int, int]] = []
    stream = 0.0
    for shape in matrices:
        small, large = min(shape), max(shape)
        products += [(small, large, small), (small, small, small), (small, small, large)]
        stream += 5.0 * MASTER_BYTES * small * large
    return Work(tuple(products), float(NEWTON_SCHULZ), 0.0, stream, 20.0 * len(matrices))


def clip(parameters: float, tensors: float = 1.0) -> Work:
    """Gradients read for the norm; read and written to scale them."""
    return Work(stream=3.0 * MASTER_BYTES * parameters, calls=tensors)


def block_shapes(local: Local) -> list[tuple[int, int]]:
    """Shapes of a block's matrices on this rank before fsdp."""
    return [(outputs, inputs) for _, inputs, outputs in local.products()]


def _stream(local: Local, fused: bool, factor: float) -> float:
    """Bytes of norms, residuals, rotary positions, the gate and of casting weights."""
    a, E, D = local.job.work_bytes, local.config.hidden_size, local.config.head_dim
    turned = 2.0 * local.N * (local.heads + local.groups) * D * a
    pointwise = 10.0 * local.n * E * a + turned + 3.0 * local.gated * a + 4.0 * local.routed * E * a
    if local.plan.tp > 1:
        # Gathered rows are put in order by a copy, four times.
        pointwise += 8.0 * local.N * E * a
    casts = 0.0 if a == MASTER_BYTES else (MASTER_BYTES + a) * local.block_matrices
    # Written out, every step of a formula is a pass over fp32 numbers.
    return factor * pointwise * (1.0 if fused else 3.5) + casts * (1.0 if factor == 1.0 else 0.0)
