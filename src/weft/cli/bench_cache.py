"""``weft bench cache``: what an int8 key-value cache costs in quality."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from weft.cli.command import Record, say, weft_command

if TYPE_CHECKING:
    from weft.engine.cache_cost import CacheCost


@weft_command("cache")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("text", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--tokens", default=20_000, show_default=True, help="At most, from the start of TEXT.")
@click.option("--dtype", help="Weights, as for `weft generate`.")
@click.option("--device", help="cpu or cuda; by default the GPU when there is one.")
def command(checkpoint: Path, text: Path, tokens: int, dtype: str | None, device: str | None) -> Record:
    """Compare the loss of CHECKPOINT over TEXT (a UTF-8 file) with its own cache and with one in int8."""
    from weft.api import Model, load
    from weft.core.errors import UsageError
    from weft.core.progress import Progress
    from weft.engine.cache_cost import cache_cost

    if tokens < 2:
        raise UsageError(f"--tokens {tokens} must be at least 2.")
    try:
        content = text.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{text} is not UTF-8 text.") from None
    model = load(checkpoint, dtype, device)
    if not isinstance(model, Model):
        raise UsageError(f"{checkpoint} is no decoder, and only they have an int8 cache.")
    decoder = model.llm.runner.model
    ids = model.tokenizer.encode(content)[:tokens]
    length = decoder.config.max_position_embeddings
    with Progress("cache", max(1, len(ids) // length), "windows") as progress:
        # Each holds all windows so far.
        for so_far in cache_cost(decoder, model.tokenizer, ids):
            found = so_far
            progress.advance()
    _show(found, decoder.number_format)
    return {"weights": decoder.number_format, **dataclasses.asdict(found)}


def _show(found: CacheCost, weights: str) -> None:
    spread = "" if found.interval is None else f" (95 %: within {100 * found.interval:.3f})"
    change = f"{100 * (found.ratio - 1):+.3f} %{spread}"
    say(f"weights {weights}, {found.windows} windows")
    say(f"  {'cache':<6}{'bits a token':>14}{'bytes a token':>15}")
    say(f"  {'own':<6}{found.own_bits_per_token:>14.4f}{found.own_bytes_per_token:>15,.0f}")
    say(f"  {'int8':<6}{found.int8_bits_per_token:>14.4f}{found.int8_bytes_per_token:>15,.0f}")
    say(f"  loss {change}; the same likeliest token at {found.same_best:.2%} of the places")
