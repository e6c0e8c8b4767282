"""The planner beside published training runs: foretold, published, and the ratio of the two.

A check of scale, not of accuracy: nothing here was run by us, software and settings of those runs differ
from Weft's (layers of another shape, own kernels, asynchronous tensor parallel), and the shares of the
published rates that the profiles assume are round numbers, the same for all rows of a machine. Sources:

torchtitan: benchmarks/llama3_h100_202412_torchtitan.md of github.com/pytorch/torchtitan, tables 1 to 6;
tokens/s a GPU and peak memory of the fullest GPU. Asynchronous tensor parallel counts as plain tensor
parallel here. Its loss writes all logits and their gradient in fp32, ours goes through them in chunks:
where one stage has everything, those bytes are added to the foretold memory (pipelines are compared as
they are).

Megatron-LM: table 1 of arXiv:2104.04473, A100 80 GB, rows of 2,048, vocabulary 51,200; TFLOP/s a GPU in
which recomputation is counted, as there. The feed-forward of those models has two matrices of four
widths; the same operations are given to SwiGLU's three. Their micro-batch is not published: the best of
1, 2, 4 and 8 is taken.

    python bench/planner_published.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from weft.core.errors import ConfigError
from weft.models.config import DecoderConfig
from weft.parallel.plan import Plan
from weft.parallel.planner.estimate import Prediction, World, estimate
from weft.parallel.planner.hardware import GIB
from weft.parallel.planner.job import Job
from weft.parallel.planner.machines import cluster_on
from weft.parallel.planner.report import table

LLAMA = {
    "8B": DecoderConfig(
        128256, 4096, 14336, 32, 32, 8, 128,
        architecture="LlamaForCausalLM", qk_norm=False, tie_word_embeddings=False,
    ),
    "70B": DecoderConfig(
        128256, 8192, 28672, 80, 64, 8, 128,
        architecture="LlamaForCausalLM", qk_norm=False, tie_word_embeddings=False,
    ),
    "405B": DecoderConfig(
        128256, 16384, 53248, 126, 128, 8, 128,
        architecture="LlamaForCausalLM", qk_norm=False, tie_word_embeddings=False,
    ),
}  # fmt: skip

# (table, model, GPUs, plan, rows of a data rank, rows of a micro-batch, positions, dtype, compiled,
#  tokens/s a GPU, GiB)
TORCHTITAN = (
    (1, "8B", 8, "fsdp=8,recompute=selective", 2, 2, 8192, "bf16", False, 5762, 82.4),
    (1, "8B", 8, "fsdp=8,recompute=selective", 2, 2, 8192, "bf16", True, 6667, 77.0),
    (1, "8B", 8, "fsdp=8,recompute=selective", 2, 2, 8192, "fp8", True, 8532, 76.8),
    (2, "8B", 8, "fsdp=8,recompute=full", 1, 1, 32768, "fp8", True, 3890, 83.9),
    (2, "8B", 8, "fsdp=4,cp=2,recompute=full", 1, 1, 65536, "fp8", True, 2540, 84.2),
    (2, "8B", 8, "fsdp=2,cp=4,recompute=full", 1, 1, 131072, "fp8", True, 1071, 84.0),
    (3, "8B", 128, "fsdp=128,recompute=selective", 2, 2, 8192, "bf16", True, 6514, 62.0),
    (3, "8B", 128, "fsdp=128,recompute=selective", 2, 2, 8192, "fp8", True, 8380, 61.8),
    (4, "70B", 256, "fsdp=32,tp=8,recompute=full", 16, 16, 8192, "fp8", True, 829, 71.9),
    (5, "405B", 512, "pp=8,fsdp=8,tp=8,recompute=full", 32, 1, 8192, "fp8", True, 100, 82.5),
    (5, "405B", 512, "pp=8,fsdp=8,tp=8,recompute=full,schedule=interleaved,stages_per_rank=2",
     32, 1, 8192, "fp8", True, 128, 72.7),
    (6, "405B", 512, "pp=8,fsdp=8,tp=8,recompute=full", 8, 1, 32768, "fp8", True, 76, 75.3),
    (6, "405B", 512, "pp=8,fsdp=4,cp=2,tp=8,recompute=full", 8, 1, 65536, "fp8", True, 47, 75.9),
    (6, "405B", 512, "pp=8,fsdp=2,cp=4,tp=8,recompute=full", 8, 1, 131072, "fp8", True, 31, 77.1),
)  # fmt: skip

# (billion parameters, heads, width, layers, tp, pp, GPUs, batch, TFLOP/s a GPU)
MEGATRON = (
    (1.7, 24, 2304, 24, 1, 1, 32, 512, 137),
    (3.6, 32, 3072, 30, 2, 1, 64, 512, 138),
    (7.5, 32, 4096, 36, 4, 1, 128, 512, 142),
    (18.4, 48, 6144, 40, 8, 1, 256, 1024, 135),
    (39.1, 64, 8192, 48, 8, 2, 512, 1536, 138),
    (76.1, 80, 10240, 60, 8, 4, 1024, 1792, 140),
    (145.6, 96, 12288, 80, 8, 8, 1536, 2304, 148),
    (310.1, 128, 16384, 96, 8, 16, 1920, 2160, 155),
    (529.6, 128, 20480, 105, 8, 35, 2520, 2520, 163),
    (1008.0, 160, 25600, 128, 8, 64, 3072, 3072, 163),
)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    first, second = torchtitan(), megatron()
    print("torchtitan, H100 96 GB 500 W: tokens/s a GPU, and GiB on the fullest (foretold and published)")
    head = ["", "foretold", "published", "ratio", "GiB foretold", "GiB published", "ratio"]
    print(table(head, [cells(row, "memory" in row) for row in first], left=(0,)))
    print("\nMegatron-LM, A100 80 GB: TFLOP/s a GPU, recomputation counted")
    print(table(head[:4], [cells(row, False) for row in second], left=(0,)))
    if chosen.json:
        chosen.json.write_text(json.dumps({"torchtitan": first, "megatron": second}, indent=1) + "\n")


def cells(row: dict[str, Any], memory: bool) -> list[str]:
    found = [row["name"], f"{row['foretold']:.0f}", f"{row['published']:.0f}"]
    found.append(f"{row['foretold'] / row['published']:.2f}")
    if memory:
        found += [f"{row['memory']:.1f}", f"{row['published_memory']:.1f}"]
        found.append(f"{row['memory'] / row['published_memory']:.2f}")
    return found


def torchtitan() -> list[dict[str, Any]]:
    rows = []
    for number, model, gpus, text, rank_rows, micro, length, dtype, compiled, speed, memory in TORCHTITAN:
        plan = Plan.parse(text)
        job = Job(LLAMA[model], rank_rows * plan.data_ranks, length, dtype, compile=compiled)
        found = estimate(job, plan, micro, World.published(cluster_on(f"{gpus} x h100-96g-500w"), job))
        kind = dtype + (", compiled" if compiled else "")
        rows.append(
            {
                "name": f"table {number}: {model}, {length}, {text} ({kind})",
                "foretold": found.tokens_per_second / gpus,
                "published": speed,
                "memory": (found.memory.total + whole_logits(job, plan, micro)) / GIB,
                "published_memory": memory,
            }
        )
    return rows


def whole_logits(job: Job, plan: Plan, micro: int) -> float:
    """Bytes of logits and their gradient in fp32 on one rank; 0 for pipelines."""
    positions = micro * job.length / plan.cp
    return 8.0 * positions * job.config.vocab_size / plan.tp if plan.pp == 1 else 0.0


def megatron() -> list[dict[str, Any]]:
    rows = []
    for billions, heads, width, layers, tp, pp, gpus, batch, published in MEGATRON:
        inner = -(-8 * width // 3 // 64) * 64
        config = DecoderConfig(
            51200, width, inner, layers, heads, heads, width // heads,
            architecture="LlamaForCausalLM", qk_norm=False,
        )  # fmt: skip
        job = Job(config, batch, 2048, "bf16", compile=True)
        world = World.published(cluster_on(f"{gpus} x a100"), job)
        found = fastest(job, pp, tp, gpus // pp // tp, layers, world)
        # What is computed again counts: four forward passes' worth in place of three.
        done = job.flops * 4 / 3
        rows.append(
            {
                "name": f"{billions} B, {gpus} GPUs, {found}",
                "foretold": done / found.step.total / gpus / 1e12,
                "published": published,
            }
        )
    return rows


def fastest(job: Job, pp: int, tp: int, dp: int, layers: int, world: World) -> Prediction:
    # The fewest stages a rank that share the layers evenly.
    stages = next((v for v in range(2, 6) if layers % (pp * v) == 0), 1) if pp > 1 else 1
    plan = Plan(
        pp=pp, dp=dp, tp=tp, recompute="full",
        schedule="interleaved" if stages > 1 else "1f1b", stages_per_rank=stages,
    )  # fmt: skip
    found = []
    for micro in (1, 2, 4, 8):
        if job.rows // dp % micro:
            continue
        try:
            found.append(estimate(job, plan, micro, world))
        except ConfigError:
            continue
    return min(found, key=lambda p: p.step.total)


if __name__ == "__main__":
    main()
