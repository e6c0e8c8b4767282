"""An hour at full load (``pytest -m soak``): disconnects, slow readers, dead engines.

``WEFT_SOAK_SECONDS`` changes the length; the default suite runs a few seconds of the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest
from servers import Server, running, until
from test_fuzz import resident

from weft.server.engine import EngineOptions, Patience
from weft.server.limits import Limits

HOUR = float(os.environ.get("WEFT_SOAK_SECONDS", "3600"))
CLIENTS = 24
# Every request is told one of these; -1 is a client that hung up by itself.
TOLD = {200, 429, 500, 503, -1}


async def _request(port: int, chance: random.Random) -> int:
    """One client: reads all, or slowly, hangs up in the middle or at once. The status it was told."""
    stream = chance.random() < 0.6
    body = {
        "prompt": [chance.randrange(5, 400) for _ in range(chance.choice([1, 10, 200, 600]))],
        "max_tokens": chance.choice([1, 5, 50, 200]),
        "n": chance.choice([1, 1, 1, 3]),
        "seed": chance.randrange(10**6),
        "stream": stream,
        "ignore_eos": True,
    }
    content = json.dumps(body).encode()
    manner = chance.choice(["whole", "whole", "whole", "slow", "hang up", "hang up at once"])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content)
        )
        if manner == "hang up at once":
            return -1
        received = b""
        async with asyncio.timeout(120):
            while data := await reader.read(512 if manner == "slow" else 65536):
                received += data
                if manner == "hang up":
                    return -1
                if manner == "slow":
                    await asyncio.sleep(0.005)
        status = int(received[9:12])
        if stream and status == 200 and b"[DONE]" not in received:
            # The answer broke off, and its reader was told why.
            assert b"server_error" in received, received[-500:]
            return 503
        return status
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _clients(port: int, seconds: float) -> Counter[int]:
    ends = time.monotonic() + seconds
    told: Counter[int] = Counter()

    async def client(seed: int) -> None:
        chance = random.Random(seed)
        while time.monotonic() < ends:
            told[await _request(port, chance)] += 1

    await asyncio.gather(*(client(seed) for seed in range(CLIENTS)))
    return told


def load(port: int, seconds: float) -> Counter[int]:
    return asyncio.run(_clients(port, seconds))


def soak(server: Server, seconds: float, kill_every: float) -> Counter[int]:
    # Clients have a process of their own: what they allocate is not the server's.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as outside:
        ends = time.monotonic() + seconds
        running_clients = outside.submit(load, server.port, seconds)
        while time.monotonic() + kill_every < ends - 10:
            time.sleep(kill_every)
            if (pid := server.engine().pid) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        told = running_clients.result()
    until(server.idle, 60)
    assert set(told) <= TOLD, told
    assert told[200] > 0
    return told


def options(folder) -> dict[str, EngineOptions]:
    return {"tiny": EngineOptions(str(folder), "float32", max_sequences=8)}


def test_a_few_seconds_at_full_load(long_checkpoint):
    with running(options(long_checkpoint), Limits(waiting=8), patience=Patience(backoff=0.05)) as server:
        soak(server, 4, kill_every=1000)
        assert server.engine().restarts == 0


@pytest.mark.soak
@pytest.mark.timeout(2 * 3600)
def test_an_hour_at_full_load(long_checkpoint):
    with running(options(long_checkpoint), Limits(waiting=8), patience=Patience(backoff=0.05)) as server:
        soak(server, HOUR / 20, kill_every=10**6)
        pids = ("self", server.engine().pid)
        before = [resident(pid) for pid in pids]
        told = soak(server, HOUR / 2, kill_every=10**6)
        grown = [resident(pid) / start - 1 for pid, start in zip(pids, before, strict=True)]
        assert all(share < 0.01 for share in grown), (grown, told)
        # With engines that die every half minute, memory of the server alone is compared.
        soak(server, HOUR / 2, kill_every=30)
        assert resident("self") / before[0] - 1 < 0.01
        assert server.engine().restarts > 0
