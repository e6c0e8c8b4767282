"""One engine process, from the side of the server: started, watched, restarted, and spoken to.

Everything here happens on one event loop. A process that dies, or that has work and does nothing for
``stall_seconds``, is replaced; the answers it was working on get an :class:`EngineFault`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import math
import os
import signal
import site
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from weft.core.errors import CheckpointError, ResourceError, UsageError, WeftError
from weft.server.answer import Answer, EngineFault, news
from weft.server.wire import Message, Unpacker, pack

_log = logging.getLogger("weft.server")
_CHUNK = 2**18
_PACKAGE = str(Path(__file__).parents[2])
# Another interpreter gets this package, and nothing that is installed beside it: it has its own of all else.
_ELSEWHERE = """
import importlib.util, runpy, sys
package = {package!r}
spec = importlib.util.spec_from_file_location(
    "weft", package + "/__init__.py", submodule_search_locations=[package]
)
sys.modules["weft"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["weft"])
runpy.run_module({module!r}, run_name="__main__")
"""
_ERRORS = {UsageError.exit_code: UsageError, ResourceError.exit_code: CheckpointError}


@dataclass(frozen=True)
class EngineOptions:
    """What an engine process loads, as :func:`weft.load` takes it.

    ``kind`` "vllm" serves it through vLLM, which the interpreter ``python`` must have (None: this one), and
    ``settings`` are then more arguments of its engine.
    """

    checkpoint: str
    dtype: str | None = None
    device: str | None = None
    max_sequences: int = 16
    adapters: dict[str, str] | None = None
    draft: str | None = None
    draft_layers: int | None = None
    speculation: bool = True
    cache_dtype: str | None = None
    kind: Literal["weft", "vllm"] = "weft"
    python: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def command(self) -> list[str]:
        """The engine process, without the number of its socket."""
        module = "weft.server.host" if self.kind == "weft" else "weft.server.host_vllm"
        if self.python is not None:
            return [self.python, "-c", _ELSEWHERE.format(package=f"{_PACKAGE}/weft", module=module)]
        return [sys.executable, "-m", module]


_NO_PROGRAM = (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR)
_GRACE = 5.0
"""Seconds for an engine to end by itself."""
_LAST_WORDS = 0.5
"""Seconds in which what an engine has sent before its end is read, and in which what it started may end."""
_LONG_PAUSE = 5.0
"""Seconds before the next start from which on nobody is kept waiting for it."""


@dataclass(frozen=True)
class Patience:
    """Seconds: an engine with work may do nothing for ``stall``, loading may take ``load``, and after a
    death the next start waits ``backoff``, twice as long after each death in a row up to ``backoff_most``.
    A model that could not be loaded again is tried once more every ``lost``."""

    stall: float = 120.0
    load: float = 900.0
    backoff: float = 0.5
    backoff_most: float = 30.0
    lost: float = 30.0


class Engine:
    """A model in a process of its own. :meth:`start` it, wait until it is :meth:`ready`, :meth:`submit`."""

    def __init__(self, options: EngineOptions, patience: Patience | None = None):
        self.options, self.patience = options, patience or Patience()
        self.facts: Message = {}
        self.stats: dict[str, int] = {}
        self.restarts = 0
        self.pid: int | None = None
        self.failure: WeftError | None = None
        self._names = itertools.count(1)
        self._open: dict[int, Answer] = {}
        self._moved = time.monotonic()
        self._up_since = math.inf
        self._writer: asyncio.StreamWriter | None = None
        self._ready, self._down = asyncio.Event(), asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether the model is loaded and can be asked now."""
        return self._ready.is_set()

    @property
    def active(self) -> int:
        """Answers that are not finished."""
        return len(self._open)

    @property
    def stalled_seconds(self) -> float:
        """How long an engine that has work has done nothing for it; 0 without work."""
        return time.monotonic() - self._moved if self._open else 0.0

    def held_by(self, owner: str) -> int:
        """Answers that are not finished, of one owner."""
        return sum(answer.owner == owner for answer in self._open.values())

    def start(self) -> None:
        """Start the process, and start it again whenever it dies."""
        if self._keeper is None or self._keeper.done():
            self.failure = None
            self._keeper = asyncio.ensure_future(self._keep())

    async def ready(self) -> None:
        """Wait until it can be asked.

        Raises what made loading fail, and EngineFault (503) after ``load``, or at once when it has died so
        often in a row that it is left alone for a while.
        """
        if self.up:
            return
        assert self._keeper is not None, "start() comes first"
        waiting = [asyncio.ensure_future(event.wait()) for event in (self._ready, self._down)]
        try:
            await asyncio.wait(
                {*waiting, self._keeper}, timeout=self.patience.load, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for one in waiting:
                one.cancel()
        if self.failure is not None:
            raise self.failure
        if self._keeper is not None and self._keeper.done() and not self._keeper.cancelled():
            self._keeper.result()
        if self._down.is_set() and not self.up:
            raise EngineFault("The engine died and is left alone for a while; try again in a minute.", 503)
        if not self.up:
            raise EngineFault("The model is not loaded yet; try again later.", 503)

    async def stop(self) -> None:
        """End the process; answers still open get an EngineFault."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None

    def submit(
        self, tokens: Sequence[int], params: dict[str, Any], owner: str = "", adapter: str | None = None
    ) -> Answer:
        """Queue checked token ids; ``params`` are fields of :class:`weft.engine.SamplingParams`."""
        return self._ask(
            owner, {"op": "add", "tokens": list(tokens), "params": params, "owner": owner, "adapter": adapter}
        )

    def embed(self, tokens: Sequence[int], owner: str = "") -> Answer:
        """Ask for the embedding of checked token ids; it comes as :meth:`Answer.vector`."""
        return self._ask(owner, {"op": "embed", "tokens": list(tokens), "owner": owner})

    def do(self, task: str, item: dict[str, Any], settings: dict[str, Any], owner: str = "") -> Answer:
        """Ask for a task (:mod:`weft.api.ask`) on one item; its record comes as :meth:`Answer.record`."""
        return self._ask(
            owner, {"op": "task", "task": task, "item": item, "settings": settings, "owner": owner}
        )

    async def change_adapter(self, name: str, folder: str | None) -> None:
        """Load the adapter in ``folder`` under ``name``, or unload it (None); after a restart it is the same.

        Raises EngineFault (400) when the engine cannot do that.
        """
        await self._ask("", {"op": "adapter", "name": name, "folder": folder}).vector()
        adapters = dict(self.options.adapters or {})
        adapters.pop(name, None)
        if folder is not None:
            adapters[name] = folder
        self.options = replace(self.options, adapters=adapters)

    def abort(self, answer: Answer) -> None:
        """End an answer before the next step; one that is finished stays as it is."""
        if self._open.pop(answer.name, None) is not None:
            self._send({"op": "abort", "id": answer.name})
            answer.put(EngineFault("The request was aborted.", 499))

    def _ask(self, owner: str, message: Message) -> Answer:
        if not self.up:
            raise EngineFault("The engine is starting again; try again later.", 503)
        if not self._open:
            self._moved = time.monotonic()
        answer = Answer(next(self._names), owner)
        self._open[answer.name] = answer
        self._send({**message, "id": answer.name})
        return answer

    def _send(self, message: Message) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(pack(message))

    async def _keep(self) -> None:
        """One process after another, until one cannot load at all or :meth:`stop` is called."""
        deaths = 0
        while True:
            self._up_since = math.inf
            try:
                await self._one_life()
            except WeftError as error:
                self.failure = error
                return
            except Exception as error:  # no files, threads or memory of the moment, for instance
                # Whatever it is: nobody else brings the model back.
                reason = error.strerror if isinstance(error, OSError) else repr(error)
                _log.error(
                    "The engine process cannot be started or spoken to (%s)",
                    reason,
                    exc_info=not isinstance(error, OSError),
                )
                if not self.facts:
                    self.failure = ResourceError(f"No engine process can be started ({reason}).")
                    return
            if not self.facts:
                self.failure = ResourceError("The engine process ended before the model was loaded.")
                return
            deaths = 1 if time.monotonic() - self._up_since > 60 else deaths + 1
            self.restarts += 1
            # Of a night of deaths the power would be no number that a float holds.
            pause = min(self.patience.backoff * 2.0 ** min(deaths - 1, 100), self.patience.backoff_most)
            _log.error("The engine of %s ended; starting again in %.1f s", self.options.checkpoint, pause)
            if pause > _LONG_PAUSE:
                self._down.set()
            try:
                await asyncio.sleep(pause)
            finally:
                self._down.clear()

    async def _one_life(self) -> None:
        """Run a process until it ends. Raises WeftError when it says that it cannot load."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                process = await self._spawned(theirs)
        except BaseException:
            ours.close()
            raise
        self.pid, watch = process.pid, asyncio.ensure_future(self._watch(process))
        hang_up: asyncio.Task[None] | None = None
        try:
            if self.facts:
                self._leave_out_lost_adapters()
            reader, self._writer = await asyncio.open_unix_connection(sock=ours)
            hang_up = asyncio.ensure_future(_hang_up_after(process, self._writer))
            self._send({"op": "load", **asdict(self.options)})
            await self._read(reader)
        except (ValueError, ConnectionError, KeyError) as error:
            _log.error("The engine sent what cannot be read (%s)", error)
        finally:
            self._ready.clear()
            self.stats = {}
            watch.cancel()
            if hang_up is not None:
                hang_up.cancel()
            self._fail("The engine stopped while it worked on this request; try again.", 503)
            await self._end(process)

    async def _spawned(self, theirs: socket.socket) -> asyncio.subprocess.Process:
        """A process that has the other end of the socket. UsageError when its interpreter cannot be run."""
        os.set_inheritable(theirs.fileno(), True)
        # No module in the folder that the server was started in, a checkpoint's say, is to be found; this
        # package is, where this process has it.
        more = {"PYTHONSAFEPATH": "1"}
        if self.options.python is None and _PACKAGE not in site.getsitepackages():
            path = filter(None, (_PACKAGE, os.environ.get("PYTHONPATH")))
            more["PYTHONPATH"] = os.pathsep.join(path)
        try:
            return await asyncio.create_subprocess_exec(
                *self.options.command,
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                env=os.environ | more,
                # A terminal's Ctrl-C is for the server: it would break off imports with a traceback.
                start_new_session=True,
            )
        except OSError as error:
            if self.options.python is None or error.errno not in _NO_PROGRAM:
                raise
            message = f"{self.options.python} cannot be run ({error.strerror}); give a Python interpreter."
            raise UsageError(message) from None

    def _leave_out_lost_adapters(self) -> None:
        """An adapter whose folder went away after it was loaded does not keep the model from coming back."""
        adapters = self.options.adapters or {}
        there = {name: folder for name, folder in adapters.items() if _is_folder(folder)}
        for name in adapters.keys() - there.keys():
            _log.error("The adapter %r is left out: %s is no folder any more", name, adapters[name])
        if len(there) < len(adapters):
            self.options = replace(self.options, adapters=there)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        self._send({"op": "stop"})
        if self._writer is not None:
            self._writer.close()
        try:
            # Whoever cancels it now, when the process may be dying by itself, ends it at once, and for good.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GRACE):
                    await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            self.pid = None
            await _end_group(process.pid)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        unpacker = Unpacker()
        while data := await reader.read(_CHUNK):
            for message in unpacker.feed(data):
                self._receive(message)

    def _receive(self, message: Message) -> None:
        op = message["op"]
        self.stats = message.get("stats", self.stats)
        if message.get("moved", op != "beat"):
            self._moved = time.monotonic()
        if op == "pieces":
            for record in message["items"]:
                self._deliver(record["id"], news(record))
        elif op == "taken":
            if answer := self._open.get(message["id"]):
                answer.accept()
        elif op == "done":
            self._deliver(message["id"], "")
        elif op == "error":
            status = 400 if message["refused"] else 500
            for name in message["ids"]:
                self._deliver(name, EngineFault(message["error"], status))
        elif op == "ready":
            self.facts = {key: value for key, value in message.items() if key not in ("op", "stats")}
            self._up_since = time.monotonic()
            self._ready.set()
        elif op == "failed":
            kind = _ERRORS.get(message["exit_code"], CheckpointError)
            raise kind(message["error"])

    def _deliver(self, name: int, item: Any) -> None:
        answer = self._open.get(name)
        if answer is None:
            return
        answer.put(item)
        if answer.done:
            del self._open[name]

    def _fail(self, message: str, status: int) -> None:
        for answer in self._open.values():
            answer.put(EngineFault(message, status))
        self._open.clear()

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Kill a process that has work and does none, or does not end to load: what is stuck in a step hears
        no message."""
        began = time.monotonic()
        while True:
            await asyncio.sleep(min(1.0, self.patience.stall / 4, self.patience.load / 4))
            if not self.up and time.monotonic() - began > self.patience.load:
                _log.error("The engine has not loaded in %.0f s; it is killed", self.patience.load)
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)
                return
            if self.up and self.stalled_seconds > self.patience.stall:
                _log.error("The engine has done nothing for %.0f s; it is killed", self.stalled_seconds)
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)
                return


async def _end_group(group: int) -> None:
    """What a process started itself would keep the memory of a GPU from the next one.

    Python's tracker of shared memory ignores SIGTERM, and takes away what those leave who do not.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGTERM)
        for _ in range(10):
            await asyncio.sleep(_LAST_WORDS / 10)
            os.killpg(group, 0)
        os.killpg(group, signal.SIGKILL)


async def _hang_up_after(process: asyncio.subprocess.Process, writer: asyncio.StreamWriter) -> None:
    """What a process started itself may hold its socket open: then nobody would hear that it has ended."""
    await process.wait()
    await asyncio.sleep(_LAST_WORDS)
    writer.transport.abort()


def _is_folder(path: str) -> bool:
    """Not what the system does not show either: it is closed to this user, or its disk is away."""
    with contextlib.suppress(OSError):
        return Path(path).is_dir()
    return False


def folder_name(checkpoint: str) -> str:
    """The name of a model that nobody named: that of its folder."""
    return Path(checkpoint).resolve().name
