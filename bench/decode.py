"""Inference speed on this machine: Weft against llama.cpp, transformers and vLLM.

    python bench/decode.py [--models qwen3-0.5b,llama-34m] [--systems weft-int8,llamacpp-q8_0] [--json FILE]

The same for all: weights (random, decode_models.py; the peers open the Hugging Face folder or its GGUF
export), prompts, number of new tokens, greedy choice over the whole vocabulary, threads. Each engine is a
process that stays; jobs go to the engines in turn, A B C A B C, so that a machine that slows down slows
all. Cases: `decode 1` and `decode 16`, new tokens of 1 and 16 sequences a second after prompts of 64 tokens,
and `prefill`, tokens of one prompt of 512 a second until its first new token.

Nobody guesses tokens ahead: speculation is off. What differs: number formats, named with each system. Weft's
figures contain its scheduler and sampler, the peers' are their bare forward pass and an argmax (vLLM: its own
engine). transformers runs all prompts as one batch of equal lengths without padding; `continuous` is its
continuous batching.

Medians over rounds; the ratio beside a peer is the median over rounds of Weft's speed over the peer's in
the same round. `cpu` is processor time over wall time and threads: far below 100 % means that the machine
was shared and the figures are worth little. Before the engines' turns of each round the machine itself is
timed, through PyTorch: bytes that a sum of 512 MB reads, and operations of a product of bf16 matrices of
2,048 rows and columns. A guest's neighbours move both; where figures differ from those of another day, these
tell whether the machine does too.

Same work: the scores after one prompt must correlate with those of `--reference` (transformers in fp32)
as the number format allows (the bounds are in AGREEMENT), and the share of new tokens that are equal up to
the first difference is printed; exits with 1 when a correlation is too low.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import environments
from decode_models import SHAPES, folder_of, gguf_of

HERE = Path(__file__).parent
CASES = {"decode 1": (1, 64, 48), "decode 16": (16, 64, 32), "prefill": (1, 512, 1)}
"""Sequences, tokens of each prompt, new tokens of each."""

WEFT = ("float32", "bfloat16", "int8", "int4")
SYSTEMS = (
    *(f"weft-{name}" for name in WEFT),
    *("transformers-bfloat16", "transformers-float32", "continuous-bfloat16"),
    *("llamacpp-float16", "llamacpp-q8_0", "llamacpp-q4_0", "vllm-bfloat16"),
)
AGREEMENT = {"float32": 0.9999, "float16": 0.999, "bfloat16": 0.995, "int8": 0.99, "q8_0": 0.99}
"""Least correlation of scores with fp32; formats of 4 bits have none, as random weights hide no structure."""


class Engine:
    """A process that answers jobs (peers/decode_job.py)."""

    def __init__(self, system: str, model: str, given: argparse.Namespace):
        kind, _, form = system.partition("-")
        self.form = form
        settings: dict[str, Any] = {"threads": given.threads, "sequences": 16, "context": 640, "kind": form}
        settings |= {"dtype": form, "weights": form, "model": str(folder_of(model, given.folder))}
        if kind == "llamacpp":
            settings["model"] = str(gguf_of(model, given.folder, form))
        script = HERE / "decode_weft.py" if kind == "weft" else environments.PEERS / f"decode_{kind}.py"
        own = kind in ("weft", "transformers", "continuous")
        python = sys.executable if own else environments.python_of(kind, given.environments)
        # A build for another machine must not be found in a shared cache, and vLLM must not look outside.
        extra = {"OMP_NUM_THREADS": str(given.threads), "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [python, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if given.verbose else subprocess.DEVNULL,
            text=True,
            env=os.environ | extra,
        )
        self.greeting = self._ask(settings)

    def run(self, prompts: list[list[int]], new: int, logits: bool = False) -> dict[str, Any]:
        return self._ask({"prompts": prompts, "new": new, "logits": logits})

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args} ended with {self.process.wait()}; try --verbose.")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


class Machine:
    """What the machine has to give at the moment, whatever runs on it."""

    def __init__(self, threads: int):
        torch.set_num_threads(threads)
        self._read = torch.ones(1 << 26, dtype=torch.int64)
        self._square = torch.ones(2048, 2048, dtype=torch.bfloat16)
        self.gigabytes: list[float] = []
        self.teraflops: list[float] = []

    def time(self) -> None:
        """The best of three each: an interruption only lengthens."""
        self.gigabytes.append(self._read.nbytes / _seconds(self._read.sum) / 1e9)
        operations = 2 * self._square.shape[0] ** 3
        self.teraflops.append(operations / _seconds(lambda: self._square @ self._square) / 1e12)


def _seconds(call: Callable[[], object]) -> float:
    found = []
    for _ in range(3):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return min(found)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(SHAPES))
    parser.add_argument("--systems", default="weft-int8,weft-bfloat16,llamacpp-q8_0,transformers-bfloat16")
    parser.add_argument("--reference", default="transformers-float32", help="whose scores are right; or none")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, default=environments.DEFAULT / "decode-models")
    parser.add_argument("--environments", type=Path, default=environments.DEFAULT)
    parser.add_argument("--verbose", action="store_true", help="show what the engines print")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    for name, known in (("models", SHAPES), ("systems", SYSTEMS), ("cases", CASES)):
        found = getattr(given, name).split(",")
        if unknown := set(found) - set(known):
            parser.error(f"--{name}: unknown {sorted(unknown)}; known: {', '.join(known)}")
        setattr(given, name, found)
    return given


def prompts_of(model: str, sequences: int, length: int, seed: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, SHAPES[model].vocab_size - 1, (sequences, length)).tolist()


def measure(model: str, given: argparse.Namespace) -> dict[str, Any]:
    """Speeds [round] of every case and system, processor shares, tokens, and correlations of scores."""
    check = prompts_of(model, 1, 48, seed=0)
    expected = None
    if given.reference != "none":
        reference = Engine(given.reference, model, given)
        expected = reference.run(check, 1, logits=True)["logits"]
        reference.close()
    engines = {system: Engine(system, model, given) for system in given.systems}
    machine = Machine(given.threads)
    found: dict[str, Any] = {
        system: {"versions": e.greeting["versions"], "cases": {}} for system, e in engines.items()
    }
    for system, engine in engines.items():
        scores = engine.run(check, 1, logits=True).get("logits")
        if expected is not None and scores is not None:
            found[system]["correlation"] = float(np.corrcoef(scores, expected)[0, 1])
    for case in given.cases:
        sequences, length, new = CASES[case]
        for repeat in range(given.rounds + 1):  # the first warms up
            # Other prompts each round, or an engine with a prefix cache would not read them again.
            prompts = prompts_of(model, sequences, length, seed=repeat + 1)
            machine.time()
            for system, engine in engines.items():
                answer = engine.run(prompts, new)
                if repeat:
                    _note(found[system]["cases"].setdefault(case, {}), case, answer, given.threads)
        show(model, case, found)
        show_machine(machine)
    for engine in engines.values():
        engine.close()
    return found


def _note(figures: dict[str, Any], case: str, answer: dict[str, Any], threads: int) -> None:
    sequences, length, new = CASES[case]
    wall = answer["prefill_seconds"] + answer["decode_seconds"]
    if case == "prefill":
        speed = sequences * length / answer["prefill_seconds"]
    else:
        speed = sequences * (new - 1) / answer["decode_seconds"]
    figures.setdefault("tokens_per_second", []).append(speed)
    figures.setdefault("cpu_share", []).append(answer["cpu_seconds"] / wall / threads)
    figures["tokens"] = answer["tokens"]


def show(model: str, case: str, found: dict[str, Any]) -> None:
    """One table as soon as its case is measured; the first system is compared with each."""
    first = next(iter(found))
    ours, tokens = (found[first]["cases"][case][key] for key in ("tokens_per_second", "tokens"))
    print(f"\n{model}, {case}: tokens/s, medians")
    for system, result in found.items():
        figures = result["cases"][case]
        theirs = figures["tokens_per_second"]
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        print(
            f"  {system:<24} {statistics.median(theirs):>9,.1f}   {first} is {ratio:5.2f}x"
            f"   cpu {statistics.median(figures['cpu_share']):4.0%}"
            f"   equal tokens {_equal(tokens, figures['tokens']):4.0%}",
            flush=True,
        )


def show_machine(machine: Machine) -> None:
    """Least, median and most of the rounds since the last time."""
    for what, figures in (("reads, GB/s", machine.gigabytes), ("bf16 products, TFLOP/s", machine.teraflops)):
        least, middle, most = min(figures), statistics.median(figures), max(figures)
        print(f"  machine: {what} {least:.2f} to {most:.2f}, median {middle:.2f}", flush=True)
        figures.clear()


def _equal(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """Share of tokens before the first difference of each sequence."""
    prefix = 0
    for a, b in zip(ours, theirs, strict=True):
        differing = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
        prefix += differing[0] if differing else len(a)
    return prefix / sum(map(len, ours))


def main() -> None:
    given = arguments()
    results = {model: measure(model, given) for model in given.models}
    wrong = []
    for model, found in results.items():
        for system, result in found.items():
            if "correlation" in result:
                print(f"{model}, {system:<24} correlation with the reference: {result['correlation']:.5f}")
            least = AGREEMENT.get(system.partition("-")[2], -1.0)
            if result.get("correlation", 1.0) < least:
                wrong.append(f"{system} on {model}: {result['correlation']:.4f} < {least}")
    if given.json:
        given.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    if wrong:
        sys.exit("These scores are too far from the reference: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
