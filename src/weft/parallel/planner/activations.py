"""Bytes that a forward pass keeps for the backward pass, by formula; letters as in :mod:`.local`.

``fused``: norms, rotary positions and SwiGLU keep their inputs only (native kernels, or torch.compile);
otherwise every step of their formulas keeps its fp32 numbers. Tests compare with a trace of the real block
on fake tensors (:mod:`.trace`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from weft.parallel.planner.job import MASTER_BYTES
from weft.parallel.planner.local import Local


@dataclass(frozen=True)
class Kept:
    """Of one micro-batch on one rank. ``block``: a block; ``ends``: embedding, norm and loss of the whole
    model; ``moment``: the most that lives for a moment while one block works, beside what is kept."""

    block: float
    first: float
    last: float
    shared: float
    moment: float


def kept(local: Local, fused: bool, masked: bool) -> Kept:
    """``masked``: attention reads a written-out mask (PyTorch's kernel), one a block."""
    full = _block(local, fused, masked)
    a, n, E = local.job.work_bytes, local.n, local.config.hidden_size
    boundary = float(n * E * a)
    block = {"none": full, "selective": _selective(local, fused, masked), "full": boundary}[
        local.plan.recompute
    ]
    rotation = 2 * local.N * (local.config.head_dim // 2) * 4 + 8.0 * local.N
    length = local.job.length // local.plan.cp
    mask = float(local.micro_rows * length * local.job.length) if masked else 0.0
    again = full - block if local.plan.recompute != "none" else 0.0
    return Kept(
        block=block,
        first=16.0 * local.N,
        last=_norm(local, fused) + boundary + 16.0 * local.N,
        shared=rotation + mask,
        moment=again + _moment(local, fused),
    )


def casts(local: Local) -> float:
    """Bytes of the block's matrices in the work dtype, which products keep where masters are wider."""
    if local.job.work_bytes == MASTER_BYTES or local.plan.fsdp > 1:
        # fsdp gathers in the work dtype, and frees what it gathered.
        return 0.0
    return float(local.block_matrices * local.job.work_bytes)


def spread(local: Local, fused: bool) -> float:
    """Bytes (negative) by which a block on this rank keeps less than a block with the same heads and columns
    in one process: its residual rows are cut over tp, and fsdp keeps no cast copies of the weights."""
    cut = 0.0
    if local.plan.tp > 1:
        alone = dataclasses.replace(local, micro_rows=local.micro_rows * local.plan.tp)
        norms = {"none": 2, "selective": 2, "full": 0}[local.plan.recompute]
        cut = norms * (_norm(local, fused) - _norm(alone, fused))
        if local.plan.recompute == "full":
            cut = float((local.n - local.N) * local.config.hidden_size * local.job.work_bytes)
    if local.plan.fsdp > 1 and local.plan.recompute != "full":
        plain = dataclasses.replace(local, plan=dataclasses.replace(local.plan, fsdp=1))
        share = 1.0 - local.feed_matrices / local.block_matrices
        cut -= casts(plain) * (share if local.plan.recompute == "selective" else 1.0)
    return cut


def loss(local: Local) -> tuple[float, float]:
    """(kept, momentary) bytes of the chunked loss: gradients of hidden states and of the matrix; logits."""
    a, V, E = local.job.work_bytes, local.vocabulary, local.config.hidden_size
    chunk = min(1024, local.N)
    # Scores over a cut vocabulary are widened, shifted and made into exponentials.
    wide = 0 if local.plan.tp == 1 else 3 * MASTER_BYTES
    hidden = float(local.n * E * a)
    matrix = float(V * E * MASTER_BYTES)
    work = 0.0 if a == MASTER_BYTES else float(V * E * a)
    # The product of logits and hidden states is made in the work dtype before it is added.
    return hidden + matrix, chunk * V * (a + wide) + work + float(V * E * a)


def _norm(local: Local, fused: bool) -> float:
    a, n, E = local.job.work_bytes, local.n, local.config.hidden_size
    if fused:
        return n * E * a + 4.0 * n
    # The wide input (a copy where the work dtype is narrow), its inverse root, the scaled numbers.
    wide = 0 if a == 4 else 4
    return n * E * (4.0 + (wide or a)) + 4.0 * n


def _rotary(local: Local, fused: bool) -> float:
    """Queries and keys before they are turned."""
    a, D = local.job.work_bytes, local.config.head_dim
    heads, normed = local.heads + local.groups, local.config.qk_norm
    if fused:
        return local.N * heads * (D * a + (4.0 if normed else 0.0))
    if not normed:
        return 0.0
    wide = 4 if a != 4 else a
    return local.N * heads * (D * (4.0 + wide) + 4.0)


def _attention(local: Local, masked: bool) -> float:
    """q, k, v as attention reads them, its output and log-sum-exp, and a mask of its own."""
    a, D = local.job.work_bytes, local.config.head_dim
    length = local.job.length // local.plan.cp
    mask = local.micro_rows * length * local.job.length * a if masked else 0
    return local.N * (2 * local.heads + 2 * local.groups) * D * a + 4.0 * local.N * local.heads + mask


def _feed_forward(local: Local, fused: bool) -> float:
    """gate, up and their product; unfused the wide copies and the gate's sigmoid too."""
    a = local.job.work_bytes
    kept = local.gated * (3.0 * a if fused else 3.0 * 4 + a)
    # Rows on their way to experts and back.
    return kept + 2.0 * local.routed * local.config.hidden_size * a


def _block(local: Local, fused: bool, masked: bool) -> float:
    a, E = local.job.work_bytes, local.config.hidden_size
    # What the products read: the normed positions, of the whole row under tp.
    read = 2.0 * local.N * E * a
    parts = 2 * _norm(local, fused) + read + _rotary(local, fused) + _attention(local, masked)
    return parts + _feed_forward(local, fused) + casts(local)


def _selective(local: Local, fused: bool, masked: bool) -> float:
    """The attention half keeps what it has, the feed-forward half its input only."""
    a, N, E = local.job.work_bytes, local.N, local.config.hidden_size
    share = 1.0 - local.feed_matrices / local.block_matrices
    parts = _norm(local, fused) + N * E * a + _rotary(local, fused) + _attention(local, masked)
    return parts + local.n * E * a + share * casts(local)


def _moment(local: Local, fused: bool) -> float:
    """Gradients in flight inside a block: of the gate and of up, and of the residual."""
    a, inner = local.job.work_bytes, local.gated
    # Written out, they are fp32, and one is still there in the work dtype.
    gates = 2.0 * inner * a if fused else inner * (2.0 * 4 + (a if a == 2 else 0))
    return gates + local.N * local.config.hidden_size * a
