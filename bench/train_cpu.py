"""Training throughput on this machine: Weft against Hugging Face Trainer and LitGPT.

    python bench/train_cpu.py [--rounds 2] [--steps 12] [--json FILE]

The same for all: the 34M Llama of workload.py; the same first weights (drawn once by transformers; LitGPT
takes them through its own converter, Weft through its importer); the same rows of 512 targets in the same
order, full causal rows without document masks, 8 rows a step; AdamW, learning rate 1e-3 after 3 steps of
warm-up from 0, betas 0.9 and 0.95, weight decay 0.1, gradients clipped at 1.0; fp32 weights with bf16
matrix work; the same number of threads; a process of its own for each; torch of the same version. Systems
take turns in rounds, A B C A B C, so that a machine that slows down slows all of them.

What differs, because each system runs as its makers ship it: Trainer is eager unless `huggingface-compiled`
is asked for, its AdamW is fused and leaves norms undecayed; LitGPT compiles the whole model, its AdamW is
not fused on CPUs and decays everything; Weft uses what its own defaults choose. `--peers-keep-memory` gives
the peers the allocator setting that Weft sets for itself, which their makers do not.

Tokens/s is from the median step after 3 warm-up steps, over all rounds; compilation falls in the start-up
and in the first steps and is printed beside, not counted. Share of peak is the FLOPs of
workload.flops_per_token over the best bf16 matrix product measured in this run. `cpu` is processor time
over wall time and threads: far below 100 % means that the machine was shared and the figures are worth
little.

Losses at equal steps must agree with Weft's within --tolerance (relative, 2 % by default: bf16 keeps 8 bits
and the systems round in different places); exits with 1 when they do not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import environments
import workload

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from job import Job

WARM_UP = 3
SYSTEMS = ("weft", "huggingface", "litgpt", "huggingface-compiled")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", default="weft,huggingface,litgpt", help=f"of {','.join(SYSTEMS)}")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12, help=f"measured, after {WARM_UP} to warm up")
    parser.add_argument("--rows", type=int, default=8, help="rows of a step")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tolerance", type=float, default=0.02)
    parser.add_argument("--peers-keep-memory", action="store_true")
    parser.add_argument("--environments", type=Path, default=environments.DEFAULT)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    unknown = set(given.systems.split(",")) - set(SYSTEMS)
    if unknown or given.rounds < 1 or given.steps < 1:
        parser.error(f"unknown systems {sorted(unknown)}" if unknown else "--rounds and --steps begin at 1")
    return given


def runner_of(system: str, given: argparse.Namespace) -> tuple[str, Path]:
    """(Python, script) that train with ``system``."""
    if system == "weft":
        return sys.executable, workload.HERE / "weft_train.py"
    peer = system.partition("-")[0]
    script = {"huggingface": "huggingface_trainer.py", "litgpt": "litgpt_pretrain.py"}[peer]
    return environments.python_of(peer, given.environments), environments.PEERS / script


def measure(given: argparse.Namespace, folder: Path) -> tuple[dict[str, list[dict[str, Any]]], float]:
    """Results of every round of every system, and the best matrix product seen between them."""
    systems = given.systems.split(",")
    runners = {system: runner_of(system, given) for system in systems}
    python = environments.python_of("huggingface", given.environments)
    model = workload.initial_weights(python, workload.SHAPE, folder / "initial")
    steps = WARM_UP + given.steps
    rows = workload.standard_library_rows(steps * given.rows, workload.CONTEXT, workload.SHAPE["vocab_size"])
    np.save(folder / "rows.npy", rows)
    results: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
    peak = workload.matrix_peak(given.threads)
    for turn in range(given.rounds):
        for system in systems:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                job = Job(
                    model=str(model),
                    rows=str(folder / "rows.npy"),
                    batch_rows=given.rows,
                    steps=steps,
                    scratch=scratch,
                    threads=given.threads,
                    warmup_steps=WARM_UP,
                    compile=system.endswith("-compiled"),
                )
                keep = given.peers_keep_memory and system != "weft"
                result = workload.train(*runners[system], job, Path(scratch), keep_memory=keep)
            results[system].append(result)
            median = statistics.median(result["step_seconds"][WARM_UP:])
            print(f"round {turn + 1} {system}: {median:.3f} s a step", file=sys.stderr, flush=True)
        peak = max(peak, workload.matrix_peak(given.threads))
    return results, peak


def summarise(rounds: list[dict[str, Any]], peak: float, given: argparse.Namespace) -> dict[str, Any]:
    """The figures of one system over its rounds."""
    seconds = [second for result in rounds for second in result["step_seconds"][WARM_UP:]]
    processor = [second for result in rounds for second in result["step_cpu_seconds"][WARM_UP:]]
    tokens_per_second = given.rows * workload.CONTEXT / statistics.median(seconds)
    flops = workload.flops_per_token(workload.SHAPE, workload.CONTEXT)
    return {
        "system": rounds[0]["system"],
        "versions": rounds[0]["versions"],
        "tokens_per_second": tokens_per_second,
        "share_of_peak": tokens_per_second * flops / peak,
        "peak_memory_bytes": max(result["peak_memory_bytes"] for result in rounds),
        "startup_and_first_steps_seconds": [
            result["startup_seconds"] + sum(result["step_seconds"][:WARM_UP]) for result in rounds
        ],
        "processor_share": sum(processor) / sum(seconds) / given.threads,
        "losses": [result["losses"] for result in rounds],
        "step_seconds": [result["step_seconds"] for result in rounds],
    }


def loss_difference(ours: dict[str, Any], other: dict[str, Any]) -> float:
    """Largest relative difference of the losses at equal steps, over all rounds; infinite when steps lack."""
    worst = 0.0
    for mine, theirs in zip(ours["losses"], other["losses"], strict=True):
        if len(mine) != len(theirs):
            return float("inf")
        worst = max([worst, *(abs(a - b) / b for a, b in zip(mine, theirs, strict=True))])
    return worst


def print_table(table: dict[str, dict[str, Any]], peak: float, tolerance: float) -> bool:
    """Print the table; False when losses disagree."""
    ours = table.get("weft")
    print(f"bf16 matrix peak {peak / 1e12:.2f} TFLOP/s")
    print(f"{'system':28} {'tokens/s':>9} {'of peak':>8} {'memory':>8} {'start s':>8} {'cpu':>5}", end="")
    print(f" {'weft/it':>8} {'loss diff':>10}")
    agree = True
    for row in table.values():
        start = statistics.median(row["startup_and_first_steps_seconds"])
        print(f"{row['system']:28} {row['tokens_per_second']:9,.0f} {row['share_of_peak']:8.1%}", end=" ")
        print(
            f"{row['peak_memory_bytes'] / 2**30:5.2f} GB {start:8.1f} {row['processor_share']:5.0%}", end=""
        )
        if ours and row is not ours:
            row["weft_over_it"] = ours["tokens_per_second"] / row["tokens_per_second"]
            row["loss_difference"] = loss_difference(ours, row)
            agree &= row["loss_difference"] <= tolerance
            print(f" {row['weft_over_it']:7.2f}x {row['loss_difference']:10.2%}", end="")
        print()
    if ours:
        print(f"losses at equal steps agree within {tolerance:.0%}: {'yes' if agree else 'NO'}")
    return agree


def main() -> int:
    given = arguments()
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as folder:
        results, peak = measure(given, Path(folder))
    table = {system: summarise(rounds, peak, given) for system, rounds in results.items()}
    agree = print_table(table, peak, given.tolerance)
    if given.json:
        options = {name: str(value) for name, value in vars(given).items()}
        record = {"matrix_peak_flops": peak, "losses_agree": agree, "options": options, "systems": table}
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
