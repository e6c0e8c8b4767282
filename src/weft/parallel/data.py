"""Data parallel: ranks read different rows, and the sum of their gradients is everyone's gradient.

For parameters that no other technique sums: those under fsdp are summed by its reduce-scatter.
Buckets of gradients are reduced one after another, so that the network is busy with one while the next is
copied together (Li et al., arXiv:2006.15704).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from weft.ops.local import local

BUCKET_BYTES = 25 << 20


def sum_gradients(parameters: Iterable[nn.Parameter], group: dist.ProcessGroup | None) -> None:
    """Sum the gradients over ``group`` in place. A rank without a gradient adds zeros."""
    if group is None:
        return
    works = []
    for bucket in _buckets(parameters):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        works.append((bucket, flat, dist.all_reduce(flat, group=group, async_op=True)))
    for bucket, flat, work in works:
        work.wait()
        parts = torch.split(flat, [gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for parameter in parameters:
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradient = local(parameter.grad)
        if bucket and (size + gradient.nbytes > BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.nbytes
    if bucket:
        yield bucket
