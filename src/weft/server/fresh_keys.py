"""Keys that follow their store while a server runs."""

from __future__ import annotations

import asyncio
import logging
import time

from weft.server.aside import aside
from weft.server.keys import Keys

_RELOAD_SECONDS = 2.0
_WAIT_SECONDS = 1.0
_log = logging.getLogger("weft.server")


class FreshKeys:
    """Reads keys again while requests come. A store that fails must not open the door, nor close it to the
    keys that are known: they stay as they were last read, and the log says so once."""

    def __init__(self, keys: Keys):
        self._keys = keys
        self._read_at = time.monotonic()
        self._reading: asyncio.Task[None] | None = None
        self._away = self._slow = False

    async def now(self) -> Keys:
        """The keys, read again where the last time is seconds ago, unless that takes long or fails."""
        if time.monotonic() - self._read_at <= _RELOAD_SECONDS:
            return self._keys
        if self._reading is None or self._reading.done():
            self._reading, self._slow = asyncio.ensure_future(self._read()), False
        if not self._away and not self._slow:
            # Not every request is to wait for a read that hangs.
            _, left = await asyncio.wait({self._reading}, timeout=_WAIT_SECONDS)
            self._slow = bool(left)
        return self._keys

    async def _read(self) -> None:
        try:
            # In the pool's threads texts are encoded, and a flood of them would put a revocation off.
            await aside(self._keys.reload, "weft-keys")
        except Exception as error:
            if not self._away:
                _log.error("%s Until it is back, keys stay as they were last read.", error)
            self._away = True
        else:
            if self._away:
                _log.warning("The keys are read again.")
            self._away = False
        self._read_at = time.monotonic()
