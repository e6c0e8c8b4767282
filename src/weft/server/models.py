"""The models of a server by name: loaded when first asked for, unloaded when nobody asks any more."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

from weft.core.errors import ResourceError, WeftError
from weft.core.registry import nearest
from weft.server.answer import EngineFault
from weft.server.backend import MakeBackend
from weft.server.engine import Engine, EngineOptions, Patience
from weft.server.errors import ApiError
from weft.server.served import Served
from weft.server.trial import Trials


class Models:
    """Models by name; the first is the default. At most ``most`` are loaded at once (None: all), and one that
    nobody has asked for ``idle_seconds`` is unloaded (None: never)."""

    def __init__(
        self,
        options: Mapping[str, EngineOptions],
        *,
        patience: Patience | None = None,
        most: int | None = None,
        idle_seconds: float | None = None,
        adapter_root: Path | None = None,
        backend: MakeBackend = Engine,
    ):
        """``adapter_root``: the folder below which adapters that are loaded over HTTP must lie; ``backend``:
        what makes the engine of each model."""
        self._patience = patience or Patience()
        self._served = {name: Served(name, backend(each, self._patience)) for name, each in options.items()}
        self.trials = Trials()
        self._most, self._idle_seconds = most, idle_seconds
        self._adapter_root = adapter_root
        self._room, self._naming = asyncio.Lock(), asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def all(self) -> list[Served]:
        """Every model, loaded or not."""
        return list(self._served.values())

    def find(self, name: str | None) -> Served:
        """The model of this name, or that of an adapter of this name, or the first. Raises ApiError 404."""
        if name is None:
            return next(iter(self._served.values()))
        if name in self._served:
            return self._served[name]
        owners = {adapter: one for one in self._served.values() for adapter in one.adapters}
        if name in owners:
            return owners[name]
        names = [*self._served, *owners]
        guess = nearest(name, names)
        hint = f"did you mean {guess!r}?" if guess else f"this server has {', '.join(map(repr, names))}."
        message = f"There is no model {name!r} here; {hint}"
        raise ApiError(404, message, param="model", code="model_not_found")

    def adapter(self, name: str | None) -> str | None:
        """``name`` where it is that of an adapter and of no model."""
        if name is None or name in self._served:
            return None
        return name if any(name in one.adapters for one in self._served.values()) else None

    async def load_adapter(self, name: str, folder: str, model: str | None) -> Served:
        """Load the adapter in ``folder``, below the root for adapters. Raises ApiError 400, 403, 404, 503."""
        if self._adapter_root is None:
            raise ApiError(
                403, "This server loads no adapters over HTTP; start it with --adapter-root FOLDER."
            )
        place = _below(self._adapter_root.resolve(), folder)
        # One after another, or two models would have adapters of one name.
        async with self._naming:
            if name in self._served or self.adapter(name) is not None:
                raise ApiError(400, f"The name {name!r} is in use here; give another.", param="lora_name")
            served = await self.get(model)
            try:
                await served.engine.change_adapter(name, str(place))
            except EngineFault as fault:
                raise ApiError(fault.status, str(fault), param="lora_path") from None
        return served

    async def unload_adapter(self, name: str) -> Served:
        """Forget an adapter. Raises ApiError 404 for an unknown one, 400 while a request uses it."""
        if self.adapter(name) is None:
            raise ApiError(404, f"There is no adapter {name!r} here.", param="lora_name")
        served = await self.get(name)
        try:
            await served.engine.change_adapter(name, None)
        except EngineFault as fault:
            raise ApiError(fault.status, str(fault), param="lora_name") from None
        return served

    async def start(self) -> None:
        """Load the first model. Raises WeftError when it cannot be loaded."""
        first = self.find(None)
        try:
            await first.load()
        except EngineFault as fault:
            seconds = first.engine.patience.load
            message = f"The model {first.name!r} has not loaded within {seconds:.0f} s: {fault}"
            raise ResourceError(message) from None
        self._tasks = [asyncio.ensure_future(self._bring_back())]
        if self._idle_seconds is not None:
            self._tasks.append(asyncio.ensure_future(self._sweep(self._idle_seconds)))

    async def get(self, name: str | None) -> Served:
        """A model that can be asked now, loaded first if need be. Raises ApiError 404, 503, EngineFault."""
        served = self.find(name)
        served.used = came = time.monotonic()
        if served.ready:
            return served
        async with served.lock:
            if served.refused is not None and served.refused[0] > came:
                # Who waited meanwhile would only load it once more, one after another.
                raise ApiError(503, served.refused[1])
            if not served.here:
                await self._make_room(served)
            lost = served.loaded or served.lost
            try:
                await served.load()
            except WeftError as error:
                await served.unload()
                served.lost = lost
                served.refused = (
                    time.monotonic(),
                    f"The model {served.name!r} cannot be loaded: {error}",
                )
                raise ApiError(503, served.refused[1]) from None
        served.used = time.monotonic()
        return served

    async def get_decoder(self, name: str | None) -> Served:
        """As :meth:`get`; ApiError 400 for a model that does not continue text."""
        served = await self.get(name)
        facts = served.engine.facts
        if facts.get("kind", "decoder") != "decoder":
            tasks = ", ".join(f"/v1/tasks/{task}" for task in served.tasks)
            message = f"{served.name!r} is an {facts['kind']}, which continues no text; ask it at {tasks}."
            raise ApiError(400, message, param="model")
        return served

    async def stop(self) -> None:
        """Unload all, and end what grammars are tried in."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(self.trials.close(), *(served.unload() for served in self._served.values()))

    async def _make_room(self, wanted: Served) -> None:
        """Give ``wanted`` a place among those that may be loaded. Raises EngineFault (503) without one."""
        async with self._room:
            others = [one for one in self._served.values() if one.here]
            idle = sorted((one for one in others if not one.active), key=lambda one: one.used)
            for one in idle:
                if self._most and len(others) >= self._most and await self._unload_idle(one):
                    others.remove(one)
            if self._most and len(others) >= self._most:
                raise EngineFault(f"The {self._most} models that may be loaded at once are all in use.", 503)
            # Now, since others look for room before it is loaded.
            wanted.here = True
            for one in self._served.values():
                # What was lost and has no place any more is as any other that is not loaded.
                one.lost = one.lost and (one.here or not self._full)

    async def _bring_back(self) -> None:
        """Load again what was loaded and could not be loaded again: where a balancer reads /health no request
        comes that would ask for it."""
        while True:
            await asyncio.sleep(self._patience.lost)
            for one in self._served.values():
                gone = one.lost or (one.loaded and one.engine.failure is not None)
                # Others have come into its place where there is none.
                if gone and (one.here or not self._full):
                    with contextlib.suppress(Exception):  # whoever asks for it is told
                        await self.get(one.name)

    @property
    def _full(self) -> bool:
        return self._most is not None and sum(one.here for one in self._served.values()) >= self._most

    async def _sweep(self, idle_seconds: float) -> None:
        while True:
            await asyncio.sleep(max(0.05, idle_seconds / 10))
            for one in self._served.values():
                if one.active:
                    one.used = time.monotonic()
                elif time.monotonic() - one.used > idle_seconds:
                    await self._unload_idle(one)

    @staticmethod
    async def _unload_idle(one: Served) -> bool:
        """Whether it was loaded and idle, and is unloaded; who asks for it meanwhile waits, and loads it."""
        # Whoever holds the lock may wait for the room that is being made.
        if not one.here or one.active or one.lock.locked():
            return False
        async with one.lock:
            await one.unload()
        return True


def _below(root: Path, folder: str) -> Path:
    """``folder`` in ``root``. Raises ApiError 403 for one elsewhere, 400 for what can be no folder."""
    try:
        place = (root / folder).resolve()
        known = place.is_relative_to(root) and place.exists()
    except (OSError, ValueError, RuntimeError):  # too long, with NUL, links in a circle
        raise ApiError(400, f"{folder[:64]!r}... can be no folder.", param="lora_path") from None
    if not place.is_relative_to(root):
        raise ApiError(403, f"{folder} is not below {root}, where adapters may lie.", param="lora_path")
    if not known:
        message = f"There is no adapter at {place}; give a folder with an adapter_config.json."
        raise ApiError(400, message, param="lora_path")
    return place
