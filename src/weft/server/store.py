"""Keys, usage and the audit log in a database: SQLite in a file, or PostgreSQL by its address.

Plain drivers and a handful of statements that both understand: a mapper would be larger than what it maps.
"""

from __future__ import annotations

import contextlib
import importlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from weft.core.errors import ResourceError, UsageError

_TABLES = (
    """CREATE TABLE IF NOT EXISTS keys (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, salt TEXT NOT NULL, digest TEXT NOT NULL,
        scope TEXT NOT NULL, requests_per_minute BIGINT, tokens_per_day BIGINT,
        created DOUBLE PRECISION NOT NULL,
        revoked DOUBLE PRECISION)""",
    """CREATE TABLE IF NOT EXISTS requests (
        at DOUBLE PRECISION NOT NULL, key_id TEXT NOT NULL, end_user TEXT, route TEXT NOT NULL,
        model TEXT NOT NULL, status BIGINT NOT NULL, prompt_tokens BIGINT NOT NULL,
        completion_tokens BIGINT NOT NULL, first_token_seconds DOUBLE PRECISION, seconds DOUBLE PRECISION)""",
    "CREATE INDEX IF NOT EXISTS requests_by_key ON requests (key_id, at)",
    """CREATE TABLE IF NOT EXISTS usage_by_day (
        day BIGINT NOT NULL, key_id TEXT NOT NULL, model TEXT NOT NULL, requests BIGINT NOT NULL,
        prompt_tokens BIGINT NOT NULL, completion_tokens BIGINT NOT NULL,
        PRIMARY KEY (day, key_id, model))""",
    """CREATE TABLE IF NOT EXISTS audit (
        at DOUBLE PRECISION NOT NULL, key_id TEXT NOT NULL, event TEXT NOT NULL, detail TEXT NOT NULL)""",
)
_PAUSE = 1.0
"""Seconds after a failed try to connect in which none is made: those who wait for it are told at once."""

_PASSING_CODES = (
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL),
    *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN),
)

_BUSY = 10.0
"""Seconds to wait for another thread's statement, which waits for a lock in the database, say."""

Row = tuple[Any, ...]
T = TypeVar("T")


class Unavailable(ResourceError):
    """The database is gone, or cannot write now; what was asked for may be asked again later."""


