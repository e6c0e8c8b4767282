"""Engines on a Ray cluster: N replicas under Ray Serve, asked as if they were one engine.

Ray Serve places them, replaces those that die, and sends each request to the less busy of two; front, keys
and page stay where they are. Each replica runs :class:`weft.server.engine.Engine` on its node.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

from weft.core.errors import ResourceError, WeftError
from weft.server.answer import Answer, EngineFault, Made, plain, record_of
from weft.server.engine import Engine, EngineOptions, Patience
from weft.server.wire import Message

HEALTH_SECONDS = 10.0
_SILENT = 3 * HEALTH_SECONDS
_STATE = ("running", "waiting", "free_blocks", "total_blocks")
"""Statistics that say how it is now, not what has been done."""
_LOOK_SECONDS = 0.5
_SEEK_SECONDS = 1.0
_log = logging.getLogger("weft.server")


class Replica:
    """What runs on a node: an engine process and who speaks with it."""

    def __init__(self, options: EngineOptions, patience: Patience):
        self._engine = Engine(options, patience)
        self._name = uuid.uuid4().hex

    async def facts(self) -> Message:
        """Wait until the model is loaded, and give :attr:`Engine.facts`; ``failed`` says why it is not."""
        self._engine.start()
        try:
            await self._engine.ready()
        except (WeftError, EngineFault) as error:
            return {"failed": str(error)}
        return self._engine.facts

    async def ask(self, message: Message) -> AsyncIterator[Message]:
        """The pieces of an answer, or a vector; aborted when the caller goes away."""
        self._engine.start()
        answer: Answer | None = None
        try:
            await self._engine.ready()
            answer = self._submitted(message)
            await answer.taken()
            yield self._told({"taken": True})
            if message["op"] == "embed":
                yield self._told({"vector": await answer.vector()})
                return
            if message["op"] == "task":
                record = await answer.record()
                yield self._told({"record": record, "tokens": answer.tokens})
                return
            async for piece in answer.pieces():
                yield self._told({"piece": record_of(piece)})
        except EngineFault as fault:
            yield self._told({"fault": str(fault), "status": fault.status})
        except WeftError as error:
            yield self._told({"fault": str(error), "status": 503})
        finally:
            if answer is not None:
                self._engine.abort(answer)

    async def check_health(self) -> None:
        """Ray replaces a replica whose engine cannot load, or has stopped moving for too long."""
        if self._engine.failure is not None:
            raise self._engine.failure

    def _submitted(self, message: Message) -> Answer:
        if message["op"] == "embed":
            return self._engine.embed(message["tokens"], message["owner"])
        if message["op"] == "task":
            return self._engine.do(message["task"], message["item"], message["settings"], message["owner"])
        given = (message["tokens"], message["params"], message["owner"], message["adapter"])
        return self._engine.submit(*given)

    def _told(self, item: Message) -> Message:
        stats = {**self._engine.stats, "restarts": self._engine.restarts}
        return {**item, "replica": self._name, "stats": stats}


class Fleet:
    """Replicas of one model, with the face of one :class:`weft.server.engine.Engine`."""

    pid = None

    def __init__(
        self, options: EngineOptions, patience: Patience | None = None, *, replicas: int, address: str | None
    ):
        self.options, self.patience = options, patience or Patience()
        self.facts: Message = {}
        self.failure: WeftError | None = None
        self._replicas, self._address = replicas, address
        self._name = f"weft-{uuid.uuid4().hex[:12]}"
        self._handle: Any = None
        self._starting: asyncio.Task[None] | None = None
        self._names = itertools.count(1)
        self._open: dict[int, tuple[Answer, asyncio.Task[None]]] = {}
        self._deploying: asyncio.Future[Any] | None = None
        self._loaded = self._gone = False
        self._seeking: asyncio.Task[None] | None = None
        self._restarts = 0
        self._told: dict[str, tuple[float, dict[str, int]]] = {}
        self._moved = time.monotonic()

    @property
    def up(self) -> bool:
        """Whether a replica has loaded the model, and the last one that was asked was there."""
        return self._loaded and not self._gone

    @property
    def active(self) -> int:
        """Answers that are not finished."""
        return len(self._open)

    @property
    def stats(self) -> dict[str, int]:
        """Counts of all replicas, as each said last. One that is silent while others answer may be gone: of
        it what has been done counts, and no state, or counts that only grow would fall."""
        total: Counter[str] = Counter()
        latest = max((at for at, _ in self._told.values()), default=0.0)
        for at, counts in self._told.values():
            left_out = ("restarts",) if at >= latest - _SILENT else ("restarts", *_STATE)
            total.update({name: count for name, count in counts.items() if name not in left_out})
        return dict(total)

    @property
    def restarts(self) -> int:
        """Engine processes that were replaced on their nodes."""
        return self._restarts + sum(counts.get("restarts", 0) for _, counts in self._told.values())

    @property
    def stalled_seconds(self) -> float:
        """How long nothing has come though there is work; 0 without work."""
        return time.monotonic() - self._moved if self._open else 0.0

    def held_by(self, owner: str) -> int:
        """Answers that are not finished, of one owner."""
        return sum(answer.owner == owner for answer, _ in self._open.values())

    def start(self) -> None:
        """Ask Ray Serve for the replicas."""
        if self._starting is None or (self._starting.done() and not self._loaded):
            self.failure = None
            self._starting = asyncio.ensure_future(self._start())

    async def ready(self) -> None:
        """Wait until one of them can be asked. Raises what made loading fail, or EngineFault (503)."""
        assert self._starting is not None, "start() comes first"
        await asyncio.wait({self._starting}, timeout=self.patience.load)
        if self.failure is not None:
            raise self.failure
        if not self._loaded:
            raise EngineFault("The model is not loaded yet; try again later.", 503)

    async def stop(self) -> None:
        """End the replicas; answers still open get an EngineFault."""
        for answer, _ in list(self._open.values()):
            self.abort(answer)
        if self._seeking is not None:
            self._seeking.cancel()
            await asyncio.gather(self._seeking, return_exceptions=True)
            self._seeking = None
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
            self._starting = None
        if self._deploying is not None:
            # What is under way in a thread would be there afterwards, and nobody's.
            await asyncio.gather(self._deploying, return_exceptions=True)
            self._deploying = self._handle = None
            await asyncio.to_thread(_undeploy, self._name)
        # Facts stay: requests that came before go on with them to where they are refused.
        self._loaded = self._gone = False
        self._restarts, self._told = self.restarts, {}

    def submit(
        self, tokens: Sequence[int], params: dict[str, Any], owner: str = "", adapter: str | None = None
    ) -> Answer:
        """As :meth:`weft.server.engine.Engine.submit`."""
        message = {"op": "add", "tokens": list(tokens), "params": params, "owner": owner, "adapter": adapter}
        return self._ask(owner, message)

    def embed(self, tokens: Sequence[int], owner: str = "") -> Answer:
        """As :meth:`weft.server.engine.Engine.embed`."""
        return self._ask(owner, {"op": "embed", "tokens": list(tokens), "owner": owner})

    def do(self, task: str, item: dict[str, Any], settings: dict[str, Any], owner: str = "") -> Answer:
        """As :meth:`weft.server.engine.Engine.do`."""
        message = {"op": "task", "task": task, "item": item, "settings": settings, "owner": owner}
        return self._ask(owner, message)

    def abort(self, answer: Answer) -> None:
        """End an answer; one that is finished stays as it is."""
        found = self._open.pop(answer.name, None)
        if found is not None:
            found[1].cancel()
            answer.put(EngineFault("The request was aborted.", 499))

    async def change_adapter(self, name: str, folder: str | None) -> None:
        """Refused: replicas that come later would not know it."""
        raise EngineFault("With --replicas adapters are given at the start, with --adapter.", 400)

    def _ask(self, owner: str, message: Message) -> Answer:
        if self._handle is None:
            raise EngineFault("The replicas are starting; try again later.", 503)
        if not self._open:
            self._moved = time.monotonic()
        answer = Answer(next(self._names), owner)
        self._open[answer.name] = answer, asyncio.ensure_future(self._pump(answer, message))
        return answer

    async def _pump(self, answer: Answer, message: Message) -> None:
        stream = None
        try:
            stream = self._handle.options(method_name="ask", stream=True).remote(message)
            async for item in stream:
                self._moved, self._gone = time.monotonic(), False
                self._told[item["replica"]] = self._moved, item["stats"]
                self._receive(answer, item)
            if not answer.done:
                answer.put(EngineFault("The replica ended before its answer did; try again.", 503))
        except asyncio.CancelledError:
            if stream is not None:
                stream.cancel()
            raise
        except Exception:
            # Ray says by many exceptions that a replica or its node is gone.
            self._gone = True
            if self._seeking is None or self._seeking.done():
                self._seeking = asyncio.ensure_future(self._seek())
            answer.put(EngineFault("The replica that worked on this request is gone; try again.", 503))
        finally:
            self._open.pop(answer.name, None)

    async def _seek(self) -> None:
        """Ask until a replica is there again: a balancer that reads /health sends no request that would show
        it."""
        while self._gone:
            await asyncio.sleep(_SEEK_SECONDS)
            with contextlib.suppress(Exception):
                self._gone = "failed" in await self._handle.facts.remote()

    def _receive(self, answer: Answer, item: Message) -> None:
        if "piece" in item:
            answer.put(plain(item["piece"]))
        elif "record" in item:
            answer.put(Made(item["record"], item["tokens"]))
        elif "vector" in item:
            answer.put(str(item["vector"]))
        elif "fault" in item:
            answer.put(EngineFault(item["fault"], item["status"]))
        else:
            answer.accept()

    async def _start(self) -> None:
        try:
            self._deploying = asyncio.ensure_future(asyncio.to_thread(self._deploy))
            self._handle = await asyncio.shield(self._deploying)
            await self._placed()
            facts = await self._handle.facts.remote()
        except WeftError as error:
            self.failure = error
            return
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self.failure = ResourceError(f"Ray Serve cannot start the replicas: {reason}")
            return
        if "failed" in facts:
            self.failure = ResourceError(facts["failed"])
            return
        self.facts = {**facts, "sequences": facts["sequences"] * self._replicas}
        self._loaded = True

    async def _placed(self) -> None:
        """Wait until Ray has started all replicas, however long it takes; what it waits for is logged once.
        Raises RuntimeError when it has given up."""
        told = ""
        while True:
            status, message = await asyncio.to_thread(_status, self._name)
            if status == "RUNNING":
                return
            if status == "DEPLOY_FAILED":
                raise RuntimeError(message)
            if message and not told:
                _log.warning("Not all %d replicas have started: %s", self._replicas, message)
            told = told or message
            await asyncio.sleep(_LOOK_SECONDS)

    def _deploy(self) -> Any:
        serve = _connected(self._address)
        gpu = self.options.device is not None and self.options.device.startswith("cuda")
        deployment = serve.deployment(
            Replica,
            num_replicas=self._replicas,
            # The queue is the front's; here nobody waits.
            max_ongoing_requests=10_000,
            health_check_period_s=HEALTH_SECONDS,
            ray_actor_options={"num_gpus": 1} if gpu else {"num_cpus": 1},
        )
        application = deployment.bind(self.options, self.patience)
        # What waits here for replicas that no node has room for could not be told to end.
        return serve._run(application, _blocking=False, name=self._name, route_prefix=None)


def _connected(address: str | None) -> Any:
    """``ray.serve`` on the cluster at ``address``, or on one started here. Raises ResourceError."""
    # Ray would look for a package manager's environment, and find the wrong one.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
        from ray import serve
    except ImportError:
        raise ResourceError("--replicas needs the ray package: pip install 'weft[ray]'.") from None
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=None if address else False)
        except (ConnectionError, RuntimeError) as error:
            raise ResourceError(f"There is no Ray cluster at {address}: {error}.") from None
    serve.start(proxy_location="Disabled")
    return serve


def _status(name: str) -> tuple[str, str]:
    """What Ray Serve says of an application: its state, and what it waits for."""
    from ray import serve

    found = serve.status().applications.get(name)
    if found is None:
        return "NOT_STARTED", ""
    said = (found.message, *(each.message for each in found.deployments.values()))
    return found.status.value, next(filter(None, said), "")


def _undeploy(name: str) -> None:
    # The cluster may be gone already, and Ray may not be installed at all.
    with contextlib.suppress(Exception):
        import ray
        from ray import serve

        # Ray would start a cluster to look for it.
        if ray.is_initialized():
            serve.delete(name)
