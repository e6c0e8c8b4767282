"""LoRA adapters over HTTP: asked for by name, loaded and unloaded while the server serves."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path

import pytest
from servers import running, until

from lora import write
from weft.cli.serve import _adapters
from weft.core.errors import UsageError
from weft.server.engine import EngineOptions, Patience

ASKED = {"prompt": list(range(60, 80)), "max_tokens": 10, "temperature": 0, "ignore_eos": True, "logprobs": 0}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    write(folder / "one", 1)
    write(folder / "two", 2)
    (folder / "broken").mkdir()
    (folder / "round").symlink_to(folder / "round")
    return folder


@pytest.fixture(scope="module")
def adapted(checkpoint, root):
    options = EngineOptions(str(checkpoint), "float32", adapters={"one": str(root / "one")})
    with running({"tiny": options}, adapter_root=root, patience=Patience(backoff=0.05)) as found:
        yield found


def answer(server, model):
    reply = server.post("/v1/completions", {"model": model, **ASKED})
    assert reply.status_code == 200, reply.text
    assert reply.json()["model"] == model
    return reply.json()["choices"][0]["logprobs"]["token_logprobs"]


def test_an_adapter_is_a_model_with_a_parent(adapted):
    listed = {one["id"]: one["parent"] for one in adapted.get("/v1/models").json()["data"]}
    assert listed["one"] == "tiny"
    assert listed["tiny"] is None
    assert adapted.get("/v1/models/one").json()["parent"] == "tiny"
    assert answer(adapted, "one") != answer(adapted, "tiny")


def test_adapters_come_and_go_and_outlive_the_engine(adapted):
    assert adapted.post("/v1/completions", {"model": "two", **ASKED}).status_code == 404
    loaded = adapted.post("/v1/load_lora_adapter", {"lora_name": "two", "lora_path": "two"})
    assert loaded.status_code == 200, loaded.text
    before = answer(adapted, "two")
    assert before not in (answer(adapted, "one"), answer(adapted, "tiny"))
    engine = adapted.engine()
    os.kill(engine.pid, signal.SIGKILL)
    until(lambda: engine.restarts > 0 and engine.up)
    assert answer(adapted, "two") == before
    assert adapted.post("/v1/unload_lora_adapter", {"lora_name": "two"}).status_code == 200
    assert adapted.post("/v1/completions", {"model": "two", **ASKED}).status_code == 404
    assert adapted.post("/v1/unload_lora_adapter", {"lora_name": "two"}).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"lora_name": "x", "lora_path": "../elsewhere"}, 403, "not below"),
        ({"lora_name": "x", "lora_path": "/etc"}, 403, "not below"),
        ({"lora_name": "one", "lora_path": "two"}, 400, "in use"),
        ({"lora_name": "tiny", "lora_path": "two"}, 400, "in use"),
        ({"lora_name": "x", "lora_path": "nowhere"}, 400, "no adapter at"),
        ({"lora_name": "x", "lora_path": "x" * 4000}, 400, "can be no folder"),
        ({"lora_name": "x", "lora_path": "a\0b"}, 400, "can be no folder"),
        ({"lora_name": "x", "lora_path": "round"}, 400, "can be no folder"),
        ({"lora_name": "x", "lora_path": "broken"}, 400, "adapter_config.json"),
        ({"lora_name": "x", "lora_path": "two", "model": "none"}, 404, "no model"),
        ({"lora_name": "", "lora_path": "two"}, 400, "lora_name"),
        ({"lora_name": "x", "lora_path": "two", "load_inplace": True}, 400, "load_inplace"),
    ],
)
def test_what_cannot_be_loaded_is_told(adapted, body, status, text):
    process = adapted.engine().pid
    reply = adapted.post("/v1/load_lora_adapter", body)
    assert reply.status_code == status, reply.text
    assert text in reply.text and adapted.engine().pid == process


def test_the_name_of_an_adapter_unloads_no_model(adapted):
    reply = adapted.post("/admin/models/one/unload", None)
    assert reply.status_code == 400 and "unload_lora_adapter" in reply.text and adapted.engine().up


@pytest.mark.parametrize("name", ["removed", "closed"])
def test_a_model_comes_back_without_an_adapter_whose_folder_is_gone(adapted, root, monkeypatch, name):
    write(root / name, 3)
    loaded = adapted.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": name})
    assert loaded.status_code == 200
    shutil.rmtree(root / name)
    is_folder = Path.is_dir

    def refused(path):
        if path.name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return is_folder(path)

    monkeypatch.setattr(Path, "is_dir", refused)
    engine = adapted.engine()
    before = engine.restarts
    os.kill(engine.pid, signal.SIGKILL)
    until(lambda: engine.restarts > before and engine.up)
    answer(adapted, "one")
    assert adapted.post("/v1/completions", {"model": name, **ASKED}).status_code == 404


def test_vectors_do_not_come_from_adapters(adapted):
    reply = adapted.post("/v1/embeddings", {"model": "one", "input": "好"})
    assert reply.status_code == 400
    assert "whole models" in reply.text


def test_without_a_root_nothing_is_loaded_over_http(client):
    reply = client.post("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "two"})
    assert reply.status_code == 403
    assert "--adapter-root" in reply.text


def test_adapters_on_the_command_line():
    named = {"a": "x", "b": "y"}
    assert _adapters(("s=/t", "b:r=/u"), named) == {"a": {"s": "/t"}, "b": {"r": "/u"}}
    for wrong in (("s",), ("=x",), ("c:s=x",), ("a=x",), ("s=1", "s=2")):
        with pytest.raises(UsageError):
            _adapters(wrong, named)
