"""One process of a calibration: times the pieces of a step and the collectives, and prints what it found.

Started by :mod:`.calibrate`, several at a time, so that what is measured is what a process gets while as
many others compute. Rank 0 prints one line of JSON. All processes do each measurement at the same moment.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from weft.core.hardware import peak_memory
from weft.models.config import DecoderConfig
from weft.models.decoder import Decoder
from weft.ops.attention import PackedRows
from weft.ops.kernels import kernels
from weft.ops.loss import summed_cross_entropy
from weft.ops.memory import keep_memory
from weft.ops.orthogonal import orthogonalise
from weft.parallel.planner.trace import DTYPES

REPEATS = 5
VOCABULARY = 2048


@dataclass(frozen=True)
class Shape:
    """A stack of blocks to time: model width, head size, feed-forward width, heads, rows and positions."""

    width: int
    head: int
    inner: int
    heads: int
    rows: int
    length: int
    vocabulary: int = VOCABULARY

    def config(self, layers: int) -> DecoderConfig:
        """The decoder around the blocks."""
        return DecoderConfig(
            self.vocabulary, self.width, self.inner, layers, self.heads, self.heads, self.head,
            max_position_embeddings=self.length,
        )  # fmt: skip


@dataclass
class Request:
    """What a process shall do."""

    dtype: str
    threads: int
    shapes: list[Shape]
    collectives: bool = True
    step: Shape | None = None
    layers: int = 3
    modules: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, text: str) -> Request:
        """From JSON."""
        table = json.loads(text)
        table["shapes"] = [Shape(**shape) for shape in table["shapes"]]
        table["step"] = table["step"] and Shape(**table["step"])
        return cls(**table)

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))


def main() -> None:
    """Read the request from the first argument and print the answer of rank 0."""
    request = Request.read(sys.argv[1])
    size = int(os.environ.get("WORLD_SIZE", "1"))
    for module in request.modules:
        importlib.import_module(module)
    keep_memory()
    torch.set_num_threads(request.threads)
    kernels()
    if size > 1:
        dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    answer: dict[str, Any] = {"resident": _resident(), "pieces": [], "collectives": []}
    if request.step is not None:
        answer["step"] = _whole_step(request, request.step)
    for shape in request.shapes:
        answer["pieces"] += _time_pieces(request, shape)
    if size > 1 and request.collectives:
        answer["collectives"] = _time_collectives(size)
        answer["meeting"] = _time_meeting(size)
    if size == 1:
        before = _resident()
        importlib.import_module("torch.distributed.pipelining")
        answer["pipeline"] = _resident() - before
    if int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps(answer), flush=True)
    if size > 1:
        dist.destroy_process_group()


def _together() -> None:
    if dist.is_initialized():
        dist.barrier()


@dataclass(frozen=True)
class Timing:
    """Medians over REPEATS: ``mean`` over the processes, and the ``slowest`` of them."""

    mean: float
    slowest: float

    def less(self, other: Timing, parts: int) -> Timing:
        """What is left without ``other``, by ``parts``."""
        return Timing((self.mean - other.mean) / parts, (self.slowest - other.slowest) / parts)


def _timed(action: Callable[[], Any], prepare: Callable[[], Any] | None = None) -> Timing:
    means, slowest = [], []
    for repeat in range(REPEATS + 1):
        if prepare is not None:
            prepare()
        _together()
        started = time.perf_counter()
        action()
        mean = torch.tensor(time.perf_counter() - started, dtype=torch.float64)
        most = mean.clone()
        if dist.is_initialized():
            dist.all_reduce(mean)
            dist.all_reduce(most, dist.ReduceOp.MAX)
            mean /= dist.get_world_size()
        if repeat:
            means.append(mean.item())
            slowest.append(most.item())
    return Timing(statistics.median(means), statistics.median(slowest))


def _time_pieces(request: Request, shape: Shape) -> list[dict[str, Any]]:
    """Forward and backward of a stack of blocks, embedding, loss, update and norm."""
    dtype, layers = DTYPES[request.dtype], request.layers
    model = Decoder(shape.config(layers))
    model.initialise(torch.Generator().manual_seed(0))
    tokens = torch.randint(0, shape.vocabulary, (shape.rows, shape.length))
    start = torch.zeros(shape.rows, shape.length, dtype=torch.int32)
    state: dict[str, Any] = {}
    one = Decoder(shape.config(1))

    def run(decoder: Decoder) -> Callable[[], None]:
        def forward() -> None:
            state["hidden"] = decoder(tokens, PackedRows(start), dtype)

        return forward

    def back() -> None:
        state["hidden"].backward(torch.ones_like(state["hidden"]))

    def loss() -> None:
        hidden = state["hidden"].detach().requires_grad_()
        value = summed_cross_entropy(hidden.flatten(0, 1), model.output.weight, tokens.flatten(), 1.0)
        value.backward()  # type: ignore[no-untyped-call]

    def clear(decoder: Decoder) -> Callable[[], None]:
        def forget() -> None:
            decoder.zero_grad(set_to_none=True)

        return forget

    def ends() -> None:
        found = model.norm(model.embedding(tokens).to(dtype))
        found.backward(torch.ones_like(found))

    forward = _timed(run(model))
    backward = _timed(back, run(model))
    found = [("loss", _timed(loss, clear(model))), ("embedding", _timed(ends, clear(model)))]
    # What one block adds: the rest is embedding and final norm.
    found.append(("forward", forward.less(_timed(run(one)), layers - 1)))
    found.append(("backward", backward.less(_timed(back, run(one)), layers - 1)))
    found += _time_update(model)
    return [
        {"piece": piece, "shape": asdict(shape), "seconds": timing.mean, "slowest": timing.slowest}
        for piece, timing in found
    ]


def _time_update(model: Decoder) -> list[tuple[str, Timing]]:
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 1e-3)
    adamw = torch.optim.AdamW(parameters, lr=1e-5, fused=True)
    matrices = [p for block in model.blocks for p in block.parameters() if p.ndim == 2]
    muon = [(p, torch.zeros_like(p)) for p in matrices]
    return [
        ("clip", _timed(lambda: torch.nn.utils.clip_grad_norm_(parameters, 1e-9))),
        ("adamw", _timed(adamw.step)),
        ("muon", _timed(lambda: _turn(muon))),
    ]


@torch.no_grad()
def _turn(held: list[tuple[torch.nn.Parameter, torch.Tensor]]) -> None:
    """What Muon does to each matrix and its momentum."""
    for weight, momentum in held:
        assert weight.grad is not None
        momentum.lerp_(weight.grad, 0.05)
        weight.mul_(1.0).add_(orthogonalise(weight.grad.lerp(momentum, 0.95)), alpha=-1e-5)


def _time_collectives(size: int) -> list[dict[str, Any]]:
    found = []
    for count in (2**10, 2**14, 2**17, 2**19, 2**21):
        whole = torch.ones(count)
        part = torch.ones(count // size)
        parts = list(torch.empty(count).chunk(size))
        rank = dist.get_rank()

        def swap(buffer: torch.Tensor = whole, rank: int = rank) -> None:
            out, back = torch.empty_like(buffer), dist.P2POp
            operations = [
                back(dist.isend, buffer, (rank + 1) % size), back(dist.irecv, out, (rank - 1) % size)
            ]  # fmt: skip
            for work in dist.batch_isend_irecv(operations):
                work.wait()

        actions: dict[str, Callable[[], Any]] = {
            "all_reduce": lambda x=whole: dist.all_reduce(x),  # type: ignore[misc]
            "all_gather": lambda x=whole, y=part: dist.all_gather_into_tensor(x, y),  # type: ignore[misc]
            "reduce_scatter": lambda x=whole, y=part: dist.reduce_scatter_tensor(y, x),  # type: ignore[misc]
            "all_to_all": lambda x=whole, z=parts: dist.all_to_all(z, list(x.chunk(size))),  # type: ignore[misc]
            "exchange": swap,
        }
        for kind, action in actions.items():
            found.append({"kind": kind, "ranks": size, "bytes": 4 * count, "seconds": _timed(action).mean})
    return found


def _time_meeting(size: int) -> float:
    """Seconds that a collective in the midst of computation costs beyond itself: ranks are never ready at
    once, and one that waits must be woken."""
    square, rounds = torch.randn(256, 256), 20
    numbers = torch.ones(2**18)
    buffers = (numbers, torch.ones(2 * len(numbers), dtype=torch.bfloat16))

    def compute() -> None:
        for _ in range(12):
            square @ square

    def repeated(*actions: Callable[[], Any]) -> float:
        def run() -> None:
            for _ in range(rounds):
                for action in actions:
                    action()

        return _timed(run).mean / rounds

    found, alone = [], repeated(compute)
    for whole in buffers:
        part = torch.empty(len(whole) // size, dtype=whole.dtype)
        collectives: tuple[Callable[[], Any], ...] = (
            lambda x=whole, y=part: dist.all_gather_into_tensor(x, y),  # type: ignore[misc]
            lambda x=whole, y=part: dist.reduce_scatter_tensor(y, x),  # type: ignore[misc]
        )
        for collective in collectives:
            found.append(repeated(compute, collective) - repeated(collective) - alone)
    return max(0.0, statistics.mean(found))


def _whole_step(request: Request, shape: Shape) -> dict[str, Any]:
    """A few real steps; the peak of the resident memory, to be compared with the formulas."""
    dtype, model = DTYPES[request.dtype], Decoder(shape.config(request.layers))
    before = _resident()
    model.initialise(torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    tokens = torch.randint(0, shape.vocabulary, (shape.rows, shape.length))
    start = torch.zeros(shape.rows, shape.length, dtype=torch.int32)
    for _ in range(4):
        hidden = model(tokens, PackedRows(start), dtype)
        loss = summed_cross_entropy(hidden.flatten(0, 1), model.output.weight, tokens.flatten(), 1.0)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {"shape": asdict(shape), "before": before, "peak": peak_memory()}


def _resident() -> int:
    """Bytes of this process that are in memory now; its peak where the system does not say."""
    try:
        resident = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(resident) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_memory()


if __name__ == "__main__":
    main()
