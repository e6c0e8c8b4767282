"""What a hostile client may try, one test each; the fuzzer and test_connections.py have the rest.

Templates that loop or escape are in test_tools.py; pickles and ``auto_map`` are refused by the tests of
checkpoints too, and here once more through the server; GGUF is never read.
"""

from __future__ import annotations

import hmac
import json
import pickle
import socket
import threading

import pytest
from servers import ENDLESS, running, until

from weft.engine.repetition import expanded
from weft.server import keys as keys_module
from weft.server.engine import EngineOptions
from weft.server.keys import Keys
from weft.server.store import Store

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


def refused(answer, *words: str) -> None:
    assert answer.status_code == 400, answer.text
    message = answer.json()["error"]["message"]
    assert all(word in message for word in words), message


def test_huge_n_and_huge_logprobs_are_refused(client):
    refused(client.post("/v1/completions", {"prompt": "a", "n": 10**18}), "allowed")
    refused(client.post("/v1/completions", {"prompt": ["a"] * 20, "n": 20}), "400 answers")
    refused(client.post("/v1/completions", {"prompt": "a", "best_of": 10**9}), "allowed")
    refused(client.post("/v1/completions", {"prompt": "a", "logprobs": 10**9}), "logprobs")
    refused(client.post("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 10**9}))
    refused(client.post("/v1/completions", {"prompt": "a", "logit_bias": {str(i): 1 for i in range(5000)}}))
    refused(client.post("/v1/embeddings", {"input": ["a"] * 10_000}), "allowed")
    refused(client.post("/v1/rerank", {"query": "a", "documents": ["a"] * 10_000}), "allowed")


@pytest.mark.parametrize(
    "form",
    [
        {"type": "regex", "regex": "(a+)+" * 50 + "$"},
        {"type": "regex", "regex": "(((a{1000}){1000}){1000}){1000}"},
        {"type": "regex", "regex": "a{99999999999999999999}"},
        {"type": "grammar", "grammar": "start: /((a{1000}){1000}){1000}/"},
        {
            "type": "json_schema",
            "json_schema": {"schema": {"type": "string", "pattern": "((a{999}){999}){999}"}},
        },
        {"type": "regex", "regex": "("},
        {"type": "regex", "regex": "x" * 100_000},
        {"type": "grammar", "grammar": "start: start start | start"},
        {"type": "grammar", "grammar": "start: " + "(" * 5000},
        {"type": "json_schema", "json_schema": {"schema": {"$ref": "http://127.0.0.1:1/x"}}},
        {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}},
        {"type": "json_schema", "json_schema": {"schema": {"minLength": 10**9, "type": "string"}}},
        {"type": "json_schema", "json_schema": {"schema": {"pattern": "(a*)*" * 30, "type": "string"}}},
        {"type": "json_schema", "json_schema": {"schema": {"enum": ["x" * 200_000]}}},
        {"type": "json_schema", "json_schema": {"schema": {"type": "integer", "multipleOf": 1234567}}},
        {"type": "choice", "choice": ["y" * 200_000]},
        {
            "type": "json_schema",
            "json_schema": {
                "schema": {"allOf": [{"type": "string", "pattern": f".*{i}.*"} for i in range(20)]}
            },
        },
        {
            "type": "json_schema",
            "json_schema": {"schema": {"patternProperties": {f"^.*{i:04}$": {} for i in range(600)}}},
        },
    ],
)
def test_hostile_regexes_and_schemas_hold_nobody_up(client, form):
    """Refused, or answered within the tokens asked for; others are served meanwhile, by the same process."""
    pid = client.engine().pid
    answer = client.post("/v1/chat/completions", {**CHAT, "response_format": form})
    assert answer.status_code in (200, 400), answer.text
    body = json.dumps({**CHAT, "response_format": {"type": "json_schema", "json_schema": {"schema": {}}}})
    body = body.replace('"schema": {}', f'"schema": {_nested(3000)}')
    nested = client.http.post(
        "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert nested.status_code == 400
    assert client.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status_code == 200
    assert client.engine().pid == pid


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("abc", 3),
        ("a{5}", 5),
        ("(ab){3}", 12),
        ("((a{9}){9}){9}", 909),
        ("a{2,10}", 10),
        ("{", 1),
        ("a{,4}", 4),
    ],
)
def test_repetitions_written_out(pattern, size):
    assert expanded(pattern) == size


def _nested(depth: int) -> str:
    return '{"items": ' * depth + "{}" + "}" * depth


def test_negative_and_overflowing_numbers(client):
    for field in ("max_tokens", "n", "temperature", "top_p", "top_k", "min_p", "min_tokens"):
        for value in (-1, -(10**30), 10**30, 1e308 * 10):
            body = json.dumps({"prompt": "a", field: value})
            answer = client.http.post(
                "/v1/completions", content=body, headers={"content-type": "application/json"}
            )
            # Whatever the number of likeliest tokens to keep, it is at most all of them.
            assert answer.status_code == 400, (field, value, answer.text)
    refused(client.post("/v1/completions", {"prompt": [2**63]}))
    refused(client.post("/detokenize", {"tokens": [-1]}))
    refused(client.post("/detokenize", {"tokens": [2**70]}))


