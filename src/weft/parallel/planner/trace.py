"""The real step of one pipeline stage traced on fake tensors: nothing is computed, shapes and lifetimes are.

Runs the model's own modules and autograd functions under FakeTensorMode, so a stage of a 70B model takes
a second and no memory. It gives what the formulas of :mod:`.activations` claim: bytes kept for the
backward pass by each micro-batch, and the most that lives at any moment.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from weft.models.config import DecoderConfig
from weft.models.layers import Block, RMSNorm
from weft.ops.attention import PackedRows
from weft.ops.kernels import shapes_only
from weft.ops.loss import summed_cross_entropy
from weft.ops.rope import rotation
from weft.parallel import recompute
from weft.parallel.planner.local import Local

DTYPES = {"bf16": torch.bfloat16, "fp8": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Traced:
    """Of one micro-batch on one stage, in bytes: ``kept`` after the forward pass for the backward pass,
    ``peak`` the most at any moment, gradients of weights not counted; ``operations``: calls by name."""

    kept: int
    peak: int
    operations: dict[str, int]


class Memory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts bytes of storages alive that were made under it, and operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive, self.peak = 0, 0
        self.operations: Counter[str] = Counter()
        self._known: dict[int, Any] = {}
        self.ignored: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations[func.overloadpacket.__name__] += 1
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.see(leaf)
        return out

    def see(self, x: Tensor) -> None:
        """Count the storage of ``x`` until it is freed."""
        storage = x.untyped_storage()
        key = storage._cdata
        if key in self._known or key in self.ignored:
            return
        size = storage.nbytes()
        self.alive += size
        self.peak = max(self.peak, self.alive)

        def freed() -> None:
            self.alive -= size
            self._known.pop(key, None)

        self._known[key] = weakref.finalize(storage, freed)

    def forget(self, x: Tensor) -> None:
        """Do not count the storage of ``x``: it is a weight or its gradient."""
        key = x.untyped_storage()._cdata
        self.ignored.add(key)
        finalizer = self._known.get(key)
        if finalizer is not None:
            finalizer()
            finalizer.detach()


@dataclass
class _Stage:
    """The modules of one stage, with this rank's share of every matrix."""

    config: DecoderConfig
    blocks: nn.ModuleList
    first: bool
    last: bool
    weights: list[nn.Parameter]


def trace(local: Local, stage: int, *, fused: bool = True, native_attention: bool = True) -> Traced:
    """Trace one micro-batch through ``stage``.

    Tensor parallel is traced as this rank's heads, feed-forward columns and vocabulary rows.
    """
    ends = stage == 0, stage == local.plan.stages - 1
    return trace_blocks(local, local.stages[stage], *ends, fused=fused, native_attention=native_attention)


def trace_blocks(
    local: Local, blocks: int, first: bool, last: bool, *, fused: bool = True, native_attention: bool = True
) -> Traced:
    """The same for so many blocks, with the embedding before them and the loss behind where asked."""
    with FakeTensorMode(), shapes_only(fused, native_attention and fused), torch.enable_grad():
        made = _build(local, blocks, first, last)
        memory = Memory()
        for weight in made.weights:
            memory.ignored.add(weight.untyped_storage()._cdata)
        with memory:
            out = _forward(made, local, memory)
            kept = memory.alive
            _backward(made, out, memory)
        return Traced(kept, memory.peak, dict(memory.operations))


def share(local: Local) -> DecoderConfig:
    """A decoder whose one process computes what one tp rank does."""
    return dataclasses.replace(
        local.config,
        num_attention_heads=local.heads,
        num_key_value_heads=local.groups,
        intermediate_size=local.inner,
        vocab_size=local.vocabulary,
    )


def _build(local: Local, blocks: int, first: bool, last: bool) -> _Stage:
    config = share(local)
    stack = nn.ModuleList(Block(config, layer) for layer in range(blocks))
    recompute.apply(stack, local.plan)
    return _Stage(config, stack, first, last, list(stack.parameters()))


def _forward(made: _Stage, local: Local, memory: Memory) -> Tensor:
    dtype, config = DTYPES[local.job.dtype], made.config
    rows, length = local.micro_rows, local.job.length // local.plan.cp
    tokens = torch.empty(rows, length, dtype=torch.int64)
    context = PackedRows(torch.empty(rows, length, dtype=torch.int32), config.sliding_window)
    if made.first:
        matrix = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        memory.forget(matrix)
        made.weights.append(matrix)
        x = torch.nn.functional.embedding(tokens, matrix).to(dtype)
    else:
        x = torch.empty(rows, length, config.hidden_size, dtype=dtype, requires_grad=True)
    cos, sin = rotation(context.positions(tokens), torch.empty(config.head_dim // 2))
    for block in made.blocks:
        x = block(x, cos, sin, context)
    return _loss(made, x, memory) if made.last else x


def _loss(made: _Stage, x: Tensor, memory: Memory) -> Tensor:
    config = made.config
    norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
    matrix = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
    for weight in (norm.weight, matrix):
        memory.forget(weight)
        made.weights.append(weight)
    hidden = norm(x).flatten(0, 1)
    return summed_cross_entropy(hidden, matrix, torch.empty(hidden.shape[0], dtype=torch.int64), 1.0)


def _backward(made: _Stage, out: Tensor, memory: Memory) -> None:
    # Gradients of weights are counted apart: they live beyond the micro-batch.
    handles: list[Any] = []
    for weight in made.weights:
        hook: Any = weight.register_post_accumulate_grad_hook
        handles.append(hook(lambda w: memory.forget(w.grad)))
    # A scalar loss gets the gradient 1, which a fake tensor made from a number remembers.
    gradient = torch.tensor(1.0) if out.ndim == 0 else torch.empty_like(out)
    torch.autograd.backward(out, gradient)
    for handle in handles:
        handle.remove()
