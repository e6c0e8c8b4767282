"""What was used and what was done: written to the store by a thread, counted in memory for quotas."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import defaultdict
from dataclasses import astuple, dataclass
from functools import partial

from weft.core.errors import ResourceError
from weft.server.aside import aside
from weft.server.store import Row, Store, Unavailable

DAY = 86_400
_BATCH = 500
_AGAIN_SECONDS = 1.0
_READ_SECONDS = 10.0
_END_SECONDS = 10.0
_log = logging.getLogger("weft.server")


@dataclass(frozen=True)
class Use:
    """One request. ``at`` in seconds since 1970; ``key_id`` is empty where the server has no keys."""

    at: float
    key_id: str
    end_user: str | None
    route: str
    model: str
    status: int
    prompt_tokens: int
    completion_tokens: int
    first_token_seconds: float | None
    seconds: float


@dataclass(frozen=True)
class Event:
    """Something an operator may ask about later: a key made, a request refused, a model unloaded."""

    at: float
    key_id: str
    event: str
    detail: str


_USE = "INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DAY = """INSERT INTO usage_by_day VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (day, key_id, model) DO UPDATE SET
    requests = usage_by_day.requests + excluded.requests,
    prompt_tokens = usage_by_day.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = usage_by_day.completion_tokens + excluded.completion_tokens"""
_FILL = """INSERT INTO usage_by_day
    SELECT {day}, key_id, model, COUNT(*), SUM(prompt_tokens), SUM(completion_tokens) FROM requests
    WHERE TRUE GROUP BY 1, 2, 3 ON CONFLICT DO NOTHING"""
_EVENT = "INSERT INTO audit VALUES (?, ?, ?, ?)"


class Ledger:
    """Takes records without waiting; when the database does not keep up or is away, the oldest wait in a
    bounded queue and further ones are counted in ``lost``."""

    def __init__(self, store: Store, pending: int = 100_000):
        self._store = store
        self._queue: queue.Queue[Use | Event | None] = queue.Queue(pending)
        self._today = int(time.time()) // DAY
        self._tokens: defaultdict[str, int] = defaultdict(int)
        self._closing = threading.Event()
        self.lost = 0
        if not store.read("SELECT 1 FROM usage_by_day LIMIT 1"):
            store.change(_FILL.format(day=store.day), [()])
        for key_id, tokens in store.read(
            "SELECT key_id, SUM(prompt_tokens + completion_tokens) FROM usage_by_day"
            " WHERE day = ? GROUP BY key_id",
            (self._today,),
        ):
            self._tokens[key_id] = int(tokens)
        self._thread = threading.Thread(target=self._write, name="weft-ledger", daemon=True)
        self._thread.start()

    def use(self, record: Use) -> None:
        """Count and write one request."""
        self._turn_day()
        self._tokens[record.key_id] += record.prompt_tokens + record.completion_tokens
        self._put(record)

    def event(self, key_id: str, event: str, detail: str = "") -> None:
        """Write one line of the audit log."""
        self._put(Event(time.time(), key_id, event, detail[:1000]))

    def tokens_today(self, key_id: str) -> int:
        """Tokens of a key since midnight UTC."""
        self._turn_day()
        return self._tokens[key_id]

    def seconds_to_midnight(self) -> int:
        """Until the count begins again, in UTC."""
        return DAY - int(time.time()) % DAY

    def summary(self, days: int = 30) -> list[dict[str, object]]:
        """Requests and tokens of each key and model in the last ``days``, which end with today in UTC."""
        # Sums are kept by day, since to add up a month's requests takes a minute.
        rows = self._store.read(
            "SELECT key_id, model, SUM(requests), SUM(prompt_tokens), SUM(completion_tokens)"
            " FROM usage_by_day WHERE day > ? GROUP BY key_id, model ORDER BY key_id, model",
            (int(time.time()) // DAY - days,),
        )
        names = ("key", "model", "requests", "prompt_tokens", "completion_tokens")
        return [dict(zip(names, (row[0], row[1], *map(int, row[2:])), strict=True)) for row in rows]

    async def asked(self, days: int) -> list[dict[str, object]]:
        """:meth:`summary`, in a thread of its own: texts are encoded in the others. Raises TimeoutError."""
        return await asyncio.wait_for(aside(partial(self.summary, days), "weft-usage"), _READ_SECONDS)

    def close(self) -> None:
        """Write what is left, unless the database is away."""
        self._closing.set()
        # Behind a statement that hangs, the queue stays as full as it is.
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=_END_SECONDS)
            self._thread.join(timeout=_END_SECONDS)

    def _turn_day(self) -> None:
        today = int(time.time()) // DAY
        if today != self._today:
            self._today = today
            self._tokens.clear()

    def _put(self, record: Use | Event) -> None:
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self.lost += 1

    def _write(self) -> None:
        ended = False
        while not ended:
            batch = [self._queue.get()]
            while len(batch) < _BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            ended = None in batch
            for kind in (Use, Event):
                records = [record for record in batch if isinstance(record, kind)]
                try:
                    if records:
                        self._keep(kind, [_row(record) for record in records])
                except Exception:  # no memory of the moment, for instance: later records are still written
                    self.lost += len(records)
                    _log.exception("%d records are lost.", len(records))

    def _keep(self, kind: type[Use | Event], rows: list[Row]) -> None:
        """Write ``rows``; what the database does not take is counted as lost, and the others are not."""
        try:
            self._change(kind, rows)
            return
        except ResourceError as error:
            reason = error
        lost = len(rows)
        if lost > 1 and not isinstance(reason, Unavailable):
            lost -= sum(self._fits(kind, row) for row in rows)
        self.lost += lost
        _log.error("%s %d records are lost.", reason, lost)

    def _fits(self, kind: type[Use | Event], row: Row) -> bool:
        with contextlib.suppress(ResourceError):
            self._change(kind, [row])
            return True
        return False

    def _change(self, kind: type[Use | Event], rows: list[Row]) -> None:
        """Write ``rows``; while the database is away they wait, and behind them the queue.

        Raises ResourceError for what cannot be written, Unavailable when the ledger is closed meanwhile.
        """
        told = False
        while True:
            last = self._closing.is_set()
            try:
                self._store.change_all(
                    [(_USE, rows), (_DAY, _by_day(rows))] if kind is Use else [(_EVENT, rows)]
                )
            except Unavailable as error:
                if last:
                    raise
                if not told:
                    _log.error("%s Records wait in memory until it is back.", error)
                told = True
                self._closing.wait(_AGAIN_SECONDS)
            else:
                if told:
                    _log.warning("The database is back; %d records are lost in all.", self.lost)
                return


def _by_day(rows: list[Row]) -> list[Row]:
    """Sums of rows of :class:`Use` by day, key and model; sorted, or servers would lock them crosswise."""
    sums: defaultdict[tuple[int, str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for at, key_id, _, _, model, _, prompt, completion, *_ in rows:
        for place, count in enumerate((1, prompt, completion)):
            sums[int(at) // DAY, key_id, model][place] += count
    return [(*place, *counts) for place, counts in sorted(sums.items())]


def _row(record: Use | Event) -> Row:
    return tuple(_storable(value) if isinstance(value, str) else value for value in astuple(record))


def _storable(text: str) -> str:
    """``text`` without what PostgreSQL cannot hold, which clients may send: NUL, and halves of pairs."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
