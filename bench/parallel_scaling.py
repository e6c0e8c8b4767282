"""Training with 1, 2 and 4 processes here, technique by technique: tokens/s, communication, memory.

    python bench/parallel_scaling.py [--size middle] [--json FILE]

The same model and the same rows a step for all (sizes and the worker are those of planner_accuracy.py):
strong scaling. On a machine whose cores one process already uses, more processes cannot add arithmetic; what
the table then shows is what each technique costs, not what it gains. `communication` is the time of one
profiled step in which a collective was under way on rank 0, waiting for slower ranks included, as a share of
that technique's median step; it overlaps computation where the technique lets it. `a core`: tokens/s by the
cores that the processes may use.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import planner_accuracy
from weft.parallel.plan import Plan

LAYOUTS = (
    ("", 1), ("", 2), ("recompute=full", 1),
    ("dp=2", 1), ("fsdp=2", 1), ("tp=2", 1), ("pp=2", 4), ("pp=2,schedule=gpipe", 4), ("cp=2", 1),
    ("cp=2,context=heads", 1),
    ("dp=4", 1), ("fsdp=4", 1), ("dp=2,fsdp=2", 1), ("dp=2,tp=2", 1), ("pp=4", 4), ("cp=4", 1),
)  # fmt: skip


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--size", choices=planner_accuracy.SIZES, default="middle")
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    cores = len(os.sched_getaffinity(0))
    _, batch_rows, length = planner_accuracy.SIZES[chosen.size]
    print(f"{cores} cores; {batch_rows} rows of {length} a step, bf16, AdamW")
    print(f"{'plan':30}{'micro':>6}{'tokens/s':>10}{'of one':>8}{'a core':>8}", end="")
    print(f"{'communication':>15}{'MiB a rank':>12}")
    rows: list[dict[str, Any]] = []
    for plan, parts in LAYOUTS:
        request = {
            "size": chosen.size, "plan": plan, "parts": parts, "dtype": "bf16", "optimizer": "adamw",
            "profiled": True,
        }  # fmt: skip
        row = request | planner_accuracy.launch(request)
        rows.append(row)
        name = plan or "one process"
        if "failed" in row:
            print(f"{name:30} {row['failed']}", flush=True)
            continue
        rate = batch_rows * length / row["seconds"]
        row["tokens_per_second"] = rate
        share = row["communication"] / row["seconds"] if Plan.parse(plan).size > 1 else 0.0
        micro = planner_accuracy.job_of(row)[2]
        print(
            f"{name:30}{micro:6}{rate:10,.0f}{rate / rows[0]['tokens_per_second']:8.2f}{rate / cores:8,.0f}"
            f"{share:15.0%}{row['bytes'] / 2**20:12,.0f}",
            flush=True,
        )
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
