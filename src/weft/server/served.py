"""One model of a server: its engine, and what makes tokens of the texts of requests for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from weft.api.abilities import Abilities, abilities
from weft.checkpoint.huggingface import resolve
from weft.core.errors import WeftError
from weft.server.answer import EngineFault
from weft.server.backend import Backend
from weft.server.errors import ApiError
from weft.server.prompts import Prompts
from weft.tokenizer import Tokenizer

T = TypeVar("T")
_LONG = 2**18
"""Bytes of a body whose texts are encoded while no other such ones are: they take some hundred times that."""
_MOST_LONG = 8
"""Such bodies that may wait for that, or be at it."""


class Served:
    """One model: its engine, and what encodes for it once it is loaded.

    ``here``: it has an engine, loaded or about to be, and so a place among those that may be loaded at once;
    ``lost``: it was loaded, and could not be loaded again; ``refused``: when it could not be loaded, and why.
    """

    def __init__(self, name: str, engine: Backend):
        self.name, self.engine = name, engine
        self.created = int(time.time())
        self.used = time.monotonic()
        self.lock = asyncio.Lock()
        self.here = self.lost = False
        self.refused: tuple[float, str] | None = None
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
            # It may be written yet, be for another engine, or be closed to this user.
            with contextlib.suppress(WeftError, OSError):
                self._abilities = abilities(self.engine.options.checkpoint)
        return self._abilities or Abilities()

    @property
    def tasks(self) -> list[str]:
        """The tasks that the model can do; none of a decoder."""
        return list(self.engine.facts.get("tasks", self.abilities.tasks))

    @property
    def loaded(self) -> bool:
        """Whether it was loaded and not unloaded since; its engine may be starting again."""
        return self._prompts is not None

    @property
    def ready(self) -> bool:
        """Whether it can be asked now."""
        return self.loaded and self.engine.up

    async def load(self) -> None:
        """Be ready to be asked. Raises WeftError, or EngineFault (503) while it takes too long."""
        self.here = True
        self.engine.start()
        await self.engine.ready()
        if self._prompts is None:
            folder = resolve(self.engine.options.checkpoint)
            tokenizer = await asyncio.to_thread(Tokenizer.load, folder)
            facts = self.engine.facts
            self._prompts = Prompts(tokenizer, facts["context"], facts["vocabulary"], facts.get("start"))
        self.lost = False

    async def unload(self) -> None:
        """Free its memory."""
        self._prompts, self.lost = None, False
        await self.engine.stop()
        self.here = False
