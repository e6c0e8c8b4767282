"""Sources that are no files here: a server that the test starts, and standard input."""

import functools
import gzip
import http.server
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weft.core.errors import DataError, ResourceError
from weft.core.hardware import usable_cores
from weft.data import addresses, sources, standard_input
from weft.data.addresses import is_address, open_address
from weft.data.config import ReadConfig
from weft.data.steps.read import read

ZH = "春眠不觉晓，处处闻啼鸟。"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    if usable_cores() < 2:
        pytest.skip("the data engine reads addresses with two cores at least")
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def texts(source: str) -> list[str | None]:
    config = ReadConfig()
    table = read(sources.find([source], config), config).to_arrow().sort_by("source")
    return [row["reason"] or row["text"] for row in table.to_pylist()]


def test_files_behind_an_address(server: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(ZH, encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": ZH}).encode()))
    pq.write_table(pa.table({"text": [ZH, "two"]}), tmp_path / "c.parquet")
    (tmp_path / "d.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert texts(f"{server}/a.txt") == [ZH]
    assert texts(f"{server}/b.jsonl.gz") == [ZH]
    assert texts(f"{server}/c.parquet") == [ZH, "two"]
    assert texts(f"{server}/d.jsonl") == ["one", "two"]
    [found] = sources.find([f"{server}/a.txt"], ReadConfig())
    assert found.source == f"{server}/a.txt" and found.bytes == len(ZH.encode())


def test_an_address_without_a_file_is_one_sentence(server: str, tmp_path: Path) -> None:
    for source, words in (
        (f"{server}/nothing.txt", "There is no file http"),
        ("http://127.0.0.1:9/a.txt", "cannot be listed .*refused"),
        ("ftp://example.org/a.txt", "no address that can be read"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            sources.find([source], ReadConfig())
        assert "\n" not in str(caught.value)


def test_a_file_that_goes_away_is_unreadable(server: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    config = ReadConfig()
    listing = sources.find([f"{server}/a.txt"], config)
    (tmp_path / "a.txt").unlink()
    [row] = read(listing, config).to_arrow().to_pylist()
    assert row["reason"] == "unreadable" and row["value"]
    with pytest.raises(OSError):
        open_address("http://127.0.0.1:9/a.txt")


def test_addresses_are_told_from_paths() -> None:
    for source in ("s3://bucket/x", "https://a/b", "hf://datasets/a/b"):
        assert is_address(source)
    for path in ("a/b", "C:\\x", "-", "ftp://x"):
        assert not is_address(path)


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (ZH.encode("gbk"), "stdin.txt", [ZH]),
        (b'{"text": "one"}\n{"text": "two"}\n', "stdin.jsonl", ["one", "two"]),
        (gzip.compress(b'{"text": "one"}\n', mtime=0), "stdin.jsonl.gz", ["one"]),
        (pa.compress(ZH.encode(), codec="zstd", asbytes=True), "stdin.txt.zst", [ZH]),
    ],
)
def test_standard_input(
    monkeypatch: pytest.MonkeyPatch, content: bytes, name: str, expected: list[str]
) -> None:
    def given() -> sources.Found:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        [found] = sources.find(["-"], ReadConfig())
        return found

    first, second = given(), given()
    assert first.source == name and sources.fingerprint([first]) == sources.fingerprint([second])
    table = read([first], ReadConfig()).to_arrow().sort_by("source")
    assert table.column("text").to_pylist() == expected


def test_nothing_on_standard_input_is_one_sentence() -> None:
    with pytest.raises(DataError, match="Nothing came in on standard input"):
        standard_input.spool(io.BytesIO(b""))


def test_one_processor_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine would wait for itself for ever."""
    monkeypatch.setattr(addresses, "usable_cores", lambda: 1)
    with pytest.raises(ResourceError, match="cannot be read with one processor"):
        sources.find(["http://127.0.0.1:9/a.txt"], ReadConfig())
