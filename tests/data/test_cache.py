"""Shards behind HTTP and file systems: the same batches, bounded caches, and honest errors."""

import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs

from weft.core.errors import ConfigError, DataError, ResourceError
from weft.data import loader as loading
from weft.data import ranges
from weft.data.cache import BlockCache
from weft.data.config import StreamConfig
from weft.data.loader import Loader
from weft.data.ranges import ArrowFile, HttpFile, open_range


class Server(http.server.SimpleHTTPRequestHandler):
    """Files of a folder with single byte ranges; ``failures`` answers are 503 first."""

    failures = 0
    ranges = True
    asked: list[str]

    def do_GET(self) -> None:
        if type(self).failures:
            type(self).failures -= 1
            self.send_error(503)
            return
        file = Path(self.translate_path(self.path))
        wanted = self.headers.get("Range")
        if not file.is_file() or not wanted or not type(self).ranges:
            super().do_GET()
            return
        first, last = map(int, wanted.removeprefix("bytes=").split("-"))
        content = file.read_bytes()[first : last + 1]
        type(self).asked.append(f"{file.name} {first}")
        self.send_response(206)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def served(shards_folder: Path, tmp_path: Path) -> Iterator[tuple[str, type[Server], Path]]:
    """(address, handler, folder) of a server on a copy of the shards."""
    folder = tmp_path / "served"
    shutil.copytree(shards_folder, folder)
    handler = type("Handler", (Server,), {"asked": []})
    make = lambda *arguments: handler(*arguments, directory=str(folder))  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), make) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler, folder
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_PAUSE", 0.001)


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_remote_rows_are_the_local_rows(
    served: tuple[str, type[Server], Path], shards_folder: Path, tmp_path: Path, scheme: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    url = served[0] if scheme == "http" else f"file://{served[2]}"
    cache = BlockCache(tmp_path / "cache", 4096, 512, 2048)
    remote = Loader(url, "train", 64, 4, seed=3, cache=cache)
    local = Loader(shards_folder, "train", 64, 4, seed=3)
    for ours, theirs in zip(remote.sequential(), local.sequential(), strict=True):
        for name in ("tokens", "targets", "document_start"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name))
    epoch = [bytes(row) for g in range(remote.rows) for row in remote.gather(range(g, g + 1)).tokens]
    assert sorted(epoch) == sorted(bytes(row) for batch in local.sequential(1) for row in batch.tokens)
    assert sum(file.stat().st_size for file in (tmp_path / "cache").glob("*.block")) <= 4096
    again = Loader(url, "train", 64, 4, seed=3, cache=BlockCache(tmp_path / "cache", 4096, 512, 2048))
    assert np.array_equal(again.batch(17).tokens, remote.batch(17).tokens)


def test_small_windows_read_each_block_about_once(
    served: tuple[str, type[Server], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "WINDOW_TOKENS", 1024)
    cache = BlockCache(tmp_path / "cache", 3 * 4 * 2048, 1024, 4096)
    remote = Loader(served[0], "train", 8, 4, seed=3, cache=cache)
    assert remote.padding < 0.01
    for step in range(remote.rows // 4):
        remote.batch(step)
    blocks = -(-remote.tokens_per_epoch * 2 // 1024)
    assert blocks > 4 and cache.fetched <= 2 * blocks


def test_blocks_are_shared_kept_in_order_of_use_and_mended(
    served: tuple[str, type[Server], Path], tmp_path: Path
) -> None:
    url, handler, folder = served
    content = (folder / "train.bin").read_bytes()
    file = open_range(f"{url}/train.bin")
    size = file.size()
    first = BlockCache(tmp_path / "cache", 3 * 260, 256, 2 * 260)
    for offset, length in ((0, 10), (250, 20), (100, 500), (size - 5, 5)):
        assert first.read(file, "key", size, offset, length) == content[offset : offset + length]
    kept = {path.name for path in (tmp_path / "cache").glob("*.block")}
    assert f"key-{(size - 1) // 256}.block" in kept and len(kept) <= 3
    second = BlockCache(tmp_path / "cache", 3 * 260, 256, 2 * 260)
    handler.asked.clear()
    assert second.read(file, "key", size, size - 5, 5) == content[-5:]
    assert handler.asked == [] and second.hits and not second.fetched
    for path in (tmp_path / "cache").glob("*.block"):
        path.write_bytes(path.read_bytes()[:-7] + b"damaged")
    third = BlockCache(tmp_path / "cache", 3 * 260, 256, 2 * 260)
    assert third.read(file, "key", size, size - 5, 5) == content[-5:] and third.fetched


def test_a_failing_server_is_asked_again_and_named_in_the_end(
    served: tuple[str, type[Server], Path],
) -> None:
    url, handler, folder = served
    file = HttpFile(f"{url}/train.bin")
    handler.failures = 2
    assert file.read(3, 4) == (folder / "train.bin").read_bytes()[3:7]
    handler.failures = 99
    with pytest.raises(ResourceError, match=r"4 tries: the server answers 503"):
        file.read(0, 4)
    handler.failures = 0
    handler.ranges = False
    with pytest.raises(DataError, match="does not answer range requests"):
        file.read(0, 4)


@pytest.mark.parametrize(
    ("damage", "message"),
    [("missing", "There is no file"), ("short", "has .* bytes where its index says"), ("index", "damaged"),
     ("manifest", "is no manifest"), ("split", "There is no file")],
)  # fmt: skip
def test_what_is_wrong_there_is_one_sentence(
    served: tuple[str, type[Server], Path], tmp_path: Path, damage: str, message: str
) -> None:
    url, _, folder = served
    if damage == "missing":
        (folder / "train.bin").unlink()
    elif damage == "short":
        (folder / "train.bin").write_bytes((folder / "train.bin").read_bytes()[:-2])
    elif damage == "index":
        (folder / "train.idx").write_bytes((folder / "train.idx").read_bytes()[:-2] + b"xx")
    elif damage == "manifest":
        (folder / "manifest.json").write_text("<html>春</html>", encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        Loader(url, "dev" if damage == "split" else "train", 64, cache=BlockCache(tmp_path / "cache"))
    assert "\n" not in str(caught.value)


def test_addresses_that_lead_nowhere(tmp_path: Path, served: tuple[str, type[Server], Path]) -> None:
    with pytest.raises(ResourceError, match="could not be reached"):
        HttpFile("http://127.0.0.1:9/x").size()
    with pytest.raises(DataError, match="There is no file"):
        ArrowFile(fs.LocalFileSystem(), str(tmp_path / "x"), "file:///x").size()
    with pytest.raises(DataError, match="no address"):
        open_range("nonsense://x/y")
    with pytest.raises(DataError, match="give a cache"):
        Loader(served[0], "train", 64)
    with pytest.raises(ConfigError, match="hold two blocks"):
        BlockCache.of(StreamConfig(str(tmp_path), max_bytes=10))


def test_many_threads_share_a_cache(served: tuple[str, type[Server], Path], tmp_path: Path) -> None:
    content = (served[2] / "train.bin").read_bytes()
    file, cache = open_range(f"{served[0]}/train.bin"), BlockCache(tmp_path / "cache", 1040, 128, 512)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for offset in np.random.default_rng(seed).integers(0, len(content) - 300, 30).tolist():
            if cache.read(file, "k", len(content), offset, 300) != content[offset : offset + 300]:
                wrong.append(offset)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.block")) <= 1040
