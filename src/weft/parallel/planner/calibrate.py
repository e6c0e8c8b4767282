"""``weft plan --calibrate``: starts :mod:`.probe` with 1, 2 and 4 processes and fits what they measured.

On a host whose processes share its cores that is all there is to know; a GPU is measured by one process,
and its links by as many as there are.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from weft.core.errors import ResourceError
from weft.core.hardware import probe
from weft.ops.arithmetic import matrix_rate, share_cores
from weft.parallel.plan import Plan
from weft.parallel.planner import work
from weft.parallel.planner.calibration import Calibration, Crowd, fragments, not_negative
from weft.parallel.planner.collectives import Fit
from weft.parallel.planner.job import WORK_BYTES, Job
from weft.parallel.planner.local import Local
from weft.parallel.planner.machines import this_machine
from weft.parallel.planner.memory import fullest
from weft.parallel.planner.probe import Request, Shape
from weft.parallel.planner.trace import DTYPES

Say = Callable[[str], None]

SHAPES = (
    Shape(64, 32, 192, 2, 8, 64, 512),
    Shape(128, 32, 384, 4, 2, 128, 1024),
    Shape(128, 32, 384, 4, 8, 256, 4096),
    Shape(192, 32, 512, 6, 8, 128, 2048),
    Shape(256, 64, 704, 4, 2, 256, 4096),
    Shape(256, 64, 704, 4, 8, 512, 2048),
    Shape(384, 64, 1024, 6, 2, 512, 2048),
    Shape(512, 64, 704, 4, 4, 256, 1024),
    Shape(512, 64, 1408, 8, 4, 512, 4096),
)
"""Widths, heads, rows and lengths of small training on a CPU; the eighth is half a block, as tp has it."""
FEW = (SHAPES[2], SHAPES[4], SHAPES[6], SHAPES[8])
STEPS = (
    (SHAPES[5], 3),
    (Shape(512, 64, 1408, 8, 4, 512, 4096), 4),
    (Shape(512, 64, 1408, 8, 8, 256, 8192), 8),
)
"""Whole steps whose peak memory is compared with the formulas: shape and number of blocks."""
TIMEOUT = 600


def calibrate(dtype: str, modules: Sequence[str] = (), say: Say = print) -> Calibration:
    """Measure this machine for ``dtype``. ``modules``: what a training process imports, for its memory.

    Takes about two minutes on an idle machine; other work at the same time spoils it. Raises ResourceError
    when a process fails.
    """
    started = time.perf_counter()
    machine = probe()
    cores, pipeline = machine.cores, 0.0
    crowds: list[Crowd] = []
    lone: dict[int, float] = {}
    points = [_memory(dtype, cores, shape, layers, modules) for shape, layers in STEPS]
    warm, factor = fragments(points)
    say(f"memory: {warm / 2**20:.0f} MiB once, {factor:.2f} resident bytes a live byte")
    for processes in (1, 2, 4):
        threads = max(1, cores // processes)
        shapes = SHAPES if processes <= cores else FEW
        answer = run(processes, Request(dtype, threads, list(shapes), modules=list(modules)))
        crowds.append(fit(processes, dtype, answer, crowds[-1] if processes > cores else None))
        pipeline = float(answer.get("pipeline", pipeline))
        if threads == 1:
            lone[processes] = _common(answer)
        say(f"{processes} processes of {threads} threads: {len(answer['pieces'])} pieces measured")
    if lone:
        alone = run(1, Request(dtype, 1, list(FEW), modules=[]))
        lone[1] = _common(alone)
    share_cores(1)
    peak = matrix_rate(torch.device("cpu"), DTYPES[dtype])
    return Calibration(
        machine.describe(),
        dtype,
        peak,
        tuple(crowds),
        lone,
        warm,
        factor,
        pipeline,
        time.perf_counter() - started,
    )


def run(processes: int, request: Request) -> dict[str, Any]:
    """The answer of rank 0 of so many probes."""
    environment = os.environ | {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": str(request.threads),
    }
    command = [sys.executable, "-m", "weft.parallel.planner.probe", request.text()]
    started = [
        subprocess.Popen(
            command, env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(processes)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=TIMEOUT) for process in started]
    except subprocess.TimeoutExpired:
        raise ResourceError(
            f"A calibration of {processes} processes took longer than {TIMEOUT} s; try again "
            "when the machine is less busy."
        ) from None
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, outputs, strict=True):
        if process.returncode:
            last = errors.strip().splitlines()[-1:] or ["no message"]
            raise ResourceError(f"A process of the calibration failed ({last[0]}); nothing was saved.")
    answer: dict[str, Any] = json.loads(outputs[0][0].strip().splitlines()[-1])
    return answer


def _memory(
    dtype: str, threads: int, shape: Shape, layers: int, modules: Sequence[str]
) -> tuple[float, float]:
    """(bytes that the formulas foretell beside the process itself, bytes found)."""
    request = Request(dtype, threads, [], False, shape, layers, list(modules))
    answer = run(1, request)
    local = Local(Job(shape.config(layers), shape.rows, shape.length, dtype), Plan(), shape.rows)
    memory = fullest(local, this_machine())
    return memory.total - memory.runtime, float(answer["step"]["peak"] - answer["resident"])


def fit(processes: int, dtype: str, answer: dict[str, Any], before: Crowd | None = None) -> Crowd:
    """A crowd from what was measured.

    With more processes than cores fewer shapes are timed: each piece is then ``before``'s, slower by the
    ratio of what both have timed.
    """
    fits = _fit_collectives(answer["collectives"])
    measured = (*answer["pieces"], *answer["collectives"])
    blocks = [entry for entry in answer["pieces"] if entry["piece"] in ("forward", "backward")]
    whole = sum(entry["seconds"] for entry in blocks)
    skew = max(1.0, sum(entry.get("slowest", 0.0) for entry in blocks) / whole) if whole else 1.0
    if before is not None:
        coefficients = {
            piece: tuple(_ratio(piece, answer["pieces"], before.measured) * c for c in values)
            for piece, values in before.coefficients.items()
        }
        return Crowd(processes, coefficients, answer["resident"], fits, skew, measured)
    item = WORK_BYTES[dtype]
    features: dict[str, list[list[float]]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    for entry in answer["pieces"]:
        amount = amount_of(entry["piece"], Shape(**entry["shape"]), dtype)
        features[entry["piece"]].append(amount.features(item))
        seconds[entry["piece"]].append(max(entry["seconds"], 1e-6))
    coefficients = {piece: not_negative(features[piece], seconds[piece]) for piece in features}
    return Crowd(processes, coefficients, answer["resident"], fits, skew, measured)


def _ratio(piece: str, now: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]) -> float:
    """How much longer ``piece`` takes, over the shapes that both have."""
    one, other = (
        {str(e["shape"]): e["seconds"] for e in entries if e.get("piece") == piece}
        for entries in (now, before)
    )
    both = one.keys() & other.keys()
    return float(sum(one[shape] for shape in both) / sum(other[shape] for shape in both)) if both else 1.0


def amount_of(piece: str, shape: Shape, dtype: str, layers: int = 3) -> work.Work:
    """The work that :mod:`.probe` timed as ``piece``."""
    config = shape.config(layers)
    local = Local(Job(config, shape.rows, shape.length, dtype), Plan(), shape.rows)
    tensors = layers * len(local.products()) + 4 * layers + 2
    if piece == "muon":
        return work.muon(work.block_shapes(local) * layers)
    if piece in ("adamw", "clip"):
        make = work.adamw if piece == "adamw" else work.clip
        return make(float(config.parameters), tensors)
    pieces = {
        "forward": work.block_forward,
        "backward": work.block_backward,
        "embedding": work.embedding,
        "loss": work.loss,
    }
    return pieces[piece](local)


def _fit_collectives(entries: list[dict[str, Any]]) -> tuple[Fit, ...]:
    groups: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for entry in entries:
        groups[entry["kind"], entry["ranks"]].append((entry["bytes"], max(entry["seconds"], 1e-7)))
    fits = []
    for (kind, ranks), points in groups.items():
        latency, per_byte = not_negative([[1.0, size] for size, _ in points], [s for _, s in points])
        fits.append(Fit(kind, ranks, latency, per_byte))
    return tuple(fits)


def _common(answer: dict[str, Any]) -> float:
    """Seconds of the blocks that every number of processes timed."""
    few = [shape.__dict__ for shape in FEW]
    pieces = [e for e in answer["pieces"] if e["piece"] in ("forward", "backward") and e["shape"] in few]
    return float(sum(entry["seconds"] for entry in pieces))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
