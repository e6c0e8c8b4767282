"""Tiny models and the servers that several files of tests share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import postgres as postgresql
import pytest
from servers import Server, running, until

from weft.checkpoint.huggingface import save_model
from weft.server.engine import EngineOptions, Patience
from weft.server.limits import Limits


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    # The models here are tiny, and threads that wait for each other suffer on a busy machine.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, tiny_decoder, tiny_tokenizer) -> Path:
    """A model of 128 positions."""
    folder = tmp_path_factory.mktemp("served") / "tiny"
    save_model(folder, tiny_decoder(), tiny_tokenizer)
    return folder


@pytest.fixture(scope="session")
def long_checkpoint(tmp_path_factory, tiny_decoder, tiny_tokenizer) -> Path:
    """A model of 8,000 positions, for answers that do not end by themselves."""
    folder = tmp_path_factory.mktemp("served") / "long"
    save_model(folder, tiny_decoder(max_position_embeddings=8000), tiny_tokenizer)
    return folder


@pytest.fixture(scope="session")
def server(checkpoint) -> Iterator[Server]:
    """One server for all tests that leave it as it is."""
    with running({"tiny": EngineOptions(str(checkpoint), "float32", max_sequences=4)}) as found:
        until(lambda: found.get("/health").status_code == 200)
        yield found


@pytest.fixture
def client(server) -> Iterator[Server]:
    yield server
    until(server.idle)


@pytest.fixture(scope="module")
def endless(long_checkpoint) -> Iterator[Server]:
    """A server whose answers are long; two at once and one in the queue."""
    options = EngineOptions(str(long_checkpoint), "float32", max_sequences=2)
    patience = Patience(backoff=0.05)
    with running({"tiny": options}, Limits(waiting=1), patience=patience) as found:
        yield found


@pytest.fixture
def postgres() -> Iterator[postgresql.Postgres]:
    # The folders of tests are closed to PostgreSQL's account.
    with tempfile.TemporaryDirectory() as home:
        yield from postgresql.running(home)
