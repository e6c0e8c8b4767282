"""Prompt lookup on and off, in turn: what it gains where text repeats, what it costs elsewhere.

    python bench/speculation.py [CHECKPOINT] [--dtype bfloat16] [--rounds 3] [--json FILE]

Workloads: "copies" continues a prompt that says the same passage again and again, greedily, so that most
guesses are right; "fresh" draws at temperature 1.5 with guesses that are nearly all wrong. Without a
checkpoint the model is a random one of the 34M Llama shape, packed as it would be served: then "copies" is an
upper bound (a random model falls into loops), while "fresh" is as with any model, since what is wrong costs
the same. The tokens of on and off are compared; figures are medians of processor time. A third engine, whose
times do not count for the others since a clock read twice a step costs a very small model a hundredth, tells
the time within `propose` and `observe` as a share of the steps without them. Models whose runs take
hundredths of a second want more rounds (`--rounds 101`): two equal engines differ by chance by a few
hundredths from run to run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import weft
from weft.engine import LLM, SamplingParams
from weft.engine.weights import for_inference
from weft.models import Decoder, DecoderConfig
from weft.tokenizer import Tokenizer, train

LENGTH = 128
WORKLOADS = {
    "copies": SamplingParams(temperature=0, max_tokens=LENGTH, ignore_eos=True),
    "fresh": SamplingParams(temperature=1.5, max_tokens=LENGTH, ignore_eos=True, seed=1),
}
PASSAGE = "def read_lines(path):\n    with open(path) as file:\n        return file.read().split()\n\n"


def random_model() -> tuple[Decoder, Tokenizer]:
    """34M parameters, as in docs/experiments.md, and a tokenizer that fits."""
    config = DecoderConfig(
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=64,
        qk_norm=False,
        architecture="LlamaForCausalLM",
    )
    model = Decoder(config)
    model.initialise(torch.Generator().manual_seed(0))
    return model, train([PASSAGE] * 20, 512)


def timed(
    engine: LLM, prompts: list[list[int]], params: SamplingParams
) -> tuple[float, list[tuple[int, ...]]]:
    """Processor seconds of all answers together, and their tokens."""
    began = time.process_time()
    answers = engine.generate(prompts, [params.sample(i) for i in range(len(prompts))])
    return time.process_time() - began, [answer.tokens for answer in answers]


class Watch:
    """The seconds that the speculator of an engine takes for itself."""

    def __init__(self, engine: LLM):
        self.seconds = 0.0
        speculator = engine._speculator
        for name in ("propose", "observe"):
            setattr(speculator, name, self.timed(getattr(speculator, name)))

    def timed(self, call: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*arguments: Any) -> None:
            began = time.perf_counter()
            call(*arguments)
            self.seconds += time.perf_counter() - began

        return wrapped


def compare(engines: dict[str, LLM], watch: Watch, name: str, many: int, rounds: int) -> dict[str, Any]:
    """One workload with ``many`` requests at once, by each engine in turn."""
    engine = engines["on"]
    prompts = [engine.encode(PASSAGE * 3 + f"# {i}\n" + PASSAGE[: 10 + i]) for i in range(many)]
    seconds: dict[str, list[float]] = {kind: [] for kind in engines}
    before, shares = engine.stats(), []
    for number in range(rounds + 1):
        watch.seconds = 0.0
        tokens = {}
        for kind in list(engines) if number % 2 else reversed(engines):
            spent, tokens[kind] = timed(engines[kind], prompts, WORKLOADS[name])
            if number:  # the first round warms up
                seconds[kind].append(spent)
        assert tokens["on"] == tokens["off"] == tokens["watched"], "speculation changed a token"
        if number:
            shares.append(watch.seconds / (seconds["watched"][-1] - watch.seconds))
    on, off = (statistics.median(seconds[kind]) for kind in ("on", "off"))
    after = engine.stats()
    proposed = after.proposed - before.proposed
    accepted = after.accepted - before.accepted
    return {
        "workload": name,
        "requests": many,
        "tokens_per_second_on": many * LENGTH / on,
        "tokens_per_second_off": many * LENGTH / off,
        "speedup": off / on,
        "own_share": statistics.median(shares),
        "proposed": proposed,
        "accepted": accepted,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", nargs="?", type=Path)
    parser.add_argument("--dtype")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.checkpoint:
        loaded = weft.load(given.checkpoint, given.dtype, "cpu")
        model, tokenizer = loaded.llm.runner.model, loaded.tokenizer
    else:
        fresh, tokenizer = random_model()
        cpu = torch.device("cpu")
        model = for_inference(fresh, cpu, given.dtype)
    rows = []
    for many in (1, 8):
        engines = {
            kind: LLM(model, tokenizer, max_sequences=many, speculation=kind != "off")
            for kind in ("on", "watched", "off")
        }
        watch = Watch(engines["watched"])
        for name in WORKLOADS:
            rows.append(compare(engines, watch, name, many, given.rounds))
            print(
                "{workload:7} {requests} at once: {speedup:.2f}x, own time {own_share:.1%}".format(
                    **rows[-1]
                ),
                rows[-1],
                flush=True,
            )
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
