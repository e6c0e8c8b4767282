"""What the server adds to the engine, and what 1,000 connections at once do to it.

    python bench/serving.py [--folder CHECKPOINT] [--connections 1000] [--waiting 8] [--json FILE]

Without a checkpoint a random Llama-shaped decoder of 34 M parameters with a small tokenizer is made. In turn:

1. the engine alone, in this process: 16 prompts of 32 tokens, 64 new tokens each;
2. the same through `weft serve`: HTTP, the engine in its own process, streams read to the end;
3. requests one wave after another, as many at once as the engine works on: the unloaded latency;
4. all connections at once, each with one such request; the queue holds half as many as the engine works on
   (`--waiting`).

The latencies of 3 and of the admitted of 4 stand side by side; the rest of 4 must have been told 429. Time of
a shared machine says little: run it when nothing else runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import weft
from weft.checkpoint.huggingface import save_model
from weft.engine import SamplingParams
from weft.models import Decoder, DecoderConfig
from weft.server.client import EventClient
from weft.server.load import Ask, Outcome, percentiles, run, words
from weft.tokenizer import train

AT_ONCE, PROMPT_TOKENS, NEW_TOKENS = 16, 32, 64


def make(folder: Path) -> None:
    """A random model of 34 M parameters, vocabulary 8,192."""
    tokenizer = train([words(2000, seed) for seed in range(20)], 512)
    shape = {"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 64}
    model = Decoder(DecoderConfig(**shape, **heads, max_position_embeddings=2048))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.02, generator=generator)
    save_model(folder, model, tokenizer)


def alone(folder: Path) -> float:
    """Tokens a second of the engine without a server."""
    model = weft.load(folder, max_sequences=AT_ONCE)
    prompts = [words(PROMPT_TOKENS, seed) for seed in range(AT_ONCE)]
    params = SamplingParams(max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True)
    model.llm.generate(prompts, params)
    started = time.perf_counter()
    done = model.llm.generate(prompts, params)
    return sum(len(answer.tokens) for answer in done) / (time.perf_counter() - started)


def wave(client: EventClient, count: int, seed: int) -> tuple[list[Outcome], float]:
    """``count`` requests at once."""
    asks = [Ask(words(PROMPT_TOKENS, seed + number), NEW_TOKENS) for number in range(count)]
    body: dict[str, Any] = {"temperature": 0, "ignore_eos": True}
    return asyncio.run(run(client, asks, [0.0] * count, body))


def measure(folder: Path, connections: int, waiting: int) -> dict[str, Any]:
    """All four."""
    found: dict[str, Any] = {"engine_tokens_per_second": alone(folder)}
    command = [sys.executable, "-m", "weft", "serve", str(folder), "--port", "0"]
    command += ["--max-sequences", str(AT_ONCE), "--max-waiting", str(waiting)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        assert server.stderr is not None
        ready = server.stderr.readline()
        if " is served on " not in ready:
            sys.exit(ready + server.stderr.read())
        client = EventClient(ready.split(" is served on ")[1].split(" ")[0] + "/v1")
        wave(client, AT_ONCE, 10_000)
        outcomes, seconds = wave(client, AT_ONCE, 0)
        found["served_tokens_per_second"] = sum(outcome.tokens for outcome in outcomes) / seconds
        calm = [o for number in range(5) for o in wave(client, AT_ONCE, 1000 * (number + 1))[0]]
        crowd, seconds = wave(client, connections, 100_000)
    finally:
        server.terminate()
        server.communicate()
    statuses = sorted({outcome.status for outcome in crowd})
    found |= {
        "unloaded_seconds": percentiles([o.ended for o in calm if o.ended is not None]),
        "connections": connections,
        "admitted": sum(outcome.status == 200 for outcome in crowd),
        "refused_with_429": sum(outcome.status == 429 for outcome in crowd),
        "other": [status for status in statuses if status not in (200, 429)],
        "admitted_seconds": percentiles([o.ended for o in crowd if o.status == 200 and o.ended is not None]),
        "crowd_seconds": seconds,
    }
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--waiting", type=int, default=AT_ONCE // 2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.folder or Path(made) / "model"
        if arguments.folder is None:
            make(folder)
        found = measure(folder, arguments.connections, arguments.waiting)
    share = found["served_tokens_per_second"] / found["engine_tokens_per_second"]
    ratio = found["admitted_seconds"]["p95"] / found["unloaded_seconds"]["p95"]
    print(
        f"engine alone {found['engine_tokens_per_second']:,.0f} tokens/s, through the server "
        f"{found['served_tokens_per_second']:,.0f} ({share:.0%})"
    )
    calm, crowd = found["unloaded_seconds"], found["admitted_seconds"]
    print(f"{AT_ONCE} at once: p50 {calm['p50']:.2f} s, p95 {calm['p95']:.2f} s")
    told = f"{found['admitted']} admitted, {found['refused_with_429']} told 429, other {found['other']}"
    print(f"{found['connections']} at once: {told}")
    print(f"  the admitted: p50 {crowd['p50']:.2f} s, p95 {crowd['p95']:.2f} s ({ratio:.2f}x)")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
