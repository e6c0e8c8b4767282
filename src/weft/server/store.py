"""Keys, usage and the audit log in a database: SQLite in a file, or PostgreSQL by its address.

Plain drivers and a handful of statements that both understand: a mapper would be larger than what it maps.
"""

from __future__ import annotations

import contextlib
import importlib
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from weft.core.errors import ResourceError

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
    """CREATE TABLE IF NOT EXISTS audit (
        at DOUBLE PRECISION NOT NULL, key_id TEXT NOT NULL, event TEXT NOT NULL, detail TEXT NOT NULL)""",
)
Row = tuple[Any, ...]


class Store:
    """A connection that any thread may use, one statement at a time.

    ``place`` is a file, or an address that begins with ``postgresql://``. Raises ResourceError when it
    cannot be opened or used.
    """

    def __init__(self, place: str):
        self._lock = threading.Lock()
        self._postgres = place.startswith(("postgresql://", "postgres://"))
        self._errors: tuple[type[Exception], ...] = (sqlite3.Error, OSError)
        self.place = place.rsplit("@", 1)[-1] if self._postgres else place
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
            self._errors = (psycopg.Error, OSError)
            return psycopg.connect(place, connect_timeout=10)
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        if not Path(place).exists():
            Path(place).touch(mode=0o600)
        connection = sqlite3.connect(place, timeout=10, check_same_thread=False)
        # Readers (the command line) and the one writer (the server) do not wait for each other.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def change(self, statement: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run ``statement`` (with ``?`` for values) for each row in one transaction; rows changed."""
        with self._used() as cursor:
            cursor.executemany(self._own(statement), list(rows))
            self._connection.commit()
            return int(cursor.rowcount)

    def read(self, query: str, values: Sequence[Any] = ()) -> list[Row]:
        """All rows of ``query``."""
        with self._used() as cursor:
            cursor.execute(self._own(query), tuple(values))
            found = [tuple(row) for row in cursor.fetchall()]
            self._connection.commit()
            return found

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def _used(self) -> Any:
        with self._lock:
            try:
                yield self._connection.cursor()
            except self._errors as error:
                with contextlib.suppress(Exception):
                    self._connection.rollback()
                raise ResourceError(f"The database {self.place} failed ({_line(error)}).") from None

    def _own(self, statement: str) -> str:
        return statement.replace("?", "%s") if self._postgres else statement


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
