"""``weft demo``: the whole way in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weft.cli.command import Record, weft_command


@weft_command("demo")
@click.option("--budget", default="5m", show_default=True, help="Time for training; sizes follow from it.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True)
def command(budget: str, out: Path) -> Record:
    """Walk the whole way: this Python's own library becomes a model that writes Python."""
    from weft.recipes.demo import demo

    record = demo(out, budget, lambda text: click.echo(text, err=True))
    figures = record["figures"]
    click.echo(table(figures))
    for sample in figures["samples"]:
        click.secho("\n" + sample["prompt"], bold=True, nl=False)
        click.echo(sample["text"])
    click.echo(f"\nreport: {out / 'report.html'}")
    click.echo(f"serve the model with: weft serve {out / 'run'}")
    return {"out": str(out), **figures}


def table(figures: dict[str, Any]) -> str:
    """What was measured, for people."""
    data, training, measured = figures["data"], figures["training"], figures["evaluation"]
    kept, read = data["kept"], data["in"]
    bits, parse = measured["bits_per_byte"], measured["parse"]
    rows = [
        ("documents kept", f"{kept['documents']:,} of {read['documents']:,} ({kept['bytes'] / 1e6:.1f} MB)"),
        ("model", f"{training['parameters'] / 1e6:.2f} M parameters"),
        ("training", f"{training['tokens'] / 1e6:.2f} M tokens in {training['seconds']:.0f} s"),
        ("speed", f"{training['tokens_per_second']:,.0f} tokens/s"),
        ("share of matrix peak", f"{100 * training['peak_share']:.0f} %"),
        ("bits per byte: model", _with_interval(bits["model"], "{:.3f}")),
        ("bits per byte: lzma after the training text", _with_interval(bits["lzma"], "{:.3f}")),
        ("bits per byte: n-gram", _with_interval(bits["ngram"], "{:.3f}")),
        ("functions that parse: model", _with_interval(parse["model"], "{:.0%}")),
        ("functions that parse: n-gram", _with_interval(parse["ngram"], "{:.0%}")),
        *((f"seconds: {name}", f"{value:.0f}") for name, value in figures["seconds"].items()),
        ("seconds: all", f"{figures['total_seconds']:.0f}"),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {value}" for name, value in rows]
    lost = [name for name in ("lzma", "ngram") if bits["model"]["value"] >= bits[name]["value"]]
    verdict = f"does not beat {' and '.join(lost)}" if lost else "beats both baselines"
    return "\n".join([*lines, f"  The model {verdict} in bits per byte on held-out documents."])


def _with_interval(estimate: dict[str, float], form: str) -> str:
    low, high = form.format(estimate["low"]), form.format(estimate["high"])
    return f"{form.format(estimate['value'])} (95 %: {low} to {high})"
