"""Each speed trick of the trainer switched off alone, beside all of them on: tokens/s of the same steps.

    python bench/tricks.py [--steps 5] [--rounds 2] [--json FILE]

The 34M shape of workload.py with the Llama architecture, 8 rows of 512 random tokens, AdamW. Every variant
runs in a process of its own and all of them in turn, in rounds; the median step after two warm-up steps
counts. The loss of the last step is printed so that a trick that changes what is computed shows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

WARM_UP = 2


@dataclass(frozen=True)
class Variant:
    """``kernels``: WEFT_KERNELS; the rest are the settings of the worker."""

    name: str
    kernels: str = "on"
    keep_memory: bool = True
    arithmetic: str = "bf16"
    compile: bool = False
    chunk: int = 1024
    optimizer: str = "adamw"


VARIANTS = (
    Variant("all on"),
    Variant("attention kernel off (PyTorch's SDPA)", kernels="pointwise"),
    Variant("pointwise kernels off (plain PyTorch)", kernels="attention"),
    Variant("all kernels off", kernels="off"),
    Variant("all kernels off, torch.compile", kernels="off", compile=True),
    Variant("allocator gives memory back", keep_memory=False),
    Variant("fp32 matrix work", arithmetic="fp32"),
    Variant("loss in one chunk", chunk=1 << 30),
    Variant("Muon instead of AdamW", optimizer="muon"),
)


def worker(settings: str, steps: int) -> None:
    """Run one variant and print its step times, last loss and peak memory as JSON."""
    import numpy as np
    import torch

    import workload
    from weft.core.hardware import peak_memory
    from weft.data.batch import Batch
    from weft.models import Decoder, DecoderConfig, layers
    from weft.ops import loss as loss_ops
    from weft.ops.memory import keep_memory
    from weft.parallel.model import ParallelModel
    from weft.train.config import OptimizerSection
    from weft.train.objectives.pretrain import Pretrain
    from weft.train.optim import Optimizer
    from weft.train.step import Step

    variant = Variant(**json.loads(settings))
    if variant.keep_memory:
        keep_memory()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    shape = {**workload.SHAPE, "architecture": "LlamaForCausalLM", "qk_norm": False}
    model = Decoder(DecoderConfig(**shape))
    model.initialise(torch.Generator().manual_seed(0))
    if variant.compile:
        model.compile()

    def chunked(*arguments: object) -> torch.Tensor:
        return loss_ops.summed_cross_entropy(*arguments, variant.chunk)  # type: ignore[arg-type]

    layers.summed_cross_entropy = chunked  # type: ignore[assignment]
    dtype = torch.bfloat16 if variant.arithmetic == "bf16" else torch.float32
    optimizer = Optimizer(model, OptimizerSection(name=variant.optimizer), 1e-4)  # type: ignore[arg-type]
    step = Step(ParallelModel.alone(model), Pretrain(), optimizer, 1.0, dtype)
    rows = np.random.default_rng(0).integers(0, shape["vocab_size"], (8, workload.CONTEXT + 1))
    start = np.zeros((8, workload.CONTEXT), np.int32)
    batch = Batch(np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:]), start)
    seconds, loss = [], 0.0
    for _ in range(WARM_UP + steps):
        began = time.perf_counter()
        loss = step.run([batch], 1.0).loss
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": seconds[WARM_UP:], "loss": loss, "memory": peak_memory()}))


def measure(variant: Variant, steps: int) -> dict[str, object]:
    """One process of one variant."""
    command = [sys.executable, __file__, "--worker", json.dumps(vars(variant)), "--steps", str(steps)]
    environment = {**os.environ, "WEFT_KERNELS": variant.kernels}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given.worker, given.steps)
        return
    results: dict[str, list[dict[str, object]]] = {variant.name: [] for variant in VARIANTS}
    for _ in range(given.rounds):
        for variant in VARIANTS:
            results[variant.name].append(measure(variant, given.steps))
    tokens = 8 * 512
    rates = {
        name: tokens / statistics.median(s for run in runs for s in run["seconds"])  # type: ignore[attr-defined]
        for name, runs in results.items()
    }
    print(f"{'variant':42} {'tokens/s':>9} {'of all on':>9} {'peak GB':>8} {'last loss':>9}")
    for name, runs in results.items():
        memory = max(float(str(run["memory"])) for run in runs) / 1e9
        share = rates[name] / rates["all on"]
        print(f"{name:42} {rates[name]:9,.0f} {share:9.2f} {memory:8.2f} {float(str(runs[0]['loss'])):9.4f}")
    if given.json:
        given.json.write_text(json.dumps({"rates": rates, "runs": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
