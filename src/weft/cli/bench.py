"""``weft bench``: measure what is running, and what options cost."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weft.cli import bench_cache
from weft.cli.command import Record, say, weft_command

if TYPE_CHECKING:
    from weft.server.load import Ask


@click.group("bench")
def command() -> None:
    """Measure a server under load, and what a smaller cache costs."""


@weft_command("serve")
@click.argument("address", default="http://127.0.0.1:8000/v1")
@click.option(
    "--rate", default=math.inf, help="Requests a second on average (Poisson); by default all at once."
)
@click.option("--requests", default=100, show_default=True, help="How many.")
@click.option("--prompt-tokens", default=128, show_default=True, help="Length of made-up prompts, about.")
@click.option("--max-tokens", default=64, show_default=True, help="Length of the answers.")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON Lines with prompt (a text) or prompt_tokens (a length), and max_tokens if you like.",
)
@click.option("--model", help="By default the first that the server names.")
@click.option("--key", envvar="WEFT_API_KEY", help="API key; or the variable WEFT_API_KEY.")
@click.option(
    "--target-first", default=1.0, show_default=True, help="Seconds to the first token, for goodput."
)
@click.option("--target-each", default=0.1, show_default=True, help="Seconds for each further token.")
@click.option("--seed", default=0, show_default=True, help="Of arrivals and prompts.")
@click.option("--ignore-eos", is_flag=True, help="Answers of full length, where the server knows ignore_eos.")
def serve(
    address: str,
    rate: float,
    requests: int,
    prompt_tokens: int,
    max_tokens: int,
    prompts: Path | None,
    model: str | None,
    key: str | None,
    target_first: float,
    target_each: float,
    seed: int,
    ignore_eos: bool,
) -> Record:
    """Put load on the OpenAI-compatible server at ADDRESS and print throughput, latencies and goodput."""
    import asyncio

    from weft.core.errors import ResourceError, UsageError
    from weft.server.client import EventClient
    from weft.server.load import Target, arrivals, model_of, report, run
    from weft.server.open_files import raise_open_files

    if not rate > 0 or requests < 1 or prompt_tokens < 1 or max_tokens < 1:
        raise UsageError("--rate, --requests, --prompt-tokens and --max-tokens must be greater than 0.")
    asks = _asks(prompts, requests, prompt_tokens, max_tokens, seed)
    client = EventClient(address, key)
    raise_open_files()

    async def measure() -> Record:
        name = model or await model_of(client)
        body: dict[str, Any] = {
            "model": name,
            "temperature": 0,
            **({"ignore_eos": True} if ignore_eos else {}),
        }
        outcomes, seconds = await run(client, asks, arrivals(requests, rate, seed), body)
        found = report(outcomes, seconds, Target(target_first, target_each))
        refused = next((outcome.message for outcome in outcomes if outcome.status != 200), None)
        if not found["answered"]:
            raise ResourceError(f"No request was answered; the first was told: {refused}")
        return {"model": name, "rate": None if math.isinf(rate) else rate, **found, "first_refusal": refused}

    record = asyncio.run(measure())
    _show(record)
    return record


def _asks(file: Path | None, count: int, prompt_tokens: int, max_tokens: int, seed: int) -> list[Ask]:
    from weft.core.errors import DataError
    from weft.server.load import Ask, words

    lines: list[dict[str, Any]] = [{}]
    if file is not None:
        try:
            lines = [json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip()]
        except ValueError:
            raise DataError(f"{file} is not JSON Lines.") from None
        if not lines:
            raise DataError(f"{file} has no line.")
    for place, line in enumerate(lines, 1):
        _check_line(line, f"{file}, line {place}")
    asks = []
    for number in range(count):
        line = lines[number % len(lines)]
        made = words(line.get("prompt_tokens", prompt_tokens), seed * 1_000_003 + number)
        asks.append(Ask(line.get("prompt", made), line.get("max_tokens", max_tokens)))
    return asks


def _check_line(line: object, place: str) -> None:
    """DataError for a line that asks for nothing that can be sent."""
    from weft.core.errors import DataError

    right = isinstance(line, dict) and line.keys() <= {"prompt", "prompt_tokens", "max_tokens"}
    if isinstance(line, dict) and right:
        numbers = [line[name] for name in ("prompt_tokens", "max_tokens") if name in line]
        right = isinstance(line.get("prompt", ""), str) and all(
            isinstance(number, int) and not isinstance(number, bool) and number > 0 for number in numbers
        )
    if not right:
        raise DataError(
            f'{place} is not such as {{"prompt": "text", "max_tokens": 64}} or {{"prompt_tokens": 100}}.'
        )


def _show(record: Record) -> None:
    rate = "all at once" if record["rate"] is None else f"{record['rate']:g} a second"
    answered = f"{record['answered']} of {record['requests']} requests answered"
    say(f"{answered} in {record['seconds']:.1f} s ({rate})")
    if record["first_refusal"]:
        say(f"  statuses {record['statuses']}; the first refusal: {record['first_refusal']}")
    say(
        f"  {record['requests_per_second']:.2f} requests/s, {record['prompt_tokens']:,} tokens read, "
        f"{record['tokens_per_second']:,.0f} tokens/s written"
    )
    say(f"  {'seconds':<20}" + "".join(f"{name:>10}" for name in ("mean", "p50", "p95", "p99")))
    for name in ("time_to_first_token", "time_per_token", "time_to_end"):
        row = "".join(f"{value:>10.4f}" for value in record[name].values())
        say(f"  {name.replace('_', ' '):<20}{row}")
    target = record["target"]
    say(
        f"  goodput {record['goodput']:.2f} requests/s: {record['good']:.0%} had their first token within "
        f"{target['first']:g} s and each further one within {target['each']:g} s"
    )


command.add_command(serve)
command.add_command(bench_cache.command)
