"""Train a Hugging Face folder with transformers' own Trainer: run with the peer's Python.

    python huggingface_trainer.py JOB.json RESULT.json

Nothing of Trainer is replaced or subclassed. Its options are the ones a user would set: bf16
autocast over fp32 weights, its default optimiser (fused AdamW), no evaluation and no saving while it runs.
It is handed `shift_labels`, so that a row of T + 1 tokens gives T targets here as it does in the other
systems, and it reads the rows in their order. Trainer leaves norms out of weight decay; LitGPT does not.
"""

from __future__ import annotations

import importlib.metadata
import sys
import time
from pathlib import Path

import numpy as np
import torch
from job import Job, StepClock, write_result
from torch.utils.data import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments


class Rows(Dataset):
    """Rows of T + 1 tokens as inputs and targets of T tokens each, both int64."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = torch.from_numpy(self.rows[index].astype(np.int64))
        return {"input_ids": row[:-1], "labels": row[:-1], "shift_labels": row[1:]}


class Recorder(TrainerCallback):
    """The end of each step, seen from outside: data, step and logging all count."""

    def __init__(self, clock: StepClock) -> None:
        self.clock = clock
        self.losses: list[float] = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.clock.start()

    def on_step_end(self, args, state, control, **kwargs):
        self.clock.step()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def main(job_file: str, result_file: str) -> None:
    job = Job.read(job_file)
    began = time.perf_counter()
    torch.set_num_threads(job.threads)
    if job.own_weights:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(job.model), dtype=torch.float32)
    else:
        model = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32)
    cosine = job.schedule == "cosine"
    arguments = TrainingArguments(
        output_dir=job.scratch,
        use_cpu=job.device == "cpu",
        bf16=True,
        torch_compile=job.compile,
        max_steps=job.steps,
        per_device_train_batch_size=job.batch_rows,
        learning_rate=job.learning_rate,
        lr_scheduler_type="cosine_with_min_lr" if cosine else "constant_with_warmup",
        lr_scheduler_kwargs={"min_lr_rate": job.final_ratio} if cosine else {},
        warmup_steps=job.warmup_steps,
        adam_beta1=job.betas[0],
        adam_beta2=job.betas[1],
        weight_decay=job.weight_decay,
        max_grad_norm=job.clip,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    recorder = Recorder(StepClock(torch.cuda.max_memory_reserved if job.device == "cuda" else None))
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Rows(np.load(job.rows, mmap_mode="r")),
        callbacks=[recorder],
    )
    trainer.train()
    if job.export:
        model.save_pretrained(job.export)
    write_result(
        Path(result_file),
        system="Hugging Face Trainer" + (" compiled" if job.compile else ""),
        versions={name: importlib.metadata.version(name) for name in ("torch", "transformers", "accelerate")},
        clock=recorder.clock,
        losses=recorder.losses,
        startup_seconds=recorder.clock.began - began,
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
