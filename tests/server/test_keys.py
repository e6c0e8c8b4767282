"""Keys, scopes, quotas, fair shares, and what is written down."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from servers import running, until

from weft.cli.main import main
from weft.core.errors import ResourceError, UsageError
from weft.server.engine import EngineOptions
from weft.server.keys import Keys
from weft.server.ledger import Ledger
from weft.server.limits import Limits
from weft.server.store import Store

ASK = {"prompt": "今天", "max_tokens": 2}


@pytest.fixture(scope="module")
def guarded(checkpoint, tmp_path_factory):
    """A server with keys: (server, keys by name, store)."""
    store = Store(str(tmp_path_factory.mktemp("store") / "weft.db"))
    keys, ledger = Keys(store), Ledger(store)
    texts = {name: keys.add(name, scope)[1] for name, scope in (("ann", "use"), ("root", "admin"))}
    texts["slow"] = keys.add("slow", "use", requests_per_minute=2)[1]
    texts["small"] = keys.add("small", "use", tokens_per_day=10)[1]
    options = {"tiny": EngineOptions(str(checkpoint), "float32", max_sequences=2)}
    with running(options, Limits(waiting=2), keys, ledger) as server:
        yield server, texts, store
    ledger.close()


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def test_every_route_is_closed_without_a_key(guarded):
    server, _, _ = guarded
    with httpx.Client(base_url=server.address) as http:
        # /openapi.json tells all routes, with a key.
        paths = server.get("/openapi.json", headers=bearer(guarded[1]["ann"])).json()["paths"]
        assert len(paths) > 10
        for path, methods in paths.items():
            for method in methods:
                answer = http.request(method, path.replace("{", "").replace("}", ""), json={})
                expected = (200,) if path == "/health" else (401,)
                assert answer.status_code in expected, (method, path, answer.text)
        for path in (
            "/openapi.json",
            "/nothing",
            "/page/../metrics",
            "/HEALTH",
            "/health/",
            "/v1/models/",
        ):
            assert http.get(path).status_code == 401, path
        for path in ("/", "/page/app.js", "/page/style.css"):
            assert http.get(path).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Basic abc",
        "Bearer weft-000000000000-" + "a" * 43,
        "Bearer weft-" + "x" * 10_000,
        "Bearer ключ",
        "Bearer '; DROP TABLE keys; --",
    ],
)
def test_wrong_keys(guarded, header):
    server, _, _ = guarded
    answer = server.post("/v1/completions", ASK, headers={"authorization": header.encode()})
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"


def test_a_right_id_with_a_wrong_secret_is_wrong(guarded):
    server, texts, _ = guarded
    wrong = texts["ann"][:-1] + ("A" if texts["ann"][-1] != "A" else "B")
    assert server.get("/v1/models", headers=bearer(wrong)).status_code == 401


def test_scopes(guarded):
    server, texts, _ = guarded
    for path in ("/metrics", "/admin/usage"):
        assert server.get(path, headers=bearer(texts["ann"])).status_code == 403
        assert server.get(path, headers=bearer(texts["root"])).status_code == 200
    assert server.post("/v1/completions", ASK, headers=bearer(texts["root"])).status_code == 200


def test_requests_a_minute(guarded):
    server, texts, _ = guarded
    answers = [server.post("/v1/completions", ASK, headers=bearer(texts["slow"])) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 0 < int(answers[2].headers["retry-after"]) <= 30
    assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"


def test_tokens_a_day(guarded):
    server, texts, _ = guarded
    statuses = []
    for _ in range(6):
        answer = server.post("/v1/completions", ASK, headers=bearer(texts["small"]))
        statuses.append(answer.status_code)
    assert statuses[0] == 200 and statuses[-1] == 429
    assert answer.json()["error"]["code"] == "quota_exceeded"
    assert int(answer.headers["retry-after"]) <= 86_400


def test_one_key_cannot_take_all_places(guarded, monkeypatch):
    server, texts, _ = guarded
    # Two at work and two waiting are four places; half of them may be one key's.
    answer = server.post("/v1/completions", {**ASK, "n": 3}, headers=bearer(texts["ann"]))
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "n"
    assert "3 answers are more than the 2 that one key may have" in answer.json()["error"]["message"]
    # It is stopped, so that its first answer is still under way when the others are asked for.
    os.kill(server.engine().pid, signal.SIGSTOP)
    try:
        thread = threading.Thread(
            target=httpx.post,
            args=(f"{server.address}/v1/completions",),
            kwargs={"json": ASK, "headers": bearer(texts["ann"]), "timeout": 60},
        )
        thread.start()
        until(lambda: server.engine().active == 1)
        # What has no place is refused before time is spent on its text.
        monkeypatch.setattr(server.models.find(None), "encoded", None)
        answer = server.post("/v1/completions", {**ASK, "n": 2}, headers=bearer(texts["ann"]))
    finally:
        os.kill(server.engine().pid, signal.SIGCONT)
        thread.join()
    assert answer.status_code == 429 and "under way" in answer.json()["error"]["message"]


def test_usage_and_audit_are_written_and_secrets_are_not(guarded):
    server, texts, store = guarded
    ask = {**ASK, "user": "用户-1"}
    usage = server.post("/v1/completions", ask, headers=bearer(texts["ann"])).json()["usage"]
    rows = lambda: store.read("SELECT * FROM requests WHERE end_user = ?", ("用户-1",))  # noqa: E731
    until(rows)
    ((_, key_id, _, route, model, status, prompt, completion, first, seconds),) = rows()
    assert key_id == texts["ann"].split("-")[1]
    assert (route, model, status) == ("/v1/completions", "tiny", 200)
    assert (prompt, completion) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert 0 <= first <= seconds
    listed = server.get("/admin/usage", headers=bearer(texts["root"])).json()["usage"]
    assert any(row["key"] == key_id and row["requests"] >= 1 for row in listed)
    server.get("/metrics", headers=bearer(texts["ann"]))
    until(lambda: store.read("SELECT event FROM audit WHERE key_id = ? AND event = 'forbidden'", (key_id,)))
    content = Path(store.place).read_bytes()
    assert not any(text.split("-", 2)[2].encode() in content for text in texts.values())
    assert Path(store.place).stat().st_mode & 0o077 == 0


def test_a_revoked_key_ends_and_the_last_one_does_not_open_the_door(checkpoint, tmp_path):
    place = str(tmp_path / "weft.db")
    store = Store(place)
    with running({"tiny": EngineOptions(str(checkpoint), "float32")}, None, Keys(store)) as server:
        assert server.get("/v1/models").status_code == 200  # no keys yet
        made = CliRunner().invoke(main, ["key", "add", "amy", "--store", place])
        assert made.exit_code == 0
        text = made.output.strip()
        until(lambda: server.get("/v1/models").status_code == 401)
        assert server.get("/v1/models", headers=bearer(text)).status_code == 200
        assert CliRunner().invoke(main, ["key", "revoke", "amy", "--store", place]).exit_code == 0
        until(lambda: server.get("/v1/models", headers=bearer(text)).status_code == 401)
        assert server.get("/v1/models").status_code == 401
    listed = CliRunner().invoke(main, ["key", "list", "--store", place])
    assert "amy" in listed.output and "revoked" in listed.output and text not in listed.output


def test_mistakes_are_one_sentence(tmp_path):
    place = str(tmp_path / "weft.db")
    keys = Keys(Store(place))
    with pytest.raises(UsageError, match="did you mean admin"):
        keys.add("x", "admn")
    with pytest.raises(UsageError, match="at least 1"):
        keys.add("x", tokens_per_day=0)
    with pytest.raises(UsageError, match="is no key in use"):
        keys.revoke("x")
    keys.add("twice")
    keys.add("twice")
    with pytest.raises(UsageError, match="give the id"):
        keys.revoke("twice")
    with pytest.raises(ResourceError, match="cannot be opened"):
        Store(str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "\udcff"], "a line of text that can be shown"),
        (["add", "a\nb"], "a line of text that can be shown"),
        (["add", " "], "a line of text that can be shown"),
        (["add", "a", "--requests-per-minute", "1" + "0" * 20], "cannot be stored"),
        (["list"], "There is no store"),
        (["revoke", "a"], "There is no store"),
    ],
)
def test_keys_that_cannot_be_and_stores_that_are_not(tmp_path, arguments, said):
    place = tmp_path / "keys.db"
    ended = CliRunner().invoke(main, ["key", *arguments, "--store", str(place)])
    assert ended.exit_code == 2 and said in ended.stderr and ended.stderr.count("\n") == 1
    assert not place.exists() or not Keys(Store(str(place))).any


def test_a_table_that_was_emptied_does_not_open_the_door(tmp_path):
    store = Store(str(tmp_path / "weft.db"))
    keys = Keys(store)
    assert not keys.any
    keys.add("x")
    store.change("DELETE FROM keys", [()])
    keys.reload()
    assert keys.any and not keys.all()
    store.close()


def test_a_name_that_sqlite_takes_for_memory_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["key", "add", "a", "--store", ":memory:"]).exit_code == 0
    listed = CliRunner().invoke(main, ["key", "list", "--store", ":memory:"])
    assert listed.exit_code == 0 and " a " in listed.stdout


@pytest.mark.parametrize("place", ["", "mysql://x", "sqlite:///a.db"])
def test_a_store_that_is_no_file_and_no_postgresql_is_refused(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in (["key", "add", "a"], ["serve", "nowhere"]):
        ended = CliRunner().invoke(main, [*arguments, "--store", place])
        assert ended.exit_code == 2 and "is no file" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_the_count_of_the_day_survives_a_restart(tmp_path):
    from weft.server.ledger import Use

    store = Store(str(tmp_path / "weft.db"))
    ledger = Ledger(store)
    ledger.use(Use(time.time(), "a", None, "/", "m", 200, 3, 4, None, 0.1))
    ledger.use(Use(time.time() - 200_000, "a", None, "/", "m", 200, 100, 100, None, 0.1))
    ledger.close()
    assert Ledger(store).tokens_today("a") == 7


def test_postgresql_does_the_same(postgres):
    from weft.server.ledger import Use

    store = Store(postgres.address)
    keys = Keys(store)
    key, text = keys.add("安", "admin", tokens_per_day=5)
    assert Keys(store).recognise(text) == key
    keys.revoke(key.id)
    other = Store(postgres.address)
    assert Keys(other).recognise(text) is None
    other.close()
    ledger = Ledger(store)
    ledger.use(Use(time.time(), key.id, "用户", "/", "m", 200, 3, 4, None, 0.1))
    ledger.event(key.id, "made")
    ledger.close()
    assert Ledger(store).tokens_today(key.id) == 7
    assert ledger.summary()[0]["prompt_tokens"] == 3
    store.close()


def test_postgresql_without_its_driver_or_server_is_one_sentence():
    with pytest.raises(ResourceError, match=r"needs a driver|cannot be opened"):
        Store("postgresql://nobody@127.0.0.1:1/none")
