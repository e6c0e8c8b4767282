"""Load on an OpenAI-compatible server, and what it made of it.

Requests arrive by a Poisson process, whether earlier ones are answered or not; times count from the moment a
request was due, so that a server which cannot keep up does not hide it (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import gc
import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weft.core.errors import ResourceError
from weft.server.client import EventClient, Refused

_COMMON = """time year people way day man thing woman life child world school state family student group
country problem hand part place case week company system program question work number night"""
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Ask:
    """One request: its prompt, and how many tokens the answer may have."""

    prompt: str
    max_tokens: int


@dataclass(frozen=True)
class Target:
    """Seconds within which a request counts as good: to its first token, and for each one after it."""

    first: float
    each: float


@dataclass
class Outcome:
    """What became of a request; seconds from when it was due. ``status`` 0 is no answer at all."""

    due: float
    status: int = 0
    first: float | None = None
    ended: float | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    message: str = ""

    @property
    def each(self) -> float | None:
        """Mean seconds between tokens; None for answers of one token."""
        if self.first is None or self.ended is None or self.tokens < 2:
            return None
        return (self.ended - self.first) / (self.tokens - 1)


def words(tokens: int, seed: int) -> str:
    """A text of about ``tokens`` tokens that no other request shares: common words in random order."""
    chance = random.Random(seed)
    return " ".join(chance.choices(_COMMON.split(), k=max(1, tokens)))


def arrivals(count: int, rate: float, seed: int) -> list[float]:
    """Seconds at which ``count`` requests are due, ``rate`` a second on average (inf: all at once)."""
    chance = random.Random(seed)
    due, now = [], 0.0
    for _ in range(count):
        due.append(now)
        now += 0.0 if math.isinf(rate) else chance.expovariate(rate)
    return due


async def model_of(client: EventClient) -> str:
    """The first model that the server names. ResourceError when it does not answer."""
    try:
        listed = await client.get("/models")
        return str(listed["data"][0]["id"])
    except Refused as error:
        raise ResourceError(f"The server cannot be asked for its models: {error}") from None
    except (KeyError, IndexError, TypeError, ValueError):
        raise ResourceError("The server's list of models is not in OpenAI's form; give --model.") from None


async def run(
    client: EventClient, asks: Sequence[Ask], due: Sequence[float], body: dict[str, Any]
) -> tuple[list[Outcome], float]:
    """Send every request when it is due; the outcomes, and the seconds from the first to the last answer."""
    # The collector's looks through all that is loaded would be taken for the server's time.
    gc.collect()
    gc.freeze()
    try:
        started = time.perf_counter()
        outcomes = await asyncio.gather(
            *(_one(client, ask, at, started, body) for ask, at in zip(asks, due, strict=True))
        )
        return outcomes, time.perf_counter() - started
    finally:
        gc.unfreeze()


async def _one(client: EventClient, ask: Ask, due: float, started: float, body: dict[str, Any]) -> Outcome:
    await asyncio.sleep(max(0.0, started + due - time.perf_counter()))
    outcome = Outcome(due)
    wanted = {
        **body,
        "prompt": ask.prompt,
        "max_tokens": ask.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    pieces = 0
    usage: dict[str, Any] = {}
    try:
        async for event in client.events("/completions", wanted):
            now = time.perf_counter() - started - due
            choices = event.get("choices") or []
            if choices and (choices[0].get("text") or choices[0].get("finish_reason")):
                pieces += bool(choices[0].get("text"))
                outcome.first = now if outcome.first is None else outcome.first
                outcome.ended = now
            usage |= event.get("usage") or {}
        outcome.status = 200
    except Refused as error:
        outcome.status, outcome.message = error.status, str(error)
    # A server that tells no usage is counted by its pieces, which are at most the tokens.
    outcome.tokens = int(usage.get("completion_tokens", pieces))
    outcome.prompt_tokens = int(usage.get("prompt_tokens", 0))
    return outcome


def report(outcomes: Sequence[Outcome], seconds: float, target: Target) -> dict[str, Any]:
    """Throughput, percentiles of times, refusals, and goodput: requests a second that met the target."""
    done = [outcome for outcome in outcomes if outcome.status == 200]
    good = [
        outcome
        for outcome in done
        if outcome.first is not None
        and outcome.first <= target.first
        and (outcome.each or 0.0) <= target.each
    ]
    return {
        "requests": len(outcomes),
        "answered": len(done),
        "statuses": dict(sorted(Counter(outcome.status for outcome in outcomes).items())),
        "seconds": seconds,
        "requests_per_second": len(done) / seconds,
        "prompt_tokens": sum(outcome.prompt_tokens for outcome in done),
        "completion_tokens": sum(outcome.tokens for outcome in done),
        "tokens_per_second": sum(outcome.tokens for outcome in done) / seconds,
        "time_to_first_token": percentiles([o.first for o in done if o.first is not None]),
        "time_per_token": percentiles([o.each for o in done if o.each is not None]),
        "time_to_end": percentiles([o.ended for o in done if o.ended is not None]),
        "target": {"first": target.first, "each": target.each},
        "goodput": len(good) / seconds,
        "good": len(good) / max(1, len(outcomes)),
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The mean and PERCENTILES of ``values``, with linear interpolation; empty for none."""
    if not values:
        return {}
    ordered = sorted(values)
    found = {"mean": math.fsum(ordered) / len(ordered)}
    for percent in PERCENTILES:
        place = (len(ordered) - 1) * percent / 100
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        found[f"p{percent}"] = ordered[low] + (ordered[high] - ordered[low]) * (place - low)
    return found
