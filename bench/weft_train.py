"""Train a Hugging Face folder with Weft: run with Weft's Python.

    python weft_train.py JOB.json RESULT.json

What `weft train` does in each step, with the rows and the learning rate that the job gives: its importer, its
choice of arithmetic and its allocator setting, its step (objective, clipping, AdamW) and its records of every
step on disk (JSON Lines and TensorBoard). Norms are left out of weight decay. AdamW is asked for, because the
peers use it; Weft's own default is Muon.
"""

from __future__ import annotations

import importlib.metadata
import sys
import time
from pathlib import Path

import numpy as np
import torch

from weft.checkpoint.huggingface import load_model
from weft.core.hardware import peak_memory
from weft.data.batch import Batch
from weft.ops.arithmetic import choose
from weft.ops.kernels import kernels
from weft.ops.memory import keep_memory
from weft.parallel import float8
from weft.parallel.model import ParallelModel
from weft.train.config import OptimizerSection
from weft.train.hooks import MetricsLog, TensorBoard
from weft.train.objectives.pretrain import Pretrain
from weft.train.optim import Optimizer
from weft.train.step import Step

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from job import Job, StepClock, write_result


def batch_of(rows: np.ndarray) -> Batch:
    """Full causal rows: every row is one document."""
    wide = rows.astype(np.int64)
    tokens, targets = np.ascontiguousarray(wide[:, :-1]), np.ascontiguousarray(wide[:, 1:])
    return Batch(tokens, targets, np.zeros(tokens.shape, np.int32))


def factor(job: Job, step: int) -> float:
    """Share of the peak learning rate at a step of a constant schedule with warm-up."""
    return step / job.warmup_steps if step < job.warmup_steps else 1.0


def main(job_file: str, result_file: str) -> None:
    job = Job.read(job_file)
    if job.schedule != "constant":
        sys.exit("weft_train.py knows the constant schedule only; `weft train` has the others.")
    began = time.perf_counter()
    keep_memory()
    device = torch.device(job.device)
    arithmetic = choose(device, job.arithmetic)
    torch.set_num_threads(job.threads)
    model = load_model(job.model, torch.float32, device)
    float8.apply(model, arithmetic.float8)
    beta1, beta2 = job.betas
    section = OptimizerSection(name="adamw", weight_decay=job.weight_decay, beta1=beta1, beta2=beta2)
    optimizer = Optimizer(model, section, job.learning_rate)
    step = Step(ParallelModel.alone(model), Pretrain(), optimizer, job.clip, arithmetic.dtype)
    if job.compile:
        model.compile()
    rows = np.load(job.rows, mmap_mode="r")
    scratch = Path(job.scratch)
    hooks = [MetricsLog(scratch / "metrics.jsonl", 0), TensorBoard(scratch / "tensorboard", 0)]
    gpu = torch.cuda.max_memory_reserved if job.device == "cuda" else None
    clock, losses = StepClock(gpu), list[float]()
    clock.start()
    for index in range(job.steps):
        batch = batch_of(rows[index * job.batch_rows : (index + 1) * job.batch_rows])
        result = step.run([batch], factor(job, index))
        losses.append(result.loss)
        record = {"step": index + 1, "loss": result.loss, "gradient_norm": result.gradient_norm}
        for hook in hooks:
            hook.after_step({**record, "memory_bytes": peak_memory()})
        clock.step()
    for hook in hooks:
        hook.close()
    print(f"{arithmetic.reason}; native kernels {kernels().status}")
    write_result(
        Path(result_file),
        system="Weft",
        versions={name: importlib.metadata.version(name) for name in ("torch", "weft")},
        clock=clock,
        losses=losses,
        startup_seconds=clock.began - began,
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
