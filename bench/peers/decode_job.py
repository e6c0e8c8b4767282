"""How an engine under measurement is asked and answers. Standard library only: every environment reads this.

An engine is a process that reads one JSON object a line. The first holds the settings: ``model`` (a folder or
a file), ``threads``, ``sequences`` and ``context`` (the most that will be asked for), and what the engine
knows besides. It answers ``{"system": name, "versions": {...}}``. Each further one is a job,
``{"prompts": [[token, ...], ...], "new": n, "logits": bool}``: continue all prompts at once, greedily, by n
tokens each. The answer:

    tokens             the new tokens of each prompt
    prefill_seconds    from the start until every prompt has its first new token
    decode_seconds     from there until the last token
    cpu_seconds        processor time of all threads in both
    logits             with ``logits``: the scores for the first new token of the first prompt
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

Tokens = list[list[int]]
Step = Iterator[list[int]]
"""Yields the next token of every sequence, and its first item once all prompts are read."""


def serve(start: Callable[[dict[str, Any]], tuple[dict[str, Any], Callable[..., Any]]]) -> None:
    """``start(settings)`` gives the greeting and ``run(prompts, new)``, which yields each step's tokens.

    ``run`` may have an attribute ``logits(prompt)`` that scores the token after a prompt.
    """
    # What libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    greeting, run = start(json.loads(sys.stdin.readline()))
    print(json.dumps(greeting), file=answers)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(_answer(run, job)), file=answers)


def _answer(run: Callable[..., Any], job: dict[str, Any]) -> dict[str, Any]:
    steps: list[list[int]] = []
    begun, processor = time.perf_counter(), time.process_time()
    first = begun
    for step in run(job["prompts"], job["new"]):
        steps.append([int(token) for token in step])
        if len(steps) == 1:
            first = time.perf_counter()
    ended = time.perf_counter()
    answer = {
        "tokens": [list(tokens) for tokens in zip(*steps, strict=True)],
        "prefill_seconds": first - begun,
        "decode_seconds": ended - first,
        "cpu_seconds": time.process_time() - processor,
    }
    if job.get("logits"):
        scores = getattr(run, "logits", None)
        answer["logits"] = None if scores is None else [float(x) for x in scores(job["prompts"][0])]
    return answer
