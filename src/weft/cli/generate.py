"""``weft generate``: continue a prompt with a checkpoint."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from weft.cli.command import Record, weft_command
from weft.core.errors import UsageError

if TYPE_CHECKING:
    from weft.api import Model
    from weft.engine import SamplingParams


ADAPTER = "adapter"
"""The name under which the one adapter of the command is loaded."""


@weft_command("generate")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--prompt", help="The text to continue; without it and --prompt-file, standard input.")
@click.option("--prompt-file", type=click.Path(path_type=Path), help="A UTF-8 file with the prompt.")
@click.option("--chat", is_flag=True, help="The prompt is a user's message, and the answer the assistant's.")
@click.option("--num-samples", default=1, show_default=True, help="How many continuations.")
@click.option("--max-new-tokens", default=200, show_default=True, help="Length of each, at most.")
@click.option("--temperature", default=0.8, show_default=True, help="0 takes the likeliest token each time.")
@click.option("--top-k", default=0, show_default=True, help="Keep the k likeliest tokens; 0 is off.")
@click.option("--top-p", default=1.0, show_default=True, help="Keep the likeliest up to this probability.")
@click.option("--min-p", default=0.0, show_default=True, help="Keep those this likely beside the best.")
@click.option("--repetition-penalty", default=1.0, show_default=True, help="Above 1: repeat less.")
@click.option("--seed", type=int, help="Equal seeds give equal texts.")
@click.option("--stop", multiple=True, help="End before this text; may be given several times.")
@click.option(
    "--dtype",
    help="Weights: float32, bfloat16, int8 or int4 (on a GPU fp8, no int4), or auto-int8 or auto-int4, "
    "which take those only where they are measured to be faster; by default bfloat16 where the machine has "
    "it.",
)
@click.option("--device", help="cpu or cuda; by default the GPU when there is one.")
@click.option(
    "--adapter",
    type=click.Path(path_type=Path),
    help="A LoRA adapter, a PEFT folder; the answer then comes from weights in bfloat16 or float32.",
)
@click.option("--draft", type=click.Path(path_type=Path), help="A small checkpoint that guesses ahead.")
@click.option("--draft-layers", type=int, help="Let so many first layers of the model itself guess ahead.")
@click.option("--speculate/--no-speculate", default=True, help="Guess tokens ahead; answers are the same.")
@click.option("--cache-dtype", type=click.Choice(["int8"]), help="Keep keys and values in half the memory.")
@click.option("--verbose", is_flag=True, help="Say which number formats were chosen, and by what figures.")
def command(
    checkpoint: Path,
    prompt: str | None,
    prompt_file: Path | None,
    chat: bool,
    num_samples: int,
    max_new_tokens: int,
    dtype: str | None,
    device: str | None,
    adapter: Path | None,
    draft: Path | None,
    draft_layers: int | None,
    speculate: bool,
    cache_dtype: str | None,
    verbose: bool,
    **settings: Any,
) -> Record:
    """Continue a prompt with CHECKPOINT, a training run or a Hugging Face folder.

    One sample streams to the terminal as it is written; several are printed one after another.
    """
    text = _prompt(prompt, prompt_file)
    from weft.api import Model, load
    from weft.engine import SamplingParams
    from weft.engine.weights import described

    if num_samples < 1:
        raise UsageError(f"--num-samples {num_samples} must be at least 1.")
    params = SamplingParams(max_tokens=max_new_tokens, **settings)
    model = load(
        checkpoint,
        dtype,
        device,
        max_sequences=min(num_samples, 16),
        adapters=None if adapter is None else {ADAPTER: adapter},
        draft=draft,
        draft_layers=draft_layers,
        speculation=speculate,
        cache_dtype=cache_dtype,
    )
    if not isinstance(model, Model):
        raise UsageError(
            f"{checkpoint} is a {model.architecture}, which continues no prompt; use the verb of its task "
            "(weft translate, summarize, classify, ...), or give a decoder."
        )
    runner = model.llm.runner
    used = runner.model if adapter is None or runner.adapters is None else runner.adapters.model
    weights = described(used)
    if verbose:
        click.echo("\n".join([f"weights: {weights['format']}", *weights["choices"]]), err=True)
    chosen = None if adapter is None else ADAPTER
    asked = model.llm.encode_chat([{"role": "user", "content": text}]) if chat else model.llm.encode(text)
    shown = f"{text}\n\n" if chat else text
    started = time.perf_counter()
    # With `--json -` standard output belongs to the record.
    out = sys.stderr if click.get_current_context().params["json_file"] == "-" else sys.stdout
    if num_samples == 1:
        samples = [_stream(model, asked, shown, params, out, chosen)]
    else:
        samples = _batch(model, asked, shown, params, num_samples, out, chosen)
    seconds = time.perf_counter() - started
    tokens = sum(sample["tokens"] for sample in samples)
    return {
        "prompt": text,
        "prompt_tokens": len(asked),
        "samples": samples,
        "tokens": tokens,
        "weights": weights,
        "seconds": round(seconds, 4),
        "tokens_per_second": round(tokens / seconds, 2),
    }


def _prompt(prompt: str | None, file: Path | None) -> str:
    if prompt is not None and file is not None:
        raise UsageError("Give --prompt or --prompt-file, not both.")
    if prompt is not None:
        return prompt
    try:
        raw = file.read_bytes() if file is not None else sys.stdin.buffer.read()
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{file or 'Standard input'} is not UTF-8 text.") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}); check the path.") from None


def _stream(
    model: Model, asked: list[int], shown: str, params: SamplingParams, out: TextIO, adapter: str | None
) -> Record:
    sequence = model.llm.add(asked, params, adapter=adapter)
    pieces = []
    click.echo(shown, out, nl=False)
    while not sequence.finished:
        model.llm.step()
        pieces.append(sequence.take())
        click.echo(pieces[-1], out, nl=False)
        out.flush()
    click.echo(file=out)
    if sequence.failure is not None:
        raise sequence.failure
    return _record("".join(pieces), sequence.generated_length, sequence.finish_reason)


def _batch(
    model: Model,
    asked: list[int],
    shown: str,
    params: SamplingParams,
    count: int,
    out: TextIO,
    adapter: str | None,
) -> list[Record]:
    each = [params.sample(index) for index in range(count)]
    samples = model.llm.generate([asked] * count, each, adapter=adapter)
    for number, sample in enumerate(samples, 1):
        click.echo(f"--- sample {number} of {count}\n{shown}{sample.text}\n", out)
    return [_record(sample.text, len(sample.tokens), sample.finish_reason) for sample in samples]


def _record(text: str, tokens: int, reason: str | None) -> Record:
    return {"text": text, "tokens": tokens, "finish_reason": reason}
