"""What prompt lookup costs where nothing repeats: processor time of its bookkeeping, without any model.

    python bench/lookup_cost.py [--steps 600] [--sequences 8]

Tokens are random, of 5,000 or of 300 different ones, so guesses are nearly always wrong and no plan pays.
What is measured is ``propose`` and ``observe`` of each step. To compare two versions, run it in turn with
PYTHONPATH set to the ``src`` of each.
"""

from __future__ import annotations

import argparse
import random
import time

from weft.engine.params import SamplingParams
from weft.engine.scheduler import Work
from weft.engine.sequence import Sequence
from weft.engine.speculative import PromptLookup, Speculator
from weft.engine.text import TextStream

PROMPT = 100


def microseconds(kinds: int, seed: int, steps: int, many: int) -> float:
    """Of one step on average, ``many`` sequences together."""
    chance = random.Random(seed)
    speculator = Speculator(PromptLookup())
    sequences = [sequence(chance, kinds) for _ in range(many)]
    spent = 0.0
    for _ in range(steps):
        began = time.thread_time()
        speculator.propose(sequences)
        spent += time.thread_time() - began
        work = [Work(each, 1, each.drafts) for each in sequences]
        drawn = [[chance.randrange(kinds)] for _ in sequences]
        began = time.thread_time()
        speculator.observe(work, drawn, 0.001 + 0.00005 * sum(item.rows for item in work))
        spent += time.thread_time() - began
        for each, tokens in zip(sequences, drawn, strict=True):
            each.tokens += tokens
            each.cached, each.drafts = len(each.tokens) - 1, ()
    return spent / steps * 1e6


def sequence(chance: random.Random, kinds: int) -> Sequence:
    """One that has its first new token and is ready for the next."""
    prompt = [chance.randrange(kinds) for _ in range(PROMPT)]
    made = Sequence(prompt, SamplingParams(), seed=0, limit=10**6, text=TextStream(None))
    made.tokens.append(chance.randrange(kinds))
    made.cached = PROMPT
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--sequences", type=int, default=8)
    given = parser.parse_args()
    microseconds(300, 0, 50, given.sequences)  # warms up
    for kinds in (5000, 300):
        found = [microseconds(kinds, seed, given.steps, given.sequences) for seed in range(3)]
        print(f"{kinds} different tokens: " + ", ".join(f"{one:.1f}" for one in found) + " µs a step")


if __name__ == "__main__":
    main()
