"""Where the time of one decode step goes.

    python bench/step_profile.py CHECKPOINT [--dtype int8] [--sequences 1,16] [--prompt 64] [--steps 64]

The engine decodes and the parts of its step that are Python are timed by the wall clock as they run; then the
parts of the native call are run again, one after the other, over the same weights, keys and rows: `products`
are all matrices in the order of the layers and the scores, each row made whole numbers where the format wants
it, and `attention` is that of all layers over the cache as it stands. Weights and keys of a large model come
from memory then as they do in the step, but the calls stand alone, each with its own meeting of the threads:
so `norms and the rest`, what the call takes beyond the two, is a little too small. Medians over the steps;
speculation is off.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import weft
import weft.engine.llm as engine_module
from weft.engine import LLM, SamplingParams
from weft.engine.cache import StepContext
from weft.engine.scheduler import Work
from weft.ops.packed import Packed
from weft.ops.paged import _kernel
from weft.ops.step import Steps, _matrices

Seconds = dict[str, list[float]]


def timed(seconds: Seconds, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*arguments: Any) -> Any:
        began = time.perf_counter()
        answer = call(*arguments)
        seconds[name].append(time.perf_counter() - began)
        return answer

    return wrapped


def watched(llm: LLM, steps: int) -> Seconds:
    """Seconds of the parts of so many steps, each of one token for everything under way."""
    parts = ("schedule", "run", "native", "sample", "take up", "step")
    seconds: Seconds = {part: [] for part in parts}
    whole, plain = llm.runner.model._whole, engine_module.sample
    llm.scheduler.schedule = timed(seconds, "schedule", llm.scheduler.schedule)  # type: ignore[method-assign]
    llm.runner.run = timed(seconds, "run", llm.runner.run)  # type: ignore[method-assign]
    llm._postprocess = timed(seconds, "take up", llm._postprocess)  # type: ignore[method-assign]
    whole.run = timed(seconds, "native", whole.run)
    engine_module.sample = timed(seconds, "sample", plain)
    step = timed(seconds, "step", llm.step)
    for _ in range(steps):
        step()
    engine_module.sample = plain
    for owner, name in (
        (llm.scheduler, "schedule"),
        (llm.runner, "run"),
        (llm, "_postprocess"),
        (whole, "run"),
    ):
        del owner.__dict__[name]
    return seconds


def products(steps: Steps, rows: int) -> Callable[[], None]:
    """All matrices of a step of so many rows."""
    matrices: list[Packed] = [m for layer in steps.layers for m in _matrices(layer)] + [steps.output]
    x = {m.inputs: torch.linspace(-1, 1, rows * m.inputs).view(rows, m.inputs) for m in matrices}
    out = {m.outputs: torch.empty(rows, m.outputs) for m in matrices}
    structs = [(m.struct(), x[m.inputs].data_ptr(), out[m.outputs].data_ptr()) for m in matrices]
    calls = [(steps.address, ctypes.addressof(struct), given, rows, to) for struct, given, to in structs]

    def run() -> None:
        assert structs and x and out  # what the addresses belong to
        for call in calls:
            steps._product(*call)

    return run


def attention(llm: LLM) -> Callable[[], None]:
    """That of all layers, for the next token of everything under way."""
    pages, running = llm.runner.pages, llm.scheduler.running
    context = StepContext(pages, [Work(sequence, 1) for sequence in running])
    shape, dtype = (len(running), pages.H, pages.D), pages.dtype
    q = torch.linspace(-1, 1, shape[0] * shape[1] * shape[2]).view(shape).to(dtype)
    k, out, kernel = q[:, : pages.G].contiguous(), torch.empty_like(q), _kernel(q, dtype)
    assert kernel is not None
    rows = [ctypes.c_void_p(x.data_ptr()) for x in (q, k, k, out)]
    cache, step = ctypes.byref(pages._native), ctypes.byref(context._layout.native)

    def run() -> None:
        assert context and k is not out  # what the addresses belong to
        for layer in range(len(pages.keys)):
            kernel(cache, step, layer, *rows)

    return run


def median_of(call: Callable[[], None], times: int) -> float:
    seconds: Seconds = {"": []}
    again = timed(seconds, "", call)
    for _ in range(times):
        again()
    return statistics.median(seconds[""])


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
    found = {
        "products": median_of(products(model._steps, many), given.steps),
        "attention": median_of(attention(llm), given.steps),
    }
    found["norms and the rest of the native call"] = seconds["native"] - sum(found.values())
    found["rows and block tables"] = seconds["run"] - seconds["native"]
    found |= {name: seconds[name] for name in ("schedule", "sample", "take up")}
    found["rest"] = (
        seconds["step"] - seconds["run"] - sum(seconds[n] for n in ("schedule", "sample", "take up"))
    )
    return found | {"step": seconds["step"]}


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
        found = profile(given, many)
        print(f"{many} sequences, {given.dtype}, {torch.get_num_threads()} threads")
        for part, seconds in found.items():
            print(f"  {part:<40} {seconds * 1e6:9,.0f} us {seconds / found['step']:6.1%}", flush=True)


if __name__ == "__main__":
    main()
