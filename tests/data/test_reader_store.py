"""An object store as a source: a small server here speaks as much of S3's protocol as reading takes."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from weft.core.errors import DataError
from weft.data import sources
from weft.data.config import ReadConfig
from weft.data.steps.read import read

ZH = "春眠不觉晓，处处闻啼鸟。"


class Store(http.server.BaseHTTPRequestHandler):
    """The bucket ``bucket``, whose objects are the files of :attr:`folder`."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if "Credential=key/" not in self.headers.get("Authorization", ""):
            self.answer(403, b"<Error><Code>AccessDenied</Code></Error>")
            return
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if "list-type" in query:
            prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
            self.answer(200, self.listing(prefix, delimiter).encode())
            return
        file = self.folder / unquote(parts.path).removeprefix("/bucket/")
        if not file.is_file():
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        content, wanted = file.read_bytes(), self.headers.get("Range")
        if wanted is None:
            self.answer(200, content)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last or len(content)) + 1]
        self.answer(206, part, f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")

    def listing(self, prefix: str, delimiter: str) -> str:
        entries, below = "", set()
        for file in sorted(self.folder.rglob("*")):
            key = file.relative_to(self.folder).as_posix()
            if not file.is_file() or not key.startswith(prefix):
                continue
            head, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if cut:
                below.add(prefix + head + cut)
            else:
                entries += f"<Contents><Key>{key}</Key><Size>{file.stat().st_size}</Size></Contents>"
        for one in sorted(below):
            entries += f"<CommonPrefixes><Prefix>{one}</Prefix></CommonPrefixes>"
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"

    def answer(self, status: int, content: bytes, place: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"x"')
        if place:
            self.send_header("Content-Range", place)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    handler = type("Handler", (Store,), {"folder": tmp_path})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ):
            monkeypatch.setenv(name, value)
        yield tmp_path
        server.shutdown()
        thread.join()


def test_objects_of_a_bucket(store: Path) -> None:
    (store / "texts" / "deep").mkdir(parents=True)
    (store / "texts" / "a.txt").write_text(ZH, encoding="utf-8")
    (store / "texts" / "deep" / "b.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    config = ReadConfig()

    def texts(source: str) -> dict[str, str]:
        rows = read(sources.find([source], config), config).to_arrow().to_pylist()
        return {row["source"]: row["text"] for row in rows}

    assert texts("s3://bucket/texts") == {
        "s3://bucket/texts/a.txt": ZH,
        "s3://bucket/texts/deep/b.jsonl#0": "one",
        "s3://bucket/texts/deep/b.jsonl#16": "two",
    }
    assert texts("s3://bucket/texts/*.txt") == texts("s3://bucket/texts/a.txt")
    with pytest.raises(DataError, match="There is no file s3://bucket/nothing/"):
        sources.find(["s3://bucket/nothing/"], config)