class Store:
    """A connection that any thread may use, one statement at a time.

    ``place`` is a file, or an address that begins with ``postgresql://``. A connection that is lost is opened
    again by the next use. Raises UsageError for a place that is neither, ResourceError when it cannot be
    opened or used: Unavailable where the same may work later.
    """

    def __init__(self, place: str):
        self._lock = threading.Lock()
        self._postgres = not in_file(place)
        # SQLite that gets no memory says so by Python's own error.
        self._errors: tuple[type[Exception], ...] = (sqlite3.Error, OSError, MemoryError)
        self._passing: tuple[type[Exception], ...] = (sqlite3.OperationalError, OSError, MemoryError)
        # Passwords stand before the @ or behind the question mark.
        self.place = place.rsplit("@", 1)[-1].partition("?")[0] if self._postgres else place
        self._address = place
        self._connection: Any = None
        self._waits_until = 0.0
        try:
            self._connection = self._open(place)
            for statement in _TABLES:
                self._connection.cursor().execute(statement)
            self._connection.commit()
        except self._errors as error:
            raise ResourceError(f"The database {self.place} cannot be opened ({_line(error)}).") from None

    def _open(self, place: str) -> Any:
        if self._postgres:
            try:
                psycopg = importlib.import_module("psycopg")
            except ImportError:
                message = "PostgreSQL needs a driver; install it with: pip install 'weft[postgres]'."
                raise ResourceError(message) from None
            self._errors = (psycopg.Error, OSError, MemoryError)
            self._passing = (psycopg.OperationalError, OSError, MemoryError)
            # A machine that vanished sends nothing: unacknowledged data is given up after that many ms, and
            # who waits for an answer asks after as many seconds whether anybody is there.
            signs = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 2}
            return psycopg.connect(place, connect_timeout=10, tcp_user_timeout=10_000, **signs)
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        if not Path(place).exists():
            Path(place).touch(mode=0o600)
        # Whole, since some names, such as :memory:, mean other things to SQLite.
        connection = sqlite3.connect(Path(place).absolute(), timeout=10, check_same_thread=False)
        # Readers (the command line) and the one writer (the server) do not wait for each other.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def change(self, statement: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run ``statement`` (with ``?`` for values) for each row in one transaction; rows changed."""
        return self.change_all([(statement, list(rows))])[0]

    def change_all(self, changes: Sequence[tuple[str, Sequence[Sequence[Any]]]]) -> list[int]:
        """:meth:`change` of several statements, in one transaction for all."""

        def work(cursor: Any) -> list[int]:
            changed = []
            for statement, rows in changes:
                cursor.executemany(self._own(statement), rows)
                changed.append(int(cursor.rowcount))
            return changed

        return self._run(work)

    def read(self, query: str, values: Sequence[Any] = ()) -> list[Row]:
        """All rows of ``query``."""

        def work(cursor: Any) -> list[Row]:
            cursor.execute(self._own(query), tuple(values))
            return [tuple(row) for row in cursor.fetchall()]

        return self._run(work)

    @property
    def day(self) -> str:
        """SQL for the day since 1970, in UTC, of a column ``at``; PostgreSQL rounds where SQLite cuts off."""
        return "CAST(FLOOR(at / 86400) AS BIGINT)" if self._postgres else "CAST(at / 86400 AS INTEGER)"

    def close(self) -> None:
        """Close the connection; one on which a statement hangs is left alone."""
        if not self._lock.acquire(timeout=_BUSY):
            return
        try:
            if self._connection is not None:
                self._connection.close()
        finally:
            self._lock.release()

    def _run(self, work: Callable[[Any], T]) -> T:
        """What ``work`` makes with a cursor, in one transaction. Raises ResourceError, Unavailable."""
        if not self._lock.acquire(timeout=_BUSY):
            raise Unavailable(f"The database {self.place} does not answer what it was asked before.")
        try:
            found = self._work(work)
            self._connection.commit()
            return found
        except self._errors as error:
            passing = self._lost or (isinstance(error, self._passing) and _may_pass(error))
            self._clear()
            kind = Unavailable if passing else ResourceError
            raise kind(f"The database {self.place} failed ({_line(error)}).") from None
        finally:
            self._lock.release()

    def _work(self, work: Callable[[Any], T]) -> T:
        held = self._connection is not None
        try:
            return work(self._connected().cursor())
        except self._errors:
            if not (held and self._lost):
                raise
        # It went while nobody used it, and nothing was committed: a new connection may do all of it.
        self._clear()
        return work(self._connected().cursor())

    def _connected(self) -> Any:
        if self._connection is None:
            if time.monotonic() < self._waits_until:
                raise OSError("it was not there a moment ago")
            try:
                self._connection = self._open(self._address)
            except self._errors:
                self._waits_until = time.monotonic() + _PAUSE
                raise
        return self._connection

    @property
    def _lost(self) -> bool:
        return self._postgres and self._connection is not None and self._connection.closed

    def _clear(self) -> None:
        """Let go of a connection that is lost; of one that is whole, only what was begun on it."""
        if self._connection is None:
            return
        lost = self._lost
        with contextlib.suppress(Exception):
            self._connection.close() if lost else self._connection.rollback()
        if lost:
            self._connection = None

    def _own(self, statement: str) -> str:
        return statement.replace("?", "%s") if self._postgres else statement


def in_file(place: str) -> bool:
    """Whether a store is a file, not a server. UsageError for a place that is neither."""
    if place.startswith(("postgresql://", "postgres://")):
        return False
    if not place or "://" in place:
        raise UsageError(f"The store {place!r} is no file; give a file's name, or a postgresql:// address.")
    return True


def _may_pass(error: Exception) -> bool:
    """Not of SQLite's errors that come again each time, such as a table that is not there."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is None or code & 0xFF in _PASSING_CODES


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
