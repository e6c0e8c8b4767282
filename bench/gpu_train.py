"""Training throughput on one GPU: Weft against Hugging Face Trainer, at four sizes.

    python bench/gpu_train.py [--sizes 124m,350m,1b,3b] [--rounds 2] [--steps 20] [--json FILE]

The same for all as in train_cpu.py: first weights, rows, AdamW and its settings, fp32 weights with bf16
matrix work, no document masks. Rows a step and a row's length follow the size (SIZES). Weft compiles its
blocks, which `weft train train.compile=true` does; Trainer runs eager and, as `huggingface-compiled`, with
its own torch_compile; `weft-fp8` multiplies the blocks' matrices in fp8, where the GPU has it. Systems take
turns in rounds. Tokens/s is from the median step after the warm-up; share of peak is the FLOPs of
workload.flops_per_token over the best bf16 matrix product measured here, for fp8 too; memory is what the
caching allocator held at most. Losses at equal steps must agree within --tolerance.

Exits with 2 and one sentence where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import environments
import train_cpu
import workload
from weft.ops.float8 import has_float8

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from job import Job

WARM_UP = 5


def shape(layers: int, width: int, heads: int, groups: int, inner: int, vocabulary: int) -> dict[str, Any]:
    """A Llama shape in Hugging Face's names."""
    return {
        **workload.SHAPE,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": width // heads,
        "tie_word_embeddings": True,
    }


SIZES: dict[str, tuple[dict[str, Any], int, int]] = {
    "124m": (shape(12, 768, 12, 12, 2048, 50304), 32, 1024),
    "350m": (shape(24, 1024, 16, 16, 2816, 50304), 16, 1024),
    "1b": (shape(16, 2048, 32, 8, 8192, 50304), 8, 2048),
    "3b": (shape(28, 3072, 24, 8, 8192, 50304), 2, 2048),
}
"""Shape, rows of a step, positions of a row."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--systems", default="weft,weft-fp8,huggingface,huggingface-compiled")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tolerance", type=float, default=0.02)
    parser.add_argument("--python", help="the peer's Python, where its environment exists already")
    parser.add_argument("--environments", type=Path, default=environments.DEFAULT)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(size: str, given: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """The figures of every system at one size."""
    geometry, batch_rows, context = SIZES[size]
    geometry = {**geometry, "max_position_embeddings": context}
    peer = given.python or environments.python_of("huggingface", given.environments)
    model = workload.initial_weights(peer, geometry, folder / "initial")
    steps = WARM_UP + given.steps
    generator = np.random.default_rng(0)
    np.save(
        folder / "rows.npy",
        generator.integers(0, geometry["vocab_size"], (steps * batch_rows, context + 1), dtype=np.uint16),
    )
    able = has_float8(torch.device("cuda"))
    systems = [system for system in given.systems.split(",") if able or system != "weft-fp8"]
    rounds: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
    for _ in range(given.rounds):
        for system in rounds:
            ours = system.startswith("weft")
            runner = "weft_train.py" if ours else "peers/huggingface_trainer.py"
            python = sys.executable if ours else peer
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                job = Job(
                    model=str(model),
                    rows=str(folder / "rows.npy"),
                    batch_rows=batch_rows,
                    steps=steps,
                    scratch=scratch,
                    threads=4,
                    compile=ours or system == "huggingface-compiled",
                    device="cuda",
                    arithmetic="fp8" if system == "weft-fp8" else "auto",
                )
                rounds[system].append(workload.train(python, workload.HERE / runner, job, Path(scratch)))
    return {system: summarise(results, geometry, batch_rows, context) for system, results in rounds.items()}


def summarise(
    rounds: list[dict[str, Any]], geometry: dict[str, Any], batch_rows: int, context: int
) -> dict[str, Any]:
    seconds = [second for result in rounds for second in result["step_seconds"][WARM_UP:]]
    rate = batch_rows * context / statistics.median(seconds)
    return {
        "tokens_per_second": rate,
        "flops": rate * workload.flops_per_token(geometry, context),
        "peak_memory_bytes": max(result["peak_memory_bytes"] for result in rounds),
        "losses": [result["losses"] for result in rounds],
        "step_seconds": [result["step_seconds"] for result in rounds],
        "versions": rounds[0]["versions"],
    }


def peak() -> float:
    """Best bf16 matrix product of this GPU, in FLOP/s."""
    from weft.ops.arithmetic import matrix_rate

    return max(matrix_rate(torch.device("cuda"), torch.bfloat16) for _ in range(3))


def main() -> int:
    given = arguments()
    if not torch.cuda.is_available():
        print("There is no GPU here; run this where torch.cuda.is_available().", file=sys.stderr)
        return 2
    best = peak()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bf16 peak {best / 1e12:.0f} TFLOP/s")
    print(
        f"{'size':6}{'system':24}{'tokens/s':>10}{'of peak':>9}{'memory':>10}{'weft/it':>9}{'loss diff':>11}"
    )
    record: dict[str, Any] = {"peak": best, "sizes": {}}
    agree = True
    for size in given.sizes.split(","):
        with tempfile.TemporaryDirectory(prefix="weft-bench-") as folder:
            table = measure(size, given, Path(folder))
        ours = table["weft"]
        for system, row in table.items():
            difference = train_cpu.loss_difference(ours, row)
            # fp8 rounds sixteen times as much: its losses are shown, not judged.
            agree &= difference <= given.tolerance or system == "weft-fp8"
            print(
                f"{size:6}{system:24}{row['tokens_per_second']:10,.0f}{row['flops'] / best:9.1%}"
                f"{row['peak_memory_bytes'] / 1e9:8.1f}GB"
                f"{ours['tokens_per_second'] / row['tokens_per_second']:8.2f}x{difference:11.2%}"
            )
        record["sizes"][size] = table
    print(f"losses at equal steps agree within {given.tolerance:.0%}: {'yes' if agree else 'NO'}")
    if given.json:
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
