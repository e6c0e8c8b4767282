"""Where the time of one decode step goes.

    python bench/step_profile.py CHECKPOINT [--dtype int8] [--sequences 1,16] [--prompt 64] [--steps 64]

The engine decodes greedily, without guesses, and the parts of its step that are Python are timed as they run.
The model itself is one native call. Attention's part in it is the difference to the same call with a function
in attention's place that returns at once, over the same weights, keys and rows, by turns; what is left are
the matrix products with what stands between them (norms, rotary turns, rows to whole numbers, SwiGLU, and the
threads' meetings), beside which stands the rate at which the weights would have been read in that time. Wall
time, medians over the steps.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import weft
import weft.engine.llm as engine_module
from weft.engine import LLM, SamplingParams
from weft.engine.blocks import BLOCK
from weft.engine.cache import StepContext
from weft.engine.scheduler import Work
from weft.ops.step import _matrices

Seconds = dict[str, list[float]]
PYTHON = ("schedule", "sample", "take up")


def timed(seconds: Seconds, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*arguments: Any) -> Any:
        began = time.perf_counter()
        answer = call(*arguments)
        seconds.setdefault(name, []).append(time.perf_counter() - began)
        return answer

    return wrapped


def watched(llm: LLM, steps: int) -> Seconds:
    """Seconds of the parts of so many steps, each of one token for everything under way."""
    seconds: Seconds = {}
    whole, plain = llm.runner.model._whole, engine_module.sample
    places = {"schedule": (llm.scheduler, "schedule"), "take up": (llm, "_postprocess")}
    places |= {"run": (llm.runner, "run"), "native": (whole, "run")}
    for part, (owner, name) in places.items():
        setattr(owner, name, timed(seconds, part, getattr(owner, name)))
    engine_module.sample = timed(seconds, "sample", plain)
    step = timed(seconds, "step", llm.step)
    for _ in range(steps):
        step()
    engine_module.sample = plain
    for owner, name in places.values():
        del owner.__dict__[name]
    return seconds


def without_attention(llm: LLM, steps: int) -> Seconds:
    """The native call alone, with attention and without, as often."""
    running, whole = llm.scheduler.running, llm.runner.model._whole
    tokens, wanted = [sequence.tokens[-1] for sequence in running], list(range(len(running)))
    context = StepContext(llm.runner.pages, [Work(sequence, 1) for sequence in running])
    real = context.native(whole.q)
    assert real is not None
    at_once = ctypes.cast(ctypes.CDLL(None).abs, ctypes.c_void_p).value
    seconds: Seconds = {}
    # Called again it puts the same keys and values where they are.
    for _ in range(steps):
        timed(seconds, "with", whole.run)(tokens, wanted, real)
        timed(seconds, "without", whole.run)(tokens, wanted, replace(real, function=at_once))
    return seconds


def profile(given: argparse.Namespace, many: int) -> dict[str, float]:
    loaded = weft.load(given.checkpoint, given.dtype, "cpu")
    if given.threads:
        torch.set_num_threads(given.threads)
    model = loaded.llm.runner.model
    llm = LLM(model, loaded.tokenizer, max_sequences=many, token_budget=4096, speculation=False)
    params = SamplingParams(temperature=0, max_tokens=given.steps + 24, ignore_eos=True)
    known = loaded.tokenizer.vocab_size
    for i in range(many):
        llm.add([(i * 7919 + place * 31) % known for place in range(given.prompt)], params)
    while any(not sequence.generated_length for sequence in llm.scheduler) or llm.stats().steps < 8:
        llm.step()
    seconds = {part: statistics.median(found) for part, found in watched(llm, given.steps).items()}
    while any(len(sequence.blocks) * BLOCK <= sequence.cached for sequence in llm.scheduler):
        llm.step()  # the next one brings a block for its token
    alone = without_attention(llm, given.steps)
    attends = statistics.median(map(float.__sub__, alone["with"], alone["without"]))
    steps, layers = model._steps, model.config.num_hidden_layers
    size = sum(m.data.nbytes for m in [*(m for x in steps.layers for m in _matrices(x)), steps.output])
    matrices = seconds["native"] - attends
    outside = seconds["step"] - seconds["native"]
    parts = {"products and between them": matrices, "attention": attends}
    parts["rows and block tables"] = seconds["run"] - seconds["native"]
    parts |= {name: seconds[name] for name in PYTHON}
    parts["rest"] = seconds["step"] - seconds["run"] - sum(seconds[name] for name in PYTHON)
    show(many, parts, seconds["step"])
    print(f"  weights read at {size / matrices / 1e9:.1f} GB/s; ", end="")
    print(f"outside the native call {outside / layers * 1e6:.1f} us a layer", flush=True)
    return parts


def show(many: int, parts: dict[str, float], step: float) -> None:
    print(f"{many} at once, {torch.get_num_threads()} threads, {step * 1e6:,.0f} us a step")
    for part, seconds in parts.items():
        print(f"  {part:<26} {seconds * 1e6:9,.0f} us {seconds / step:6.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--sequences", default="1,16")
    parser.add_argument("--prompt", type=int, default=64, help="tokens")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    for many in map(int, given.sequences.split(",")):
        profile(given, many)


if __name__ == "__main__":
    main()
