"""The database goes away and comes back, and is sent what it cannot hold."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace

import pytest
from servers import running, until

from weft.core.errors import ResourceError
from weft.server import ledger as ledger_module
from weft.server import store as store_module
from weft.server.engine import EngineOptions
from weft.server.fresh_keys import FreshKeys
from weft.server.keys import Keys
from weft.server.ledger import DAY, Ledger, Use
from weft.server.store import Store, Unavailable


class Driver(types.ModuleType):
    """psycopg over one SQLite file, whose server a test may take away."""

    class Error(Exception):
        pass

    class OperationalError(Error):
        pass

    def __init__(self, file: str):
        super().__init__("psycopg")
        self.file, self.there, self.connections = file, True, []
        self.tries = 0

    def connect(self, place: str, **options) -> Connection:
        self.tries += 1
        self.options = options
        if not self.there:
            raise self.OperationalError("connection refused\nIs the server running?")
        self.connections.append(Connection(self))
        return self.connections[-1]

    def stop(self) -> None:
        self.there = False
        for connection in self.connections:
            connection.lost = True

    def start(self) -> None:
        self.there = True


class Connection:
    """One to the server; it notices that the server is gone when it is used."""

    def __init__(self, driver: Driver):
        self.driver, self.lost, self.closed = driver, False, False
        self._real = sqlite3.connect(driver.file, check_same_thread=False)

    def cursor(self) -> Connection:
        return self

    def _use(self, method: str, statement: str, *values):
        if self.lost:
            self.closed = True
            raise self.driver.OperationalError("terminating connection due to administrator command")
        try:
            self._cursor = getattr(self._real, method)(statement.replace("%s", "?"), *values)
        except sqlite3.Error as error:
            raise self.driver.Error(str(error)) from None
        self.rowcount = self._cursor.rowcount

    def execute(self, statement: str, values=()):
        self._use("execute", statement, values)

    def executemany(self, statement: str, rows):
        if any("\0" in value for row in rows for value in row if isinstance(value, str)):
            raise self.driver.Error("PostgreSQL text fields cannot contain NUL (0x00) bytes")
        self._use("executemany", statement, rows)

    def fetchall(self):
        return self._cursor.fetchall()

    def commit(self) -> None:
        self._real.commit()

    def rollback(self) -> None:
        self._real.rollback()

    def close(self) -> None:
        self.closed = True
        # SQLite keeps a closed connection's transaction, and its lock, as long as there is a cursor.
        self._real.rollback()
        self._real.close()


@pytest.fixture
def driver(tmp_path, monkeypatch) -> Driver:
    made = Driver(str(tmp_path / "pretended.db"))
    monkeypatch.setitem(sys.modules, "psycopg", made)
    monkeypatch.setattr(store_module, "_PAUSE", 0.0)
    return made


ADDRESS = "postgresql://weft:secret@database/weft"


def use(key_id: str, **changes) -> Use:
    fields = {"end_user": None, "route": "/", "model": "m", "status": 200, "seconds": 0.1}
    counts = {"prompt_tokens": 3, "completion_tokens": 4, "first_token_seconds": None}
    return Use(at=time.time(), key_id=key_id, **{**fields, **counts, **changes})


def test_a_connection_that_was_lost_is_opened_again(driver):
    store = Store(ADDRESS)
    keys = Keys(store)
    _, text = keys.add("ann")
    driver.stop()
    driver.start()
    # Whoever comes first after it sees nothing of it, reader or writer.
    keys.reload()
    assert keys.recognise(text) is not None
    driver.stop()
    driver.start()
    keys.add("bob")
    assert len(store.read("SELECT * FROM keys")) == 2


def test_a_transaction_whose_connection_goes_in_the_middle_is_done_once(driver, monkeypatch):
    store, other = Store(ADDRESS), Store(ADDRESS)
    own, asked = store._own, []

    def going(statement):
        asked.append(statement)
        if len(asked) == 2:
            driver.stop()
            driver.start()
        return own(statement)

    monkeypatch.setattr(store, "_own", going)
    insert = "INSERT INTO audit VALUES (?, ?, ?, ?)"
    store.change_all([(insert, [(1.0, "", "first", "")]), (insert, [(1.0, "", "second", "")])])
    other.change(insert, [(1.0, "", "third", "")])
    assert len(asked) == 4
    assert other.read("SELECT event FROM audit") == [("first",), ("second",), ("third",)]


def test_while_it_is_gone_it_is_one_sentence_and_nobody_waits_for_each_other(driver, monkeypatch):
    store = Store(ADDRESS)
    driver.stop()
    with pytest.raises(Unavailable, match=r"database/weft failed \(connection refused\)\.") as caught:
        store.read("SELECT * FROM keys")
    assert "secret" not in str(caught.value)
    monkeypatch.setattr(store_module, "_PAUSE", 60.0)
    for _ in range(5):
        with pytest.raises(Unavailable, match="database/weft failed"):
            store.read("SELECT * FROM keys")
    assert driver.tries == 3  # the first, the one that failed, and one more before the pause


def test_a_wrong_statement_is_no_lost_connection(driver):
    store = Store(ADDRESS)
    with pytest.raises(ResourceError) as caught:
        store.change("INSERT INTO audit VALUES (?, ?, ?, ?)", [(1, "", "\0", "")])
    assert not isinstance(caught.value, Unavailable)
    assert driver.tries == 1
    assert store.read("SELECT * FROM audit") == []


def test_records_wait_until_the_database_is_back(driver, monkeypatch, caplog):
    monkeypatch.setattr("weft.server.ledger._AGAIN_SECONDS", 0.01)
    ledger = Ledger(Store(ADDRESS))
    driver.stop()
    for number in range(10):
        ledger.use(use(f"k{number}"))
    until(lambda: driver.tries > 5)
    driver.start()
    ledger.use(use("later"))
    ledger.close()
    assert ledger.lost == 0
    assert len(Store(ADDRESS).read("SELECT * FROM requests")) == 11
    told = [record.message for record in caplog.records if "Records wait" in record.message]
    assert len(told) == 1


def test_records_that_there_is_no_memory_for_are_lost_alone(tmp_path, monkeypatch):
    row, tries = ledger_module._row, []

    def short(record):
        tries.append(record)
        if len(tries) == 1:
            raise MemoryError
        return row(record)

    monkeypatch.setattr(ledger_module, "_row", short)
    store = Store(str(tmp_path / "weft.db"))
    ledger = Ledger(store)
    ledger.use(use("a"))
    until(lambda: ledger.lost == 1)
    ledger.use(use("b"))
    ledger.close()
    assert ledger.lost == 1
    assert store.read("SELECT key_id FROM requests") == [("b",)]
    store.close()


def test_records_that_wait_are_bounded_and_an_end_does_not_wait_for_the_database(driver, monkeypatch):
    ledger = Ledger(Store(ADDRESS), pending=5)
    driver.stop()
    ledger.use(use("first"))
    until(lambda: driver.tries > 1)
    for _ in range(20):
        ledger.use(use("a"))
    assert ledger.lost == 15
    ledger.close()
    assert not ledger._thread.is_alive()
    assert ledger.lost == 21
    driver.start()
    assert Store(ADDRESS).read("SELECT * FROM requests") == []


def test_records_wait_until_there_is_memory_again(tmp_path, monkeypatch):
    monkeypatch.setattr("weft.server.ledger._AGAIN_SECONDS", 0.01)
    store, tries = Store(str(tmp_path / "weft.db")), []
    ledger = Ledger(store)

    class Short:
        def __getattr__(self, name):
            return getattr(connection, name)

        def cursor(self):
            tries.append(1)
            if len(tries) <= 3:
                raise MemoryError
            return connection.cursor()

    connection, store._connection = store._connection, Short()
    ledger.use(use("a"))
    ledger.use(use("b"))
    until(lambda: len(tries) > 3)
    ledger.close()
    assert ledger.lost == 0
    assert store.read("SELECT COUNT(*) FROM requests") == [(2,)]
    store.close()


def test_what_the_database_cannot_hold_is_replaced(driver):
    ledger = Ledger(Store(ADDRESS))
    ledger.use(use("a", end_user="a\0b\ud800"))
    ledger.event("", "refused", "GET /v1/models/\0")
    ledger.close()
    store = Store(ADDRESS)
    assert store.read("SELECT end_user FROM requests") == [("a\ufffdb?",)]
    assert store.read("SELECT detail FROM audit") == [("GET /v1/models/\ufffd",)]
    assert ledger.lost == 0


def test_a_row_that_cannot_be_written_does_not_take_the_others_along(driver, monkeypatch, caplog):
    monkeypatch.setattr("weft.server.ledger._storable", lambda text: text)
    store = Store(ADDRESS)
    ledger = Ledger(store)
    with store._lock:  # so that all of them come in one batch
        for name in ("a", "b\0", "c", "d\0", "e"):
            ledger.use(use("k", end_user=name))
    ledger.close()
    assert store.read("SELECT end_user FROM requests") == [("a",), ("c",), ("e",)]
    assert ledger.lost == 2
    assert sum(record.levelname == "ERROR" for record in caplog.records) <= 2


@pytest.fixture(params=["sqlite", "pretended", "real"])
def place(request, tmp_path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "weft.db")
    if request.param == "pretended":
        request.getfixturevalue("driver")
        return ADDRESS
    return request.getfixturevalue("postgres").address


def test_usage_is_kept_by_day(place, monkeypatch):
    """A month's requests are too many to add up when somebody asks."""
    # At noon, for a test that runs over midnight counts on another day.
    now = time.time() // DAY * DAY + DAY / 2
    monkeypatch.setattr(time, "time", lambda: now)

    def use(at: float, key: str, model: str, tokens: int) -> Use:
        return Use(at, key, None, "/v1/completions", model, 200, tokens, 1, None, 0.1)

    store = Store(place)
    ledger = Ledger(store)
    # 86,400.9 s are the second day, not the third: to cast is to round in PostgreSQL.
    for at in (now, now, now - DAY, now - 40 * DAY, 86_400.9):
        ledger.use(use(at, "a", "m", 10))
    ledger.use(use(now, "b", "m", 5))
    ledger.close()
    days = [(day,) for day in sorted({1, int(now) // DAY - 40, int(now) // DAY - 1, int(now) // DAY})]
    whole = store.read("SELECT * FROM usage_by_day ORDER BY day, key_id")
    assert store.read("SELECT DISTINCT day FROM usage_by_day ORDER BY day") == days
    for _ in range(2):
        ledger = Ledger(store)
        assert store.read("SELECT * FROM usage_by_day ORDER BY day, key_id") == whole
        assert ledger.tokens_today("a") == 22 and ledger.tokens_today("b") == 6
        counts = {days: [row["requests"] for row in ledger.summary(days)] for days in (1, 2, 30, 41)}
        assert counts == {1: [2, 1], 2: [3, 1], 30: [3, 1], 41: [4, 1]}
        ledger.close()
        store.change("DROP TABLE usage_by_day", [()])
        store.close()
        store = Store(place)  # as one that was made before there was this table
    store.close()


def test_a_record_that_is_refused_is_not_counted(place):
    """The sums go with the rows, or not at all."""
    if place == ADDRESS:
        pytest.skip("what it refuses is SQLite's")
    store = Store(place)
    ledger = Ledger(store)
    good = Use(time.time(), "a", None, "/v1/completions", "m", 200, 10, 1, None, 0.1)
    rows = [good, replace(good, route=None), good]
    ledger._keep(Use, [astuple(row) for row in rows])
    assert ledger.lost == 1 and [row["requests"] for row in ledger.summary()] == [2]
    assert store.read("SELECT COUNT(*) FROM requests") == [(2,)]
    ledger.close()
    store.close()


def test_a_client_that_sends_nul_loses_no_record(checkpoint, place):
    store = Store(place)
    keys, ledger = Keys(store), Ledger(store)
    header = {"authorization": f"Bearer {keys.add('ann')[1]}"}
    with running({"tiny": EngineOptions(str(checkpoint), "float32")}, None, keys, ledger) as server:
        for user in ("a\0b", "c"):
            ask = {"prompt": "a", "max_tokens": 2, "user": user}
            assert server.post("/v1/completions", ask, headers=header).status_code == 200
        wrong = {"authorization": "Bearer wrong"}
        assert server.get("/v1/models/%00", headers=wrong).status_code == 401
    ledger.close()
    users = store.read("SELECT end_user FROM requests WHERE end_user IS NOT NULL ORDER BY at")
    assert users == [("a\ufffdb",), ("c",)]
    assert store.read("SELECT detail FROM audit WHERE event = 'refused'") == [("GET /v1/models/\ufffd",)]
    assert ledger.lost == 0
    store.close()


def served(checkpoint, place, stop, start, caplog):
    """A server whose database is away for a while, with an admin's key and another's."""
    store, mine = Store(place), Store(place)
    keys, ledger = Keys(store), Ledger(store)
    header, other = (
        {"authorization": f"Bearer {keys.add(name, scope)[1]}"}
        for name, scope in (("root", "admin"), ("ann", "use"))
    )
    options = {"tiny": EngineOptions(str(checkpoint), "float32")}
    ask = {"prompt": "a", "max_tokens": 2}
    with running(options, None, keys, ledger) as server:
        assert server.post("/v1/completions", ask, headers=other).status_code == 200
        stop()
        answer = server.get("/admin/usage", headers=header)
        assert answer.status_code == 503, answer.text
        assert "database" in answer.json()["error"]["message"]
        # Known keys stay, unknown ones stay outside, and answers are given.
        until(lambda: server.get("/v1/models", headers=other) and "stay as they were" in caplog.text)
        for _ in range(3):
            time.sleep(0.05)
            assert server.post("/v1/completions", ask, headers=other).status_code == 200
        assert server.get("/v1/models").status_code == 401
        start()
        Keys(mine).revoke("ann")
        until(lambda: server.get("/v1/models", headers=other).status_code == 401)
        until(lambda: server.get("/admin/usage", headers=header).status_code == 200)
        until(lambda: _requests(server, header) >= 4)
        assert server.get("/admin/usage", headers=header).json()["lost"] == 0
    ledger.close()
    store.close()
    mine.close()
    told = [record.message for record in caplog.records if "stay as they were" in record.message]
    assert len(told) == 1


def _requests(server, header) -> int:
    rows = server.get("/admin/usage", headers=header).json()["usage"]
    return sum(row["requests"] for row in rows if row["model"] == "tiny")


def test_a_server_outlives_its_database(checkpoint, driver, monkeypatch, caplog):
    monkeypatch.setattr("weft.server.ledger._AGAIN_SECONDS", 0.01)
    monkeypatch.setattr("weft.server.fresh_keys._RELOAD_SECONDS", 0.0)
    served(checkpoint, ADDRESS, driver.stop, driver.start, caplog)


def test_a_server_outlives_a_real_postgresql(checkpoint, postgres, caplog):
    served(checkpoint, postgres.address, postgres.stop, postgres.start, caplog)


def test_a_host_that_vanished_while_it_was_asked_is_noticed(driver):
    """It sends nothing, and the system would wait two hours before it asks whether it is there."""
    Store(ADDRESS)
    assert driver.options["keepalives_idle"] + 2 * driver.options["keepalives_interval"] <= 20
    assert driver.options["keepalives_count"] == 2 and driver.options["tcp_user_timeout"] == 10_000


def test_a_table_that_is_missing_does_not_hold_up_the_other(tmp_path):
    store = Store(str(tmp_path / "weft.db"))
    store.change("DROP TABLE audit", [()])
    ledger = Ledger(store)
    ledger.event("", "refused")
    ledger.use(use("k"))
    until(lambda: ledger.lost == 1 and store.read("SELECT COUNT(*) FROM requests") == [(1,)])
    ledger.close()


def test_a_read_of_keys_that_hangs_is_waited_for_once(tmp_path, monkeypatch):
    keys = Keys(Store(str(tmp_path / "weft.db")))
    monkeypatch.setattr("weft.server.fresh_keys._RELOAD_SECONDS", -1.0)
    monkeypatch.setattr("weft.server.fresh_keys._WAIT_SECONDS", 0.01)
    waited = []
    wait = asyncio.wait

    def counting(tasks, timeout):
        waited.append(timeout)
        return wait(tasks, timeout=timeout)

    monkeypatch.setattr("weft.server.fresh_keys.asyncio.wait", counting)
    released = threading.Event()
    monkeypatch.setattr(keys, "reload", released.wait)
    fresh = FreshKeys(keys)

    async def ask():
        for _ in range(4):
            assert await fresh.now() is keys
        released.set()

    asyncio.run(ask())
    assert len(waited) == 1


def test_keys_are_read_while_all_threads_encode(tmp_path, monkeypatch):
    place = str(tmp_path / "weft.db")
    mine, other = Keys(Store(place)), Keys(Store(place))
    _, text = other.add("ann")
    monkeypatch.setattr("weft.server.fresh_keys._RELOAD_SECONDS", -1.0)
    monkeypatch.setattr("weft.server.fresh_keys._WAIT_SECONDS", 30.0)
    fresh, released = FreshKeys(mine), threading.Event()

    async def ask():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        busy = asyncio.ensure_future(asyncio.to_thread(released.wait, 10))
        await asyncio.sleep(0)
        known = (await fresh.now()).recognise(text)
        assert not busy.done() and known is not None
        released.set()
        await busy

    asyncio.run(ask())


def test_a_full_queue_behind_a_statement_that_hangs_holds_up_no_end(driver, monkeypatch):
    monkeypatch.setattr("weft.server.ledger._END_SECONDS", 0.05)
    store, asked, released = Store(ADDRESS), threading.Event(), threading.Event()

    def hang(changes):
        asked.set()
        assert released.wait(30)

    ledger = Ledger(store, pending=2)
    monkeypatch.setattr(store, "change_all", hang)
    ledger.event("k", "refused")
    assert asked.wait(30)
    for _ in range(3):
        ledger.event("k", "refused")
    assert ledger.lost == 1
    ending = threading.Thread(target=ledger.close, daemon=True)
    ending.start()
    ending.join(10)
    ended = not ending.is_alive()
    released.set()
    ending.join(30)
    assert ended


def test_a_statement_that_hangs_holds_up_no_other_thread_and_no_end(driver, monkeypatch):
    monkeypatch.setattr(store_module, "_BUSY", 0.05)
    store, asked, released = Store(ADDRESS), threading.Event(), threading.Event()

    def hang(*arguments):
        asked.set()
        assert released.wait(30)

    monkeypatch.setattr(driver.connections[0], "_use", hang)
    thread = threading.Thread(target=store.change, args=("DELETE FROM requests", [()]), daemon=True)
    thread.start()
    assert asked.wait(30)
    ended = []

    def end():
        with pytest.raises(Unavailable, match="does not answer"):
            store.read("SELECT 1")
        store.close()
        ended.append(True)

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    ending.join(10)
    assert ended and thread.is_alive()
    released.set()
    thread.join(30)


def test_reads_that_hang_hold_up_no_end_of_the_process(tmp_path):
    script = """
import asyncio, sys, threading
from weft.server import fresh_keys, ledger
from weft.server.keys import Keys
from weft.server.store import Store

fresh_keys._RELOAD_SECONDS, fresh_keys._WAIT_SECONDS, ledger._READ_SECONDS = -1.0, 0.01, 0.01
store = Store(sys.argv[1])
keys, usage, hanging = Keys(store), ledger.Ledger(store), []
keys.reload = usage.summary = lambda *days: hanging.append(1) or threading.Event().wait()

async def ask():
    await fresh_keys.FreshKeys(keys).now()
    try:
        await usage.asked(30)
    except TimeoutError:
        print(len(hanging))

asyncio.run(ask())
usage.close()
"""
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "weft.db")], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "2\n", "")
