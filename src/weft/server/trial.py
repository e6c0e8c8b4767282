"""Grammars are built for trial in a process of their own, before an engine, which others wait for, does.

The compiler's own limits do not count all its work: a few hundred characters of a schema may take it minutes
and gigabytes. What they do not stop the system does, and nobody else notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import sys
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path

from weft.engine import grammar_source
from weft.engine.params import Grammar
from weft.server.errors import ApiError

_HOST = Path(__file__).with_name("trial_host.py")
_MOST, _MOST_OF_ONE = 8, 4
"""Grammars that may wait to be built, or are; and those of one key, where there are keys."""
_SECONDS = 60.0
"""For a process that stands still, whose processor time does not run out: all others wait behind it."""
_KEPT = 1000
"""Grammars that are remembered to be harmless, by their hashes."""


class Trials:
    """Builds one grammar after another; its process starts with the first, and anew when one has ended it."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._waiting: Counter[str] = Counter()
        self._process: asyncio.subprocess.Process | None = None
        self._closed = False
        self._passed: OrderedDict[bytes, None] = OrderedDict()

    async def check(self, constraint: dict[str, str], owner: str, param: str) -> bool:
        """True. Raises ApiError 400 for a grammar that takes too much to be built, 429 where many wait (or
        many of ``owner``), and UsageError for what no engine takes; what else is wrong the engine says."""
        name = hashlib.sha256("\0".join(constraint.values()).encode("utf-8", "surrogatepass")).digest()
        if name not in self._passed:
            Grammar(**constraint)  # type: ignore[arg-type]  # its own bounds, and whether the kind is known
            # Whoever leaves does not end the process for the others.
            if not await asyncio.shield(self._tried(constraint, owner)):
                message = "What the answer must look like takes too long or too much memory to be built."
                raise ApiError(400, f"{message} Make it simpler.", param=param)
        self._passed[name] = None
        self._passed.move_to_end(name)
        if len(self._passed) > _KEPT:
            self._passed.popitem(last=False)
        return True

    async def _tried(self, constraint: dict[str, str], owner: str) -> bool:
        with self._in_line(owner):
            async with self._turn:
                return await self._built(constraint["kind"], constraint["text"])

    @contextlib.contextmanager
    def _in_line(self, owner: str) -> Iterator[None]:
        full = self._waiting.total() >= _MOST or (owner and self._waiting[owner] >= _MOST_OF_ONE)
        if full:
            message = "Many forms of answers wait to be built; try again later."
            raise ApiError(429, message, headers={"Retry-After": "5"})
        self._waiting[owner] += 1
        try:
            yield
        finally:
            self._waiting[owner] -= 1
            self._waiting += Counter()  # those with nothing are let go

    async def close(self) -> None:
        """End the process, if there is one; whatever waits is built no more."""
        self._closed = True
        await self._stop()
        # A process that is being started now is ended by whoever starts it.
        async with self._turn:
            pass

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.kill()
            # And nothing is read here: somebody may be waiting for the answer.
            await process.wait()

    async def _built(self, kind: str, text: str) -> bool:
        process = None if self._closed else await self._started()
        if self._closed or process is None:
            await self._stop()
            return False
        assert process.stdin is not None and process.stdout is not None
        answer = b""
        try:
            async with asyncio.timeout(_SECONDS):
                process.stdin.write(json.dumps([kind, text]).encode() + b"\n")
                await process.stdin.drain()
                answer = await process.stdout.readline()
        except (ConnectionError, TimeoutError):
            pass  # it ended before it had read all, or stands still
        finally:
            # An answer that nobody waits for any more must not be taken for that to the next.
            if not answer:
                await self._stop()
        return bool(answer)

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            await self._stop()
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", str(_HOST), grammar_source.__file__),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        return self._process
