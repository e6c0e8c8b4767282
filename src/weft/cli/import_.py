"""``weft import``: a Hugging Face folder from elsewhere as a checkpoint of ours."""

from __future__ import annotations

from pathlib import Path

import click

from weft.cli.command import weft_command


@weft_command("import")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
def command(folder: Path, out: Path) -> dict[str, object]:
    """Check a Hugging Face FOLDER and write it as a Weft checkpoint.

    It may hold a Llama, Mistral, Qwen2, Qwen3, Qwen3-MoE, ModernBERT or T5. Only safetensors are read;
    pickles, and folders that ask for code of their own, are refused.
    """
    from weft.checkpoint.convert import ConvertConfig, convert, describe

    record = convert(folder, out, ConvertConfig(), command="import")
    click.echo(describe(record, out), err=True)
    return {"out": str(out), "manifest": record}
