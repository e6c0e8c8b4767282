"""Inference on one GPU: Weft's share of its bandwidth, and its speed beside transformers and nano-vllm.

    python bench/decode_gpu.py [--models 8b,0.6b] [--formats bfloat16,fp8,int8] [--sequences 1,16,64]
                               [--parts decode,transformers,workload] [--minutes 6] [--json FILE]
    python bench/decode_gpu.py --device cpu --models tiny --prompt 16 --new 8 --workload 6     (a trial)

Models have random weights in the shapes of Qwen3-8B and Qwen3-0.6B, made on the device; nothing is read.

`decode`: greedy, prompts of --prompt tokens, --new tokens each, without speculation; tokens a second of the
steps after all prompts are read, scheduler and sampler included. At one sequence also the share of bandwidth:
bytes of the weights that a token needs, times tokens a second, over the rate at which this device copies.
`transformers`: its `generate` in bf16 with sdpa on the same weights, prompts and lengths, as one batch of the
largest number of --sequences; both by new tokens over the whole time, prompts included. `equal tokens` is
the share before the first difference: with random weights rounding decides now and then.
`workload`: nano-vllm's own benchmark workload (bench.py of its repository): 256 sequences, lengths of prompts
and answers random in 100..1024, temperature 0.6, for Weft and, where it can be imported, for nano-vllm;
tokens of answers over the whole time.

Medians over --rounds, but for the workload, which runs once. Parts that would begin after --minutes are left
out, and said; so is one that fails, and the others go on. Exits with 1 then, and with 2 and one sentence
where there is no GPU.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import random
import statistics
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from decode_gpu_models import PLACES, SHAPES, bandwidth, made, prompts_of, token_bytes
from decode_gpu_peers import generate, nanovllm
from decode_models import tokenizer
from weft.engine import LLM, SamplingParams
from weft.engine.weights import for_inference


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="8b,0.6b", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--formats", default="bfloat16,fp8,int8")
    parser.add_argument("--sequences", default="1,16,64")
    parser.add_argument("--parts", default="decode,transformers,workload")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workload", type=int, default=256, help="sequences of nano-vllm's workload")
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    for name in ("models", "formats", "parts"):
        setattr(given, name, getattr(given, name).split(","))
    # The largest last: transformers is compared with that one.
    given.sequences = sorted({int(number) for number in given.sequences.split(",")})
    if unknown := set(given.models) - set(SHAPES):
        parser.error(f"--models: unknown {sorted(unknown)}; known: {', '.join(SHAPES)}")
    return given


class Weft:
    """One model in one format behind the engine."""

    def __init__(self, name: str, form: str, device: torch.device, slots: int, budget: int):
        config = SHAPES[name]
        model = for_inference(made(name, device), device, form)
        self.bytes = token_bytes(model)
        # As much each time, or the attention would be compiled for each size of the cache: keys and values
        # in bf16.
        place = config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
        self.llm = LLM(
            model,
            tokenizer(config.vocab_size),
            max_sequences=slots,
            token_budget=budget,
            cache_bytes=PLACES[name] * place,
            speculation=False,
        )

    def write(self, prompts: list[list[int]], params: list[SamplingParams]) -> dict[str, Any]:
        """The answers, seconds in all, and tokens a second of the steps after the last prompt was read."""
        began = time.perf_counter()
        sequences = [self.llm.add(prompt, one) for prompt, one in zip(prompts, params, strict=True)]
        read, written, reading = began, 0, True
        while not all(sequence.finished for sequence in sequences):
            fresh = self.llm.step()
            for sequence in fresh:
                if sequence.failure is not None:
                    raise sequence.failure
            if reading:
                read = time.perf_counter()
                reading = not all(sequence.generated_length for sequence in sequences)
            else:
                written += len(fresh)
        ended = time.perf_counter()
        tokens = [sequence.generated for sequence in sequences]
        return {"tokens": tokens, "seconds": ended - began, "rate": written / max(ended - read, 1e-9)}

    @property
    def replays(self) -> int:
        """Steps that CUDA graphs ran so far."""
        captured = self.llm.runner.captured
        return 0 if captured is None else captured.replays


def greedy(count: int, new: int) -> list[SamplingParams]:
    return [SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)] * count


def decode(name: str, form: str, given: argparse.Namespace, peak: float) -> dict[str, Any]:
    device, config = torch.device(given.device), SHAPES[name]
    began = time.perf_counter()
    weft = Weft(name, form, device, max(given.sequences), 2048)
    print(
        f"\n{name} {form}: loaded, compiled and captured in {time.perf_counter() - began:.0f} s", flush=True
    )
    found: dict[str, Any] = {"bytes": weft.bytes}
    for count in given.sequences:
        rounds = []
        for repeat in range(given.rounds + 1):  # the first warms up
            prompts = prompts_of(config, [given.prompt] * count, 100 * repeat + count)
            rounds.append(weft.write(prompts, greedy(count, given.new)))
        rate = statistics.median(one["rate"] for one in rounds[1:])
        found[str(count)] = {"rates": [one["rate"] for one in rounds[1:]]}
        share = ""
        if count == 1 and device.type == "cuda":
            found["share"] = rate * weft.bytes / peak
            share = f"   {found['share']:6.1%} of bandwidth"
        print(f"  {count:>4} sequences {rate:>10,.1f} tokens/s{share}", flush=True)
        found["last"] = rounds[-1]
    found["whole"] = [count * given.new / one["seconds"] for one in rounds[1:]]
    print(f"  steps replayed by CUDA graphs: {weft.replays:,} of {weft.llm.stats().steps:,}", flush=True)
    return found


def equal(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """Share of tokens before the first difference of each sequence."""
    prefix = 0
    for a, b in zip(ours, theirs, strict=True):
        differing = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
        prefix += differing[0] if differing else len(a)
    return prefix / sum(map(len, ours))


def beside_transformers(name: str, given: argparse.Namespace, ours: dict[str, Any] | None) -> dict[str, Any]:
    theirs = generate(name, given)
    rate = statistics.median(theirs["rates"])
    print(
        f"\n{name}: transformers {theirs['version']} generate, {max(given.sequences)} sequences, bf16, sdpa"
    )
    print(f"  {rate:>12,.1f} tokens/s with prompts", flush=True)
    if ours is not None:
        whole = statistics.median(ours["whole"])
        ratio = statistics.median(a / b for a, b in zip(ours["whole"], theirs["rates"], strict=True))
        share = equal(ours["last"]["tokens"], theirs["tokens"])
        print(f"  {whole:>12,.1f} tokens/s Weft, {ratio:.2f}x, equal tokens {share:.0%}", flush=True)
    return theirs


def workload(name: str, given: argparse.Namespace) -> dict[str, Any]:
    chosen = random.Random(0)
    few = given.device == "cpu"
    lengths = (10, 40) if few else (100, 1024)
    prompts = prompts_of(SHAPES[name], [chosen.randint(*lengths) for _ in range(given.workload)], 0)
    news = [chosen.randint(*lengths) for _ in range(given.workload)]
    weft = Weft(name, "bfloat16", torch.device(given.device), given.workload, 16384)
    params = [SamplingParams(temperature=0.6, max_tokens=new, ignore_eos=True) for new in news]
    weft.write(prompts[:1], params[:1])
    seconds = weft.write(prompts, params)["seconds"]
    rate = sum(news) / seconds
    print(f"\n{name} bfloat16, nano-vllm's own workload, {given.workload} sequences of lengths in {lengths}")
    print(f"  {rate:>12,.1f} tokens/s Weft ({sum(news):,} tokens in {seconds:.1f} s)", flush=True)
    found: dict[str, Any] = {"weft": rate}
    del weft
    release(torch.device(given.device))
    if importlib.util.find_spec("nanovllm") is None:
        print("  nano-vllm cannot be imported here", flush=True)
        return found
    ran = nanovllm(name, prompts, news)
    if ran.returncode:
        print(f"  nano-vllm fails here: {ran.stderr.strip().splitlines()[-1:]}", flush=True)
        return found
    found["nano-vllm"] = sum(news) / json.loads(ran.stdout.splitlines()[-1])["seconds"]
    print(
        f"  {found['nano-vllm']:>12,.1f} tokens/s nano-vllm, Weft {rate / found['nano-vllm']:.2f}x",
        flush=True,
    )
    return found


def release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def parts(given: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """(model, part, format), what matters most first."""
    for name in given.models:
        if "decode" in given.parts:
            yield name, "decode", given.formats[0]
        if "transformers" in given.parts:
            yield name, "transformers", ""
    if "decode" in given.parts:
        yield from ((name, "decode", form) for name in given.models for form in given.formats[1:])
    if "workload" in given.parts:
        yield given.models[-1], "workload", ""


def run(
    name: str, part: str, form: str, given: argparse.Namespace, peak: float, results: dict[str, Any]
) -> None:
    """One part, into ``results``."""
    if part == "decode":
        results[f"weft-{form}"] = decode(name, form, given, peak)
    elif part == "transformers":
        results[part] = beside_transformers(name, given, results.get("weft-bfloat16"))
    else:
        results[part] = workload(name, given)


def main() -> int:
    given = arguments()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("There is no GPU here; run this where torch.cuda.is_available().", file=sys.stderr)
        return 2
    began = time.perf_counter()
    peak = bandwidth(device)
    what = torch.cuda.get_device_name() if device.type == "cuda" else "processor"
    print(f"{what}, torch {torch.__version__}, copies {peak / 1e9:,.0f} GB/s", flush=True)
    record: dict[str, Any] = {"device": what, "torch": torch.__version__, "bandwidth": peak, "models": {}}
    failed = False
    for name, part, form in parts(given):
        results = record["models"].setdefault(name, {})
        if time.perf_counter() - began > 60 * given.minutes:
            print(f"\n{name} {part} {form}: left out, as {given.minutes:g} minutes are over", flush=True)
            continue
        try:
            run(name, part, form, given, peak, results)
        except Exception:
            failed = True
            print(f"\n{name} {part} {form} fails:\n{traceback.format_exc()}", flush=True)
        release(device)
        if given.json:
            given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\n{time.perf_counter() - began:.0f} s in all")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
