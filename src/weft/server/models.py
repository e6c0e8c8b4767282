"""The models of a server by name: loaded when first asked for, unloaded when nobody asks any more."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from weft.api.abilities import Abilities, abilities
from weft.checkpoint.huggingface import resolve
from weft.core.errors import WeftError
from weft.core.registry import nearest
from weft.server.answer import EngineFault
from weft.server.backend import Backend, MakeBackend
from weft.server.engine import Engine, EngineOptions, Patience
from weft.server.errors import ApiError
from weft.server.prompts import Prompts
from weft.server.trial import Trials
from weft.tokenizer import Tokenizer

T = TypeVar("T")
_LONG = 2**18
"""Bytes of a body whose texts are encoded while no other such ones are: they take some hundred times that."""
_MOST_LONG = 8
"""Such bodies that may wait for that, or be at it."""


class Served:
    """One model: its engine, and what encodes for it once it is loaded."""

    def __init__(self, name: str, engine: Backend):
        self.name, self.engine = name, engine
        self.created = int(time.time())
        self.used = time.monotonic()
        self.lock = asyncio.Lock()
        self._users = self._long_ones = 0
        self._long = asyncio.Lock()
        self._prompts: Prompts | None = None
        self._abilities: Abilities | None = None

    @property
    def prompts(self) -> Prompts:
        """Encodes for this model. Raises EngineFault (503) where an operator has unloaded it meanwhile."""
        if self._prompts is None:
            raise EngineFault(f"The model {self.name!r} was unloaded meanwhile; ask again.", 503)
        return self._prompts

    @property
    def active(self) -> bool:
        """Whether a request is at work with it, so that it must stay."""
        return self._users > 0 or self.engine.active > 0

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """It stays loaded meanwhile, also where its engine has nothing to do yet."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1

    async def encoded(self, body: bytes, encode: Callable[[Prompts], T]) -> T:
        """What ``encode`` makes, in a thread, of the texts of a request whose body is ``body``.

        Raises ApiError 429 where many long ones wait already.
        """
        with self.using():
            if len(body) <= _LONG:
                return await asyncio.to_thread(encode, self.prompts)
            with self._in_line():
                async with self._long:
                    return await asyncio.to_thread(encode, self.prompts)

    @contextlib.contextmanager
    def _in_line(self) -> Iterator[None]:
        if self._long_ones == _MOST_LONG:
            message = f"{_MOST_LONG} requests with long texts wait to be encoded; try again later."
            raise ApiError(429, message, headers={"Retry-After": "5"})
        self._long_ones += 1
        try:
            yield
        finally:
            self._long_ones -= 1

    @property
    def adapters(self) -> dict[str, str]:
        """Folders of the LoRA adapters by the names that requests give."""
        return self.engine.options.adapters or {}

    @property
    def abilities(self) -> Abilities:
        """What it can do, loaded or not; nothing is known of a folder that Weft cannot read."""
        if self._abilities is None:
            # It may be written yet, or be for another engine.
            with contextlib.suppress(WeftError):
                self._abilities = abilities(self.engine.options.checkpoint)
        return self._abilities or Abilities()

    @property
    def tasks(self) -> list[str]:
        """The tasks that the model can do; none of a decoder."""
        return list(self.engine.facts.get("tasks", self.abilities.tasks))

    @property
    def wanted(self) -> bool:
        """Whether it is loaded, or being loaded again."""
        return self._prompts is not None

    async def load(self) -> None:
        """Be ready to be asked. Raises WeftError, or EngineFault (503) while it takes too long."""
        self.engine.start()
        await self.engine.ready()
        if self._prompts is None:
            folder = resolve(self.engine.options.checkpoint)
            tokenizer = await asyncio.to_thread(Tokenizer.load, folder)
            facts = self.engine.facts
            self._prompts = Prompts(tokenizer, facts["context"], facts["vocabulary"], facts.get("start"))

    async def unload(self) -> None:
        """Free its memory."""
        self._prompts = None
        await self.engine.stop()


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
        self._served = {
            name: Served(name, backend(each, patience or Patience())) for name, each in options.items()
        }
        self.trials = Trials()
        self._most, self._idle_seconds = most, idle_seconds
        self._adapter_root = adapter_root
        self._room = asyncio.Lock()
        self._sweeper: asyncio.Task[None] | None = None

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
        await self.find(None).load()
        if self._idle_seconds is not None:
            self._sweeper = asyncio.ensure_future(self._sweep(self._idle_seconds))

    async def get(self, name: str | None) -> Served:
        """A model that can be asked now, loaded first if need be. Raises ApiError 404, 503, EngineFault."""
        served = self.find(name)
        served.used = time.monotonic()
        if served.wanted and served.engine.up:
            return served
        async with served.lock:
            if not served.wanted:
                await self._make_room(served)
            try:
                await served.load()
            except WeftError as error:
                await served.unload()
                raise ApiError(503, f"The model {served.name!r} cannot be loaded: {error}") from None
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
        if self._sweeper is not None:
            self._sweeper.cancel()
        await asyncio.gather(self.trials.stop(), *(served.unload() for served in self._served.values()))

    async def _make_room(self, wanted: Served) -> None:
        if self._most is None:
            return
        async with self._room:
            loaded = [one for one in self._served.values() if one.wanted and one is not wanted]
            idle = sorted((one for one in loaded if not one.active), key=lambda one: one.used)
            for one in idle:
                if len(loaded) >= self._most and await self._unload_idle(one):
                    loaded.remove(one)
            if len(loaded) >= self._most:
                raise EngineFault(f"The {self._most} models that may be loaded at once are all in use.", 503)

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
        if not one.wanted or one.active or one.lock.locked():
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
