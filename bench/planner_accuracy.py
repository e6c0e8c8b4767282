"""How far off is the planner on this machine? Predicted beside measured, for layouts kept apart from
calibration.

Each configuration trains a few real steps (model, plan, optimiser and step exactly as ``weft train``
makes them; rows are random numbers) in as many processes as torchrun would start, one configuration after
another. Reported: the median step after two warm-up steps, and the largest peak of resident memory of the
ranks; the planner's figures beside them; and the regret, by which the planner's first choice among the
measured layouts of one model and one number of processes is slower than the fastest of them.

    python bench/planner_accuracy.py [--quick] [--json FILE]

Needs a calibration (``weft plan --calibrate``) of the same machine, made when it was idle; run this one
idle too.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from weft.models.config import DecoderConfig
from weft.parallel.plan import Plan
from weft.parallel.planner import calibration
from weft.parallel.planner.estimate import TIMES, Prediction, estimate
from weft.parallel.planner.job import Job
from weft.parallel.planner.machines import this_machine
from weft.parallel.planner.memory import KINDS
from weft.parallel.planner.record import error
from weft.parallel.planner.report import table
from weft.parallel.planner.traced import kept

MiB = 2**20

# name: decoder, rows of a step, positions a row. None of these shapes is in the calibration.
SIZES = {
    "small": (DecoderConfig(3072, 160, 448, 4, 4, 4, 32, max_position_embeddings=256), 16, 256),
    "middle": (DecoderConfig(4096, 320, 896, 6, 10, 10, 32, max_position_embeddings=256), 16, 256),
    "large": (DecoderConfig(8192, 448, 1216, 8, 14, 14, 32, max_position_embeddings=512), 8, 512),
}
# Shapes that were looked at by nobody while the model of time and memory was made.
UNSEEN = {
    "small": (DecoderConfig(2048, 192, 512, 5, 6, 6, 32, max_position_embeddings=384), 8, 384),
    "middle": (DecoderConfig(6144, 288, 768, 7, 9, 9, 32, max_position_embeddings=320), 16, 320),
    "large": (DecoderConfig(4096, 512, 1408, 6, 8, 8, 64, max_position_embeddings=256), 16, 256),
}
# (plan, rows of a micro-batch of one rank as a share of its rows)
LAYOUTS = (
    ("", 1), ("recompute=full", 1), ("", 2),
    ("dp=2", 1), ("fsdp=2", 1), ("tp=2", 1), ("pp=2", 4), ("cp=2", 1), ("dp=2,recompute=selective", 1),
    ("dp=4", 1), ("fsdp=4", 1), ("dp=2,tp=2", 1), ("pp=2,dp=2", 2), ("fsdp=2,cp=2", 1),
)  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--dtype", default="bf16")
    options.add_argument("--optimizer", default="adamw")
    options.add_argument("--unseen", action="store_true", help="other shapes, kept for the final figure")
    options.add_argument("--quick", action="store_true", help="only the middle size")
    options.add_argument("--only", help="only layouts that contain this text")
    options.add_argument("--skip", default="", help="leave out layouts that use one of these, as in tp,pp")
    options.add_argument("--json", type=Path)
    options.add_argument("--again", type=Path, help="predict anew beside what this file has measured")
    options.add_argument("--worker", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.worker:
        work(json.loads(chosen.worker))
        return
    known = calibration.load(chosen.dtype)
    if known is None:
        sys.exit("This machine has no calibration; run: weft plan --calibrate")
    print(f"{known.machine}; {chosen.dtype}, {chosen.optimizer}; calibration took {known.seconds:.0f} s")
    rows = json.loads(chosen.again.read_text()) if chosen.again else measure_all(chosen)

    rows = [row | predict(row, known) for row in rows]
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n")
    report(rows)


def measure_all(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    started = time.perf_counter()
    for size in ["middle"] if chosen.quick else SIZES:
        for text, parts in LAYOUTS:
            if chosen.only and chosen.only not in text:
                continue
            if any(f"{name}=" in text for name in filter(None, chosen.skip.split(","))):
                continue
            request = {
                "size": size, "plan": text, "parts": parts, "dtype": chosen.dtype,
                "optimizer": chosen.optimizer, "unseen": chosen.unseen,
            }  # fmt: skip
            found = launch(request)
            rows.append(request | found)
            done = f"{found['seconds']:.3f} s" if "seconds" in found else found["failed"]
            print(
                f"[{time.perf_counter() - started:4.0f} s] {size} {text or 'one process'} /{parts}: {done}",
                flush=True,
            )
    return rows


def job_of(row: dict[str, Any]) -> tuple[Job, Plan, int]:
    config, rows, length = (UNSEEN if row.get("unseen") else SIZES)[row["size"]]
    plan = Plan.parse(row["plan"])
    micro = max(1, rows // plan.data_ranks // row["parts"])
    return Job(config, rows, length, row["dtype"], row["optimizer"]), plan, micro


def predict(row: dict[str, Any], known: calibration.Calibration) -> dict[str, Any]:
    job, plan, micro = job_of(row)
    world = known.world(this_machine(plan.size), job)
    found: Prediction = estimate(job, plan, micro, world, source=kept)
    return {
        "micro_rows": micro,
        "predicted_seconds": found.step.total,
        "predicted_bytes": found.memory.total,
        "runtime_bytes": found.memory.runtime,
        "step": found.step.kinds(),
        "memory": found.memory.kinds(),
    }


def launch(request: dict[str, Any]) -> dict[str, Any]:
    _, plan, _ = job_of(request)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    # What torchrun sets.
    shared = os.environ | {
        "WORLD_SIZE": str(plan.size), "LOCAL_WORLD_SIZE": str(plan.size), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1" if plan.size > 1 else str(os.cpu_count()),
    }  # fmt: skip
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", json.dumps(request)]
    processes = [
        subprocess.Popen(
            command, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(plan.size)
    ]  # fmt: skip
    outputs = []
    try:
        outputs = [process.communicate(timeout=180) for process in processes]
    except subprocess.TimeoutExpired:
        return {"failed": "longer than 180 s"}
    finally:
        for process in processes:
            process.kill()
    answers = outputs[0][0].strip().splitlines()
    if answers:
        found: dict[str, Any] = json.loads(answers[-1])
        return found
    errors = [errors for _, errors in outputs if errors.strip()]
    return {"failed": (errors or ["no message"])[0].strip().splitlines()[-1][:200]}


def work(request: dict[str, Any]) -> None:
    """One rank: the step of weft train on random rows."""
    import torch
    import torch.distributed as dist

    # What a training process has loaded, for its memory.
    import weft.train.session  # noqa: F401
    from weft.core.hardware import peak_memory
    from weft.models import Decoder
    from weft.ops.arithmetic import share_cores
    from weft.ops.kernels import kernels
    from weft.ops.memory import keep_memory
    from weft.parallel.mesh import Mesh
    from weft.parallel.model import parallelise
    from weft.parallel.planner.trace import DTYPES
    from weft.parallel.world import joined
    from weft.train.config import OptimizerSection
    from weft.train.objectives.pretrain import Pretrain
    from weft.train.optim import Optimizer
    from weft.train.step import Step

    keep_memory()
    job, plan, micro = job_of(request)
    with joined(torch.device("cpu")) as world:
        share_cores(world.local_size)
        kernels()
        mesh = Mesh.build(plan, world)
        plan.check(job.config, rows=job.rows, micro_rows=micro, length=job.length)
        module = Decoder(job.config)
        module.initialise(torch.Generator().manual_seed(0))
        dtype = DTYPES[job.dtype]
        model = parallelise(module, plan, mesh, dtype)
        del module
        section = OptimizerSection(name=job.optimizer)  # type: ignore[arg-type]
        optimizer = Optimizer(model.module, section, 1e-5, mesh.group("stage"))
        step = Step(model, Pretrain(), optimizer, 1.0, dtype)
        batches = micro_batches(job, job.rows // plan.data_ranks, micro)
        seconds: list[float] = []
        begun = time.perf_counter()
        more = torch.ones(())
        while more.item():
            world.barrier()
            started = time.perf_counter()
            step.run(batches, 1.0)
            seconds.append(time.perf_counter() - started)
            enough = len(seconds) >= 5 and (len(seconds) >= 14 or time.perf_counter() - begun > 4)
            more.fill_(0.0 if enough else 1.0)
            if not world.alone:
                # All ranks stop when the first one says so.
                dist.broadcast(more, 0)
        peaks = [torch.zeros((), dtype=torch.float64) for _ in range(world.size)]
        peak = torch.tensor(float(peak_memory()), dtype=torch.float64)
        if world.alone:
            peaks = [peak]
        else:
            dist.all_gather(peaks, peak)
        told = {"seconds": statistics.median(seconds[2:]), "bytes": max(float(p) for p in peaks)}
        if request.get("profiled"):
            told["communication"] = communicating(lambda: step.run(batches, 1.0))
        if world.first:
            print(json.dumps(told))


def communicating(run: Callable[[], Any]) -> float:
    """Seconds of one step in which a collective is under way on this rank, waiting for others included."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run()
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in seen.events()
        if event.name.startswith(("gloo:", "nccl:"))
    )
    total, reached = 0.0, 0.0
    for first, last in spans:
        total += max(0.0, last - max(first, reached))
        reached = max(reached, last)
    return total / 1e6


