"""From a run file to what the planner asks for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from weft.checkpoint.kinds import read_decoder_config
from weft.core.errors import ConfigError
from weft.core.hardware import probe
from weft.models import DecoderConfig
from weft.parallel.planner import choice, machines, record
from weft.parallel.planner.estimate import estimate
from weft.parallel.planner.hardware import Cluster
from weft.parallel.planner.job import Job
from weft.train import dial
from weft.train.config import TrainRun


def job_of(run: TrainRun, config: DecoderConfig, dtype: str) -> Job:
    """The step of ``run`` for a decoder of this shape; ``dtype``: bf16, fp32 or fp8."""
    length = run.data.sequence_length
    tokens = run.train.batch_tokens or dial.batch_tokens(4e6, length)
    return Job(
        config,
        max(1, tokens // length),
        length,
        dtype,
        run.optimizer.name,
        run.train.steps,
        run.train.micro_rows,
        compile=run.train.compile,
    )


def dtype_on(run: TrainRun, cluster: Cluster) -> str:
    """What matrices work in: as asked, else bf16 where the device has it in hardware."""
    if run.train.arithmetic != "auto":
        return run.train.arithmetic
    if not cluster.cores:
        return "bf16"
    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(probe().instruction_sets) else "fp32"


def automatic(run: TrainRun, processes: int | None = None, config: DecoderConfig | None = None) -> TrainRun:
    """``run`` with the planner's layout and micro-batch for so many processes, or as many as are fastest.

    ``--parallel auto``; ``config`` where the run file does not say the shape. ResourceError, with the
    smallest change that helps, when nothing fits.
    """
    clusters = [here(processes)] if processes else machines.clusters_on("auto")
    job = job_of(run, config or shape_of(run), dtype_on(run, clusters[0]))
    found, _ = choice.best_of(job, clusters, top=1)
    if not found.ranked:
        choice.refuse(found)
    plan, micro_rows = found.ranked[0].plan, found.ranked[0].micro_rows
    train = dataclasses.replace(run.train, micro_rows=micro_rows)
    return dataclasses.replace(run, parallel=plan, train=train)


def judged(
    run: TrainRun, config: DecoderConfig, dtype: str, seconds: float, memory: float, file: Path | None = None
) -> str:
    """How far off the planner was for a finished run, as a line; also appended to its record of errors.

    ``seconds``: the median step; ``memory``: bytes of the largest rank's peak.
    """
    job, cluster = job_of(run, config, dtype), here(run.parallel.size)
    micro_rows = run.train.micro_rows or job.rows // run.parallel.data_ranks
    world = choice.world_of(cluster, job)
    found = estimate(job, run.parallel, min(micro_rows, job.rows // run.parallel.data_ranks), world)
    measured = record.Measured(seconds, memory)
    record.keep(found, measured, file)
    line = record.judge(found, measured)
    if cluster.device.kind == "cpu" and world.cluster.device.source != "calibrated":
        line += "; this machine was not calibrated (weft plan --calibrate)"
    return line


def here(processes: int) -> Cluster:
    """So many processes of this machine: its GPUs, several nodes of them, or a share of its cores each."""
    cluster = machines.this_machine()
    if cluster.cores:
        return machines.this_machine(processes)
    return cluster.resized(processes)


def shape_of(run: TrainRun, vocabulary: int | None = None) -> DecoderConfig:
    """The decoder that ``run`` would train; ConfigError where the run file does not say its width."""
    if run.model.start is not None:
        return read_decoder_config(Path(run.model.start))
    size = vocabulary or vocabulary_of(run)
    shape = dial.fixed_size(run.model, size, run.data.sequence_length)
    if shape is None:
        raise ConfigError("model.hidden_size is not set; the planner needs the size of the model.")
    return shape


def vocabulary_of(run: TrainRun) -> int:
    """Tokens of the data folder's tokenizer; ConfigError when there is none to ask."""
    file = Path(run.data.path) / "tokenizer" / "tokenizer.json"
    if not run.data.path or not file.is_file():
        raise ConfigError(
            "The size of the vocabulary is not known: set data.path to a data folder, or give --vocab."
        )
    from weft.tokenizer import Tokenizer

    return Tokenizer.load(file.parent).vocab_size
