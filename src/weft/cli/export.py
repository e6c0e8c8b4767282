"""``weft export``: a checkpoint for other programs, as a Hugging Face folder or as GGUF."""

from __future__ import annotations

import re
from pathlib import Path

import click

from weft.cli.command import weft_command


def _bytes(context: click.Context, option: click.Parameter, text: str) -> int:
    units = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?)?b?", text.strip().lower())
    size = int(float(found.group(1)) * units[found.group(2) or ""]) if found else 0
    if size < 1:
        raise click.BadParameter(f"{text!r} is not a size; write for instance 2GB, 500MB or 1GiB.")
    return size


@weft_command("export")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["huggingface", "gguf"]),
    default="huggingface",
    show_default=True,
    help="A folder that transformers and vLLM open, or one file for llama.cpp.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16", "q8_0", "q4_0"]),
    help="Numbers to store; by default those of the checkpoint, in GGUF float16. q8_0, q4_0: GGUF alone.",
)
@click.option("--shard-size", callback=_bytes, default="2GB", show_default=True, help="Largest weights file.")
@click.option("--adapter", type=click.Path(path_type=Path), help="A LoRA adapter to merge into the weights.")
def command(
    checkpoint: Path, out: Path, form: str, dtype: str | None, shard_size: int, adapter: Path | None
) -> dict[str, object]:
    """Write a run or a CHECKPOINT for other programs: transformers, vLLM, llama.cpp."""
    from weft.checkpoint.convert import ConvertConfig, convert, describe

    merged = None if adapter is None else str(adapter)
    record = convert(checkpoint, out, ConvertConfig(dtype, shard_size, form, merged), command="export")
    click.echo(describe(record, out), err=True)
    return {"out": str(out), "manifest": record}
