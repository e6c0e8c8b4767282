"""An encoder-decoder that writes for many: continuous batching against static batches, both our own.

    python bench/continuous_writing.py [--requests 48] [--slots 16] [--beams 4] [--dtype bfloat16] [--json F]

The same for both: a T5 v1.1 of random weights (4 + 4 layers of 256, 8,192 tokens), sources and lengths of
answers (both drawn log-uniformly, 4 to 128 tokens, unless --longest says otherwise), greedy choice, threads,
all requests there from the beginning, at most --slots at once. Answers end by limits of their own, not by
tokens. Both drop the rows of answers that are finished, which static batching often does not.

With --beams both search: answers are as long as asked for, in steps of 16 tokens, and "static" is
weft.engine.encdec.write, which takes together what has one limit, in the order in which it came.

What differs: "static" takes the next requests in the order in which they came, pads their sources to the
longest, and begins with others when all of them are done; its products and attention are PyTorch's.
"continuous" is weft.engine.LLM: whoever is done makes room at once, and each row is the same whatever is
beside it, through kernels of its own. Rounds go in turn, and figures are medians of processor time, which
on a machine that others use is worth more than wall time. `wait` is the mean time until an answer is whole.

Same work: the tokens of both are compared, and some requests are asked again alone and must give the same
bits. Of thousands of choices among beams a few are so close that rounding decides: where the answers of two
searches differ, a third in float64 must have found one of them. Exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from weft.engine import LLM, Beams, SamplingParams
from weft.engine.encdec import write
from weft.engine.runner import prepare
from weft.models.encdec import EncoderDecoder
from weft.models.encdec_config import EncoderDecoderConfig
from weft.tokenizer import Tokenizer, train

SHAPE = EncoderDecoderConfig(
    vocab_size=8192, d_model=256, d_kv=64, d_ff=1024, num_layers=4, num_decoder_layers=4, num_heads=4
)
Request = tuple[list[int], int]
"""The tokens of a source, and how many are written."""


class Clock:
    """Processor seconds, and when each request was done."""

    def __init__(self, requests: int):
        self._began, self.done = time.process_time(), [0.0] * requests

    def finish(self, number: int) -> None:
        self.done[number] = time.process_time() - self._began

    def record(self, tokens: int) -> dict[str, float]:
        whole = max(self.done)
        return {"seconds": whole, "tokens_per_second": tokens / whole, "wait": statistics.mean(self.done)}


@torch.inference_mode()
def static(
    model: EncoderDecoder, tokenizer: Tokenizer, requests: list[Request], slots: int
) -> tuple[Any, Clock]:
    """Batches, one after the other."""
    end, known = tokenizer.eos_id, tokenizer.vocab_size
    clock, answers = Clock(len(requests)), [[] for _ in requests]
    for first in range(0, len(requests), slots):
        numbers = list(range(first, min(first + slots, len(requests))))
        sources = [requests[number][0] for number in numbers]
        lengths = [len(source) for source in sources]
        padded = torch.tensor([[*source, *[end] * (max(lengths) - len(source))] for source in sources])
        longest = max(requests[number][1] for number in numbers)
        writing = model.begin(padded, torch.tensor(lengths), longest)
        tokens = torch.full((len(numbers),), end)
        while numbers:
            tokens = model.step(tokens, writing)[:, :known].argmax(-1)
            for number, token in zip(numbers, tokens.tolist(), strict=True):
                answers[number].append(token)
            going = [place for place, n in enumerate(numbers) if len(answers[n]) < requests[n][1]]
            for number in numbers:
                if len(answers[number]) == requests[number][1]:
                    clock.finish(number)
            if 0 < len(going) < len(numbers):
                writing.choose(torch.tensor(going))
                tokens = tokens[going]
            numbers = [numbers[place] for place in going]
    return answers, clock


def static_search(
    model: EncoderDecoder, tokenizer: Tokenizer, requests: list[Request], slots: int, beams: int
) -> tuple[Any, Clock]:
    """Batches of one limit each, one after the other."""
    clock, answers = Clock(len(requests)), [()] * len(requests)
    waiting = list(range(len(requests)))
    while waiting:
        limit = requests[waiting[0]][1]
        numbers = [number for number in waiting if requests[number][1] == limit][:slots]
        waiting = [number for number in waiting if number not in numbers]
        sources = [requests[number][0] for number in numbers]
        found = write(model, sources, tokenizer.eos_id, tokenizer.eos_id, Beams(limit, beams))
        for number, (best,) in zip(numbers, found, strict=True):
            answers[number] = best.tokens
            clock.finish(number)
    return answers, clock


def rounded(
    model: EncoderDecoder, tokenizer: Tokenizer, request: Request, beams: int, found: list[Any]
) -> bool:
    """Whether one of what was found is what a search in float64 finds."""
    exact, end = copy.deepcopy(model).double(), tokenizer.eos_id
    ((best,),) = write(exact, [request[0]], end, end, Beams(request[1], beams))
    return best.tokens in found


def continuous(engine: LLM, requests: list[Request], beams: int) -> tuple[Any, Clock]:
    """The engine, step by step."""
    clock = Clock(len(requests))
    if beams > 1:
        sequences = [engine.add_search(source, Beams(count, beams)) for source, count in requests]
    else:
        sequences = [engine.add(source, params(count)) for source, count in requests]
    number = {sequence: place for place, sequence in enumerate(sequences)}
    while engine.scheduler.busy:
        for sequence in engine.step():
            if sequence.finished:
                clock.finish(number[sequence])
    if beams > 1:
        return [sequence.search.answers[0].tokens for sequence in sequences], clock
    return [sequence.generated for sequence in sequences], clock


def params(count: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)


def made(dtype: torch.dtype) -> tuple[EncoderDecoder, Tokenizer]:
    """Weights that are all alive and scores that have clear winners."""
    model, noise = EncoderDecoder(SHAPE), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.0 if "norm" in name else parameter.shape[-1] ** -0.5
            parameter.normal_(1.0 if "norm" in name else 0.0, spread, generator=noise)
    return prepare(model, torch.device("cpu"), dtype), words()


def words() -> Tokenizer:
    """A tokenizer that knows all tokens of the model."""
    chance = random.Random(0)
    made_up = ("".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(20_000))
    return train([" ".join(made_up)], SHAPE.vocab_size)


def drawn(count: int, longest: int) -> list[Request]:
    chance = random.Random(0)

    def length() -> int:
        return round(4 * (longest / 4) ** chance.random())

    return [([chance.randrange(2, 8192) for _ in range(length())], length()) for _ in range(count)]


def measured(given: argparse.Namespace) -> dict[str, Any]:
    """Medians of both, their ratios, and what was equal."""
    model, tokenizer = made(getattr(torch, given.dtype))
    requests, slots, beams = drawn(given.requests, given.longest), given.slots, given.beams
    if beams > 1:
        requests = [(source, -(-count // 16) * 16) for source, count in requests]

    def batches(requests: list[Request]) -> tuple[Any, Clock]:
        if beams > 1:
            return static_search(model, tokenizer, requests, slots, beams)
        return static(model, tokenizer, requests, slots)

    total = sum(count for _, count in requests)
    rounds: dict[str, list[dict[str, float]]] = {"static": [], "continuous": []}
    batches(requests[:2])
    continuous(LLM(model, tokenizer), requests[:2], beams)
    wall, spent = time.perf_counter(), time.process_time()
    for _ in range(given.rounds):
        theirs, clock = batches(requests)
        rounds["static"].append(clock.record(total))
        # A new engine each time: the old one knows the sources.
        engine = LLM(model, tokenizer, max_sequences=slots, speculation=False)
        ours, clock = continuous(engine, requests, beams)
        rounds["continuous"].append(clock.record(total))
    share = (time.process_time() - spent) / (time.perf_counter() - wall)
    found: dict[str, Any] = {
        name: {key: statistics.median(one[key] for one in each) for key in each[0]}
        for name, each in rounds.items()
    }
    ratios = {
        key: statistics.median(
            a[key] / b[key] for a, b in zip(rounds["continuous"], rounds["static"], strict=True)
        )
        for key in ("tokens_per_second", "wait")
    }
    both = list(zip(requests, theirs, ours, strict=True))
    explained = [
        beams > 1 and rounded(model, tokenizer, request, beams, [a, b]) for request, a, b in both if a != b
    ]
    return found | {
        "ratios": ratios,
        "explained": explained,
        "equal": sum(a == b for a, b in zip(theirs, ours, strict=True)),
        "alone": [continuous(engine, [requests[n]], beams)[0][0] == ours[n] for n in range(4)],
        "requests": len(requests),
        "tokens": total,
        "cpu": share,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, usual in (("requests", 48), ("slots", 16), ("rounds", 3), ("longest", 128), ("beams", 1)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = measured(given)
    for name in ("static", "continuous"):
        speed, wait = found[name]["tokens_per_second"], found[name]["wait"]
        print(f"{name:11} {speed:8.0f} tokens/s   wait {wait:.2f} s")
    ratios = found["ratios"]
    print(f"continuous / static: tokens {ratios['tokens_per_second']:.2f}, wait {ratios['wait']:.2f}")
    print(f"{found['equal']} of {found['requests']} answers equal; the same alone: {all(found['alone'])}")
    if found["explained"]:
        print(f"decided by rounding: {sum(found['explained'])} of the {len(found['explained'])} others")
    print(f"cpu {found['cpu']:.0%} of wall time")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(0 if all(found["explained"]) and all(found["alone"]) else 1)


if __name__ == "__main__":
    main()