def micro_batches(job: Job, rows: int, micro: int) -> list[Any]:
    from weft.data.batch import Batch

    generator = np.random.default_rng(0)
    batches = []
    for _ in range(rows // micro):
        tokens = generator.integers(0, job.config.vocab_size, (micro, job.length + 1))
        start = np.zeros((micro, job.length), np.int32)
        batches.append(Batch(tokens[:, :-1].copy(), tokens[:, 1:].copy(), start))
    return batches


def report(rows: list[dict[str, Any]]) -> None:
    lines = []
    for row in rows:
        name = f"{row['size']} {row['plan'] or 'one process'} /{row['micro_rows']}"
        if "failed" in row:
            lines.append([name, row["failed"][:40], "", "", "", "", "", ""])
            continue
        time_error, memory_error = (
            error(row["predicted_seconds"], row["seconds"]),
            error(row["predicted_bytes"], row["bytes"]),
        )
        own = error(row["predicted_bytes"] - row["runtime_bytes"], row["bytes"] - row["runtime_bytes"])
        lines.append([
            name, f"{1000 * row['seconds']:.0f}", f"{1000 * row['predicted_seconds']:.0f}",
            f"{100 * time_error:+.1f}",
            f"{row['bytes'] / MiB:.0f}", f"{row['predicted_bytes'] / MiB:.0f}", f"{100 * memory_error:+.1f}",
            f"{100 * own:+.0f}",
        ])  # fmt: skip
    print(table(["", "ms", "foretold", "%", "MiB", "foretold", "%", "% beside runtime"], lines, left=(0,)))
    kept_rows = [row for row in rows if "failed" not in row]
    for what, key in (("time", "seconds"), ("memory", "bytes")):
        errors = sorted(abs(error(row[f"predicted_{key}"], row[key])) for row in kept_rows)
        if errors:
            p50, p90 = np.quantile(errors, 0.5), np.quantile(errors, 0.9)
            print(
                f"{what}: {len(errors)} configurations, error P50 {100 * p50:.1f} %, "
                f"P90 {100 * p90:.1f} %, worst {100 * errors[-1]:.1f} %"
            )
    regrets(kept_rows)
    print("by kind, foretold, ms and MiB:")
    kinds = [
        [f"{r['size']} {r['plan'] or 'one process'} /{r['micro_rows']}"]
        + [f"{1000 * r['step'][k]:.0f}" for k in TIMES] + [f"{r['memory'][k] / MiB:.0f}" for k in KINDS]
        for r in kept_rows
    ]  # fmt: skip
    print(table(["", *TIMES, *KINDS], kinds, left=(0,)))


def regrets(rows: list[dict[str, Any]]) -> None:
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["size"], Plan.parse(row["plan"]).size), []).append(row)
    for (size, processes), members in groups.items():
        if len(members) < 2:
            continue
        first = min(members, key=lambda r: r["predicted_seconds"])
        best = min(members, key=lambda r: r["seconds"])
        regret = first["seconds"] / best["seconds"] - 1
        print(
            f"regret, {size}, {processes} processes: {100 * regret:.1f} % (chosen "
            f"{first['plan'] or 'one process'}, "
            f"fastest {best['plan'] or 'one process'}, of {len(members)})"
        )


if __name__ == "__main__":
    main()
