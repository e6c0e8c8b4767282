"""``weft serve``: a checkpoint behind OpenAI-compatible HTTP and a page."""

from __future__ import annotations

import time
from pathlib import Path

import click

from weft.cli.command import Record, weft_command


@weft_command("serve")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, help="Port to listen on; 0 takes a free one.")
@click.option("--name", help="The model's name in the API; by default that of the folder.")
@click.option("--max-sequences", default=16, show_default=True, help="Answers worked on at once.")
@click.option("--max-waiting", default=64, show_default=True, help="Answers in the queue before 429.")
@click.option(
    "--dtype", help="Weights: float32, bfloat16, int8 or int4; by default bfloat16 where the machine has it."
)
@click.option("--device", help="cpu or cuda; by default the GPU when there is one.")
def command(
    checkpoint: Path,
    host: str,
    port: int,
    name: str | None,
    max_sequences: int,
    max_waiting: int,
    dtype: str | None,
    device: str | None,
) -> Record:
    """Serve CHECKPOINT, a training run or a Hugging Face folder, until Ctrl-C or SIGTERM."""
    from weft.api import load
    from weft.core.errors import UsageError
    from weft.server import Limits, Worker, create_app
    from weft.server.listen import bind, run

    if max_sequences < 1 or max_waiting < 0:
        raise UsageError("--max-sequences must be at least 1 and --max-waiting at least 0.")
    listener = bind(host, port)
    try:
        model = load(checkpoint, dtype, device, max_sequences=max_sequences)
    except BaseException:
        listener.close()
        raise
    name = name or checkpoint.resolve().name
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    click.echo(f"{name} is served on {address} (page) and {address}/v1 (API); Ctrl-C ends it.", err=True)
    started = time.monotonic()
    run(create_app(Worker(model.llm), name, Limits(waiting=max_waiting)), listener)
    click.echo("Drained and stopped.", err=True)
    return {"name": name, "address": address, "seconds": round(time.monotonic() - started, 3)}
