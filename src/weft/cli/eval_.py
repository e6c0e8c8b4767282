"""``weft eval``: a checkpoint on held-out text, labelled files or a benchmark, beside baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weft.cli.chat_options import ANSWERING_OPTIONS, CHAT_OPTIONS, chat_options, evaluate_on_chats
from weft.cli.command import Record, weft_command
from weft.cli.task_options import task_given, task_options, task_table
from weft.core.errors import UsageError

BENCHMARKS = ("lambada", "mmlu", "cmmlu", "arc", "openbookqa", "piqa")
TASK_OPTIONS = (
    "task_files", "train_files", "fields", "reader", "options", "names", "target_language", "beams",
    "max_length",
)  # fmt: skip
NAMES = {"model": "this model", "lzma": "LZMA after the training text", "ngram": "n-gram model (Kneser-Ney)"}


@weft_command("eval")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Folder of weft data; by default the run's.")
@click.option("--split", default="test", show_default=True, help="train, valid or test.")
@click.option("--overlap", type=int, help="Tokens that windows share; by default half of the context.")
@click.option("--ngram-order", default=5, show_default=True, help="Tokens of the longest n-gram.")
@click.option("--prompts", default=100, show_default=True, help="Function headers to continue; 0 is none.")
@click.option("--max-new-tokens", type=int, help="Tokens of a body (120) or an answer (256), at most.")
@click.option(
    "--temperature", type=float, help="0 takes the likeliest token each time; by default 0.8, of answers 0."
)
@click.option("--seed", default=0, show_default=True, help="Equal seeds give equal functions.")
@click.option(
    "--dtype",
    help="Weights: float32, bfloat16, int8 or int4 (on a GPU fp8, no int4), or auto-int8 or auto-int4, "
    "which take those only where they are measured to be faster; by default bfloat16 where the machine has "
    "it.",
)
@click.option("--device", help="cpu or cuda; by default the GPU when there is one.")
@task_options
@click.option(
    "--train-files", multiple=True, type=click.Path(path_type=Path), help="What baselines learn from."
)
@click.option("--report", type=click.Path(path_type=Path), help="The page; by default CHECKPOINT/eval.html.")
@click.option(
    "--examples", type=click.Path(path_type=Path), help="Ten random items and the worst, as Markdown."
)
@chat_options
@click.option("--harness", default="", help=f"Benchmarks, with commas between: {', '.join(BENCHMARKS)}.")
@click.option("--harness-files", multiple=True, type=click.Path(path_type=Path), help="One for each of them.")
@click.option("--harness-shots", default=0, show_default=True, help="Solved examples before each question.")
@click.option("--harness-limit", default=0, help="Only so many questions, for a first look; 0 is all.")
def command(
    checkpoint: Path,
    data: Path | None,
    dtype: str | None,
    device: str | None,
    report: Path | None,
    examples: Path | None,
    harness: str,
    harness_files: tuple[Path, ...],
    harness_shots: int,
    harness_limit: int,
    **settings: Any,
) -> Record:
    """Measure CHECKPOINT, a training run or a Hugging Face folder, beside baselines.

    A decoder is measured on the text that it was trained on and beside LZMA and an n-gram model, or on the
    benchmarks of --harness from local files. With --task-files a model that was trained for a task answers
    every row of labelled files. With --chat a chat model answers conversations: the loss of their answers
    and, with --judge, how often its own are better than those of --against.
    """
    given = {name: settings.pop(name) for name in TASK_OPTIONS}
    chat = {name: settings.pop(name) for name in CHAT_OPTIONS}
    settings = {name: value for name, value in settings.items() if value is not None}
    if given["task_files"]:
        return _on_task(checkpoint, given, dtype, settings["seed"], report, examples)
    if any(chat.values()):
        if examples is not None:
            raise UsageError("--examples is for --task-files; with --chat all answers lie beside the report.")
        how = {name: value for name, value in settings.items() if name in ANSWERING_OPTIONS}
        return evaluate_on_chats(checkpoint, report, {**how, "dtype": dtype, "device": device}, **chat)
    if harness:
        return _on_benchmarks(checkpoint, harness, harness_files, harness_shots, harness_limit, dtype, device)
    from weft.api import load
    from weft.core.progress import Progress
    from weft.eval.runner import EvalConfig, evaluate

    config = EvalConfig(**settings)
    if config.prompts < 0 or config.max_new_tokens < 1:
        raise UsageError("--prompts must be at least 0 and --max-new-tokens at least 1.")
    model = load(checkpoint, dtype, device, max_sequences=16)
    folder = data or _data_of(checkpoint)
    with Progress("eval") as progress:
        record = evaluate(
            model.llm.runner.model,
            model.tokenizer,
            folder,
            model.generate_until if config.prompts else None,
            config,
            progress.say,
        )
    click.echo(table(record), err=True)
    return {"checkpoint": str(checkpoint), "data": str(folder), **record}


def _on_task(
    checkpoint: Path,
    given: dict[str, Any],
    dtype: str | None,
    seed: int,
    report: Path | None,
    examples: Path | None,
) -> Record:
    from weft.core.files import write_text_atomic
    from weft.recipes.task_eval import evaluate_task
    from weft.recipes.task_examples import examples_markdown
    from weft.recipes.task_report import write_task_report

    files, writing = task_given(**given)
    record = evaluate_task(checkpoint, files, writing, dtype=dtype, seed=seed)
    report = report or checkpoint / "eval.html"
    write_task_report(record, report)
    if examples is not None:
        write_text_atomic(examples, examples_markdown(record))
    click.echo(task_table(record), err=True)
    click.echo(f"report: {report}", err=True)
    return {**record, "report": str(report)}


def _on_benchmarks(
    checkpoint: Path,
    names: str,
    files: tuple[Path, ...],
    shots: int,
    limit: int,
    dtype: str | None,
    device: str | None,
) -> Record:
    from weft.recipes.harness_eval import evaluate_benchmarks, harness_table

    listed = [name.strip() for name in names.split(",") if name.strip()]
    record = evaluate_benchmarks(checkpoint, listed, files, shots, limit, dtype=dtype, device=device)
    click.echo(harness_table(record), err=True)
    return record


def table(record: Record) -> str:
    """The result for people."""
    lines = [
        f"bits per byte on {record['split']}: {record['documents']:,} documents, {record['bytes']:,} bytes",
        *_rows(record["bits_per_byte"], "{:.3f}"),
    ]
    weights = record["settings"]["dtype"]
    lines.append(f"perplexity per token of this model with weights in {weights}: {record['perplexity']:.4f}")
    parse = record["parse"]
    if parse:
        shares = {name: parse[name] for name in ("model", "ngram")}
        lines += [f"generated functions that parse, of {parse['functions']}", *_rows(shares, "{:.0%}")]
    return "\n".join(lines)


def _rows(estimates: dict[str, dict[str, float]], form: str) -> list[str]:
    return [
        f"  {NAMES[name]:<30} {form.format(found['value']):>6}   "
        f"95 %: {form.format(found['low'])} to {form.format(found['high'])}"
        for name, found in estimates.items()
    ]


def _data_of(checkpoint: Path) -> Path:
    from weft.core import config
    from weft.train.config import TrainRun

    file = checkpoint / "resolved.toml"
    path = config.load(TrainRun, file).data.path if file.is_file() else ""
    if not path:
        raise UsageError(f"{checkpoint} does not say which data it was trained on; give --data FOLDER.")
    return Path(path)
