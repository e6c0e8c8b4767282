"""The parity matrix as a table: how far every layout is from one process.

    python bench/parity.py [--steps 50] [--processes 2,4,8] [--only TEXT] [--json FILE]

A small decoder on made-up rows with ragged documents, AdamW; largest relative difference of a loss over all
steps, and of a gradient of the first step to its norm, in fp32 (learning rate 0.01) and in bf16 (0.003). The
plans and the measurement are those of tests/parallel/matrix.py; it is about equality, so how fast the machine
is does not matter.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.parallel.matrix import PLANS, measure
from tests.parallel.ranks import Ranks

DTYPES = ("float32", "bfloat16")


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--steps", type=int, default=50)
    options.add_argument("--only", default="", help="plans that contain this text")
    options.add_argument("--processes", default="2,4,8", help="sizes to run")
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    rows = []
    print(f"{'processes':>9}  {'plan':46}{'fp32 loss':>11}{'gradient':>11}{'bf16 loss':>11}{'gradient':>11}")
    for size in map(int, chosen.processes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            ranks = Ranks(size, Path(folder))
            for processes, plan, shape in PLANS:
                if processes != size or chosen.only not in plan:
                    continue
                name = plan + (" (untied)" if shape.get("tie_word_embeddings") is False else "")
                found = [
                    measure(ranks, plan, shape, chosen.steps, dtype) for dtype in ("float32", "bfloat16")
                ]
                figures = "".join(f"{part.loss:11.1e}{part.gradient:11.1e}" for part in found)
                print(f"{size:9}  {name:46}{figures}", flush=True)
                rows.append(
                    {"processes": size, "plan": name, "parts": [dataclasses.asdict(p) for p in found]}
                )
            ranks.close()
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
