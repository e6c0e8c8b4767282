"""A decoder on benchmarks from local files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weft.api import load
from weft.api.model import Model
from weft.core.errors import UsageError
from weft.core.progress import Progress
from weft.core.registry import lookup
from weft.eval import harness
from weft.eval.decoder_model import DecoderModel
from weft.recipes.task_report import interval

Record = dict[str, Any]


def evaluate_benchmarks(
    checkpoint: Path,
    names: Sequence[str],
    files: Sequence[Path],
    shots: int = 0,
    limit: int = 0,
    *,
    dtype: str | None = None,
    device: str | None = None,
) -> Record:
    """Each benchmark from the file at its place. UsageError for other numbers of files, or no decoder."""
    if not names or len(names) != len(files):
        raise UsageError(f"{len(names)} benchmarks got {len(files)} --harness-files; give one for each.")
    if shots < 0 or limit < 0:
        raise UsageError("--harness-shots and --harness-limit must be at least 0.")
    for name in names:
        lookup(dict.fromkeys(harness.NAMES), name, "benchmark")
    model = load(checkpoint, dtype, device)
    if not isinstance(model, Model):
        raise UsageError(f"{checkpoint} is no decoder, and benchmarks ask for likelihoods; use --task-files.")
    asked = DecoderModel(model.llm.runner.model, model.tokenizer, model.generate_until)
    found = []
    for name, file in zip(names, files, strict=True):
        with Progress(name, unit="requests") as progress:
            found.append(harness.evaluate(asked, name, file, shots, limit, progress.advance))
    return {"checkpoint": str(checkpoint), "benchmarks": found}


def harness_table(record: Record) -> str:
    """The figures for people."""
    lines = []
    for one in record["benchmarks"]:
        part = f", only the first {one['limit']:,}" if one["limit"] else ""
        lines.append(
            f"{one['benchmark']}: {one['items']:,} items, {one['shots']} shots{part}; 95 % intervals"
        )
        for row in one["figures"]:
            lines.append(f"  {row['name']:<20} {'model':<10} {interval(row['model'], row['unit'])}")
            for name, estimate in row["baselines"].items():
                lines.append(f"  {'':<20} {name:<10} {interval(estimate, row['unit'])}")
    return "\n".join(lines)