def test_empty_prompts(client):
    assert client.post("/v1/completions", {"prompt": "", "max_tokens": 2}).status_code == 200
    for prompt in ([], [[]], [[5], []]):
        refused(client.post("/v1/completions", {"prompt": prompt}))
    refused(client.post("/v1/embeddings", {"input": []}))
    refused(client.post("/v1/chat/completions", {"messages": []}))
    assert (
        client.post(
            "/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": ""}]}
        ).status_code
        == 200
    )


def test_pickles_and_foreign_code_are_never_loaded(tmp_path, checkpoint):
    """A checkpoint that would run code is refused in one sentence, and its code has not run."""
    import asyncio
    import shutil

    from weft.core.errors import WeftError
    from weft.server.models import Models

    mark = tmp_path / "ran"
    pickled = shutil.copytree(checkpoint, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps(_Touch(str(mark))))
    mapped = shutil.copytree(checkpoint, tmp_path / "mapped")
    config = json.loads((mapped / "config.json").read_text())
    (mapped / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    (mapped / "evil.py").write_text(f"open({str(mark)!r}, 'w')")
    gguf = tmp_path / "gguf"
    gguf.mkdir()
    (gguf / "model.gguf").write_bytes(b"GGUF" + b"\xff" * 1000)

    async def start(folder) -> None:
        models = Models({"x": EngineOptions(str(folder))})
        try:
            await models.start()
        finally:
            await models.stop()

    for folder in (pickled, mapped, gguf):
        with pytest.raises(WeftError) as caught:
            asyncio.run(start(folder))
        assert "\n" not in str(caught.value)
    assert not mark.exists()


class _Touch:
    def __init__(self, path: str):
        self._path = path

    def __reduce__(self):
        return (open, (self._path, "w"))


def test_it_fetches_no_address(client):
    """Whoever names an address in a request gets 400, and nobody calls there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.3)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        part = {"type": "image_url", "image_url": {"url": url}}
        refused(client.post("/v1/chat/completions", {"messages": [{"role": "user", "content": [part]}]}))
        schema = {"type": "json_schema", "json_schema": {"schema": {"$ref": url}}}
        client.post("/v1/chat/completions", {**CHAT, "response_format": schema})
        client.post("/v1/completions", {"prompt": url, "max_tokens": 2})
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_wrong_key_takes_the_same_steps_as_a_right_one(tmp_path, monkeypatch):
    """Whatever is wrong, one digest is made and one comparison in constant time."""
    keys = Keys(Store(str(tmp_path / "weft.db")))
    _, text = keys.add("a")
    steps = []
    digest, compare = keys_module._digest, hmac.compare_digest
    monkeypatch.setattr(keys_module, "_digest", lambda *parts: steps.append("digest") or digest(*parts))
    monkeypatch.setattr(hmac, "compare_digest", lambda *parts: steps.append("compare") or compare(*parts))
    presented = (text, text[:-1] + "!", text[:-1] + "x", "weft-000000000000-" + "a" * 43, "", "x" * 10_000)
    for one in presented:
        steps.clear()
        found = keys.recognise(one)
        assert (found is not None) == (one == text)
        assert steps == ["digest", "compare"]


def test_the_cache_of_one_key_is_not_seen_by_another(checkpoint, tmp_path):
    """A prompt that is answered faster because somebody else sent it would tell that they did."""
    keys = Keys(Store(str(tmp_path / "weft.db")))
    texts = [keys.add(name)[1] for name in "ab"]
    with running({"tiny": EngineOptions(str(checkpoint), "float32")}, None, keys) as server:
        if "prefix_hits" not in server.engine().stats:
            pytest.skip("the engine has no prefix cache yet")
        body = {"prompt": list(range(5, 105)), "max_tokens": 2}

        def hits(text: str) -> int:
            before = server.engine().stats["prefix_hits"]
            header = {"authorization": f"Bearer {text}"}
            assert server.post("/v1/completions", body, headers=header).status_code == 200
            return server.engine().stats["prefix_hits"] - before

        assert hits(texts[0]) == 0
        assert hits(texts[1]) == 0
        assert hits(texts[0]) > 0


def test_many_that_vanish_at_once_leave_nothing(endless):
    body = json.dumps({**ENDLESS, "stream": True}).encode()
    request = (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )

    def vanish() -> None:
        with socket.create_connection(("127.0.0.1", endless.port)) as connection:
            connection.sendall(request)
            connection.recv(100)

    for _ in range(5):
        threads = [threading.Thread(target=vanish) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    until(endless.idle)
    assert endless.engine().restarts == 0
