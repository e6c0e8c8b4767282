"""Train a Hugging Face folder with LitGPT's own `litgpt.pretrain.setup`: run with the peer's Python.

    python litgpt_pretrain.py JOB.json RESULT.json

This is what `litgpt pretrain` calls: torch.compile of the whole model, Lightning Fabric in bf16-mixed, its
loop, its chunked cross-entropy, its cosine schedule (a constant one is a cosine whose minimum is its
maximum). The weights go through LitGPT's own `convert_hf_checkpoint`, and back through its
`convert_lit_checkpoint`. Given from here are only a data module that yields the rows in order, and a
registered configuration of the same shape. LitGPT leaves AdamW unfused on CPUs and decays all parameters;
both stay as it has them. The two validation batches that its loop runs before the first step, and its final
checkpoint, are not timed.
"""

from __future__ import annotations

import csv
import importlib.metadata
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
from job import Job, StepClock, write_result
from litgpt.args import EvalArgs, TrainArgs
from litgpt.config import Config, name_to_config
from litgpt.data import DataModule
from litgpt.pretrain import setup
from litgpt.scripts.convert_hf_checkpoint import convert_hf_checkpoint
from litgpt.scripts.convert_lit_checkpoint import convert_lit_checkpoint
from safetensors.torch import save_file
from torch.utils.data import DataLoader, IterableDataset

NAME = "Llama-bench"


class Rows(IterableDataset):
    """The rows in order, each int64 [T + 1]; marks the start, and a step at each batch after it."""

    def __init__(self, rows: np.ndarray, batch_rows: int, clock: StepClock | None) -> None:
        self.rows, self.batch_rows, self.clock = rows, batch_rows, clock

    def __iter__(self):
        for index in range(len(self.rows) + 1):
            if self.clock and index % self.batch_rows == 0:
                # The loop asks for batch s when step s - 1 has ended, and once more after the last step.
                self.clock.step() if index else self.clock.start()
            yield torch.from_numpy(self.rows[index % len(self.rows)].astype(np.int64))


class Given(DataModule):
    """The rows as LitGPT's data module; one batch of them stands in for its validation set."""

    def __init__(self, job: Job, clock: StepClock) -> None:
        super().__init__()
        self.job, self.clock = job, clock
        rows = np.load(job.rows, mmap_mode="r")
        self.rows = rows[: job.steps * job.batch_rows]

    def connect(self, tokenizer=None, batch_size=1, max_seq_length=None, **kwargs) -> None:
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Rows(self.rows, self.batch_size, self.clock), batch_size=self.batch_size)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(
            Rows(self.rows[: self.batch_size], self.batch_size, None), batch_size=self.batch_size
        )


def configuration(model: Path, context: int) -> dict[str, object]:
    """LitGPT's names for the shape in a Hugging Face config.json."""
    hf = json.loads((model / "config.json").read_text(encoding="utf-8"))
    rope = hf.get("rope_parameters") or {}
    return {
        "name": NAME,
        "hf_config": {"org": "bench", "name": NAME},
        "block_size": context,
        "vocab_size": hf["vocab_size"],
        "padded_vocab_size": hf["vocab_size"],
        "n_layer": hf["num_hidden_layers"],
        "n_embd": hf["hidden_size"],
        "n_head": hf["num_attention_heads"],
        "n_query_groups": hf["num_key_value_heads"],
        "head_size": hf["head_dim"],
        "intermediate_size": hf["intermediate_size"],
        "rotary_percentage": 1.0,
        "rope_base": int(rope.get("rope_theta") or hf.get("rope_theta") or 10000),
        "parallel_residual": False,
        "bias": False,
        "norm_class_name": "RMSNorm",
        "norm_eps": hf["rms_norm_eps"],
        "mlp_class_name": "LLaMAMLP",
    }


def export(job: Job, scratch: Path) -> None:
    """LitGPT's final checkpoint as a Hugging Face folder."""
    convert_lit_checkpoint(scratch / "out" / "final", scratch / "converted")
    weights = torch.load(scratch / "converted" / "model.pth", mmap=True, weights_only=True)
    out = Path(job.export)
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.clone().contiguous() for name, tensor in weights.items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(Path(job.model) / "config.json", out / "config.json")


def train(job: Job, scratch: Path, checkpoint: Path, clock: StepClock) -> None:
    data = Given(job, clock)
    context = data.rows.shape[1] - 1
    name_to_config[NAME] = configuration(Path(job.model), context)
    shutil.copytree(job.model, checkpoint)
    convert_hf_checkpoint(checkpoint, model_name=NAME)
    minimum = job.learning_rate * (job.final_ratio if job.schedule == "cosine" else 1.0)
    setup(
        NAME,
        model_config=Config.from_name(NAME),
        out_dir=scratch / "out",
        precision="bf16-mixed",
        initial_checkpoint_dir=None if job.own_weights else checkpoint,
        data=data,
        train=TrainArgs(
            save_interval=None,
            log_interval=1,
            global_batch_size=job.batch_rows,
            micro_batch_size=job.batch_rows,
            max_tokens=job.steps * job.batch_rows * context,
            max_seq_length=context,
            max_norm=job.clip,
            lr_warmup_steps=job.warmup_steps,
            min_lr=minimum,
        ),
        eval=EvalArgs(interval=job.steps + 1, max_iters=1, final_validation=False),
        optimizer={
            "class_path": "torch.optim.AdamW",
            "init_args": {
                "lr": job.learning_rate,
                "betas": list(job.betas),
                "weight_decay": job.weight_decay,
            },
        },
        logger_name="csv",
        seed=0,
    )


def main(job_file: str, result_file: str) -> None:
    job = Job.read(job_file)
    began = time.perf_counter()
    torch.set_num_threads(job.threads)
    scratch = Path(job.scratch)
    clock = StepClock()
    train(job, scratch, scratch / NAME, clock)
    if job.export:
        export(job, scratch)
    (metrics,) = (scratch / "out" / "logs").rglob("metrics.csv")
    with metrics.open(encoding="utf-8") as file:
        losses = [float(line["loss"]) for line in csv.DictReader(file) if line["loss"]]
    write_result(
        Path(result_file),
        system="LitGPT bf16-mixed compiled",
        versions={name: importlib.metadata.version(name) for name in ("torch", "litgpt", "lightning")},
        clock=clock,
        losses=losses,
        startup_seconds=clock.began - began,
    )


if __name__ == "__main__":
    job_file, result_file = sys.argv[1:3]
    # LitGPT writes its hyperparameters beside the final checkpoint by parsing its own command line.
    sys.argv[1:] = [NAME]
    main(job_file, result_file)
