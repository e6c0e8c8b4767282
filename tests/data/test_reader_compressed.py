"""Compressed files: every codec, broken ones keep what came before the break, bombs are stopped."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from weft.data import kinds
from weft.data.config import ReadConfig
from weft.data.readers.documents import documents
from weft.data.readers.part import Part

ZH = "自然语言处理是人工智能的重要方向，研究如何让计算机理解和生成人类的语言。"
CODECS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda content: gzip.compress(content, mtime=0),
    "zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


def read(file: Path, config: ReadConfig | None = None) -> list[Part]:
    kind, language, reason = kinds.classify(file, given=True)
    assert kind is not None and reason is None
    with file.open("rb") as stream:
        return list(documents(stream, file, kind, language, config or ReadConfig()))


def records(count: int) -> bytes:
    lines = [json.dumps({"text": f"{number} {ZH}"}, ensure_ascii=False) for number in range(count)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize("suffix", CODECS)
def test_the_inner_suffix_decides(tmp_path: Path, suffix: str) -> None:
    text = tmp_path / f"a.txt.{suffix}"
    text.write_bytes(CODECS[suffix](ZH.encode("gb18030")))
    assert read(text) == [Part("", len(ZH) * 2, ZH)]
    code = tmp_path / f"a.py.{suffix}"
    code.write_bytes(CODECS[suffix](b"x = 1\n"))
    assert read(code) == [Part("", 6, "x = 1\n", kind=kinds.CODE, language="python")]
    lines = tmp_path / f"a.jsonl.{suffix}"
    # Two streams in one file, as pigz, pbzip2 and appending make them.
    lines.write_bytes(CODECS[suffix](records(30) + b"\n") + CODECS[suffix](records(30)))
    got = read(lines)
    assert [part.text for part in got] == [f"{number} {ZH}" for number in [*range(30), *range(30)]]
    assert len({part.name for part in got}) == 60


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("damage", ["truncated", "damaged"])
def test_what_came_before_the_break_is_kept(tmp_path: Path, suffix: str, damage: str) -> None:
    content = b"".join(
        b'{"text": "%d %d"}\n' % (number, number * 7919**3 % 1_000_003) for number in range(60_000)
    )
    packed = CODECS[suffix](content)
    # Bzip2 works in blocks of 900 kB, so that the break must come late.
    place = len(packed) * 9 // 10
    file = tmp_path / f"a.jsonl.{suffix}"
    file.write_bytes(packed[:place] if damage == "truncated" else packed[:place] + b"\0\xff" * 4096)
    *parts, last = read(file)
    assert (last.name, last.text) == ("#rest", None) and last.value and "after" in last.value
    if damage == "truncated":
        assert last.reason == "truncated" and all(part.text is not None for part in parts)
    else:
        # What the damage unpacks to may pass for text for a while.
        assert last.reason in ("truncated", "damaged")
    numbers = [part.text.split()[0] for part in parts if part.text]
    good = next((n for n, number in enumerate(numbers) if number != str(n)), len(numbers))
    assert 1000 < good < 60_000 and len(parts) - good < 2000


def test_a_text_that_breaks_off_keeps_its_whole_lines(tmp_path: Path) -> None:
    lines = "".join(f"{number * 7919**3 % 1_000_003} {ZH}\n" for number in range(5000))
    file = tmp_path / "a.txt.gz"
    file.write_bytes(CODECS["gz"](lines.encode())[:-100])
    kept, last = read(file)
    assert kept.text is not None and lines.startswith(kept.text) and kept.text.endswith("\n")
    assert len(kept.text) > 0.9 * len(lines) and last.reason == "truncated"
    file.write_bytes(b"\x1f\x8b\x08")
    assert [part.reason for part in read(file)] == ["truncated"]
    file.write_bytes(b"no gzip at all")
    assert [part.reason for part in read(file)] == ["damaged"]
    page = tmp_path / "a.json.gz"
    page.write_bytes(CODECS["gz"](records(1))[:-9])
    assert [(part.name, part.reason) for part in read(page)] == [("", "truncated")]


@pytest.mark.parametrize("suffix", CODECS)
def test_bombs_are_stopped_by_ratio(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a.jsonl.{suffix}"
    file.write_bytes(CODECS[suffix](b'{"text": "%s"}\n' % (b"a" * 1000) * (3 << 13)))
    *_, last = read(file, ReadConfig(max_ratio=50))
    assert last.reason == "zip_bomb" and last.value == "unpacks to more than 50 times its size"


def test_bombs_are_stopped_by_size(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(CODECS["gz"](records(5000)))
    *kept, last = read(file, ReadConfig(max_member_bytes=500_000))
    assert 0 < len(kept) < 5000 and last.reason == "zip_bomb" and "500000 bytes" in str(last.value)


def test_one_huge_document_is_not_held(tmp_path: Path) -> None:
    config = ReadConfig(max_document_bytes=1000)
    file = tmp_path / "a.txt.gz"
    file.write_bytes(CODECS["gz"](b"long " * 1000))
    assert [(part.reason, part.value) for part in read(file, config)] == [("too_large", "over 1000")]
    lines = tmp_path / "a.jsonl.xz"
    lines.write_bytes(CODECS["xz"](records(2) + b"\n" + b"y" * 5000 + b"\n" + records(1)))
    assert [part.reason for part in read(lines, config)] == [None, None, "too_large", None]


def test_broken_lines_in_the_middle_are_reported_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.gz"
    gbk = records(1)[:-1].decode() + "}\n"
    file.write_bytes(
        CODECS["gz"](records(1) + b'\n{"text": "cut\n' + gbk.encode("gb18030") + records(1) + b'\n{"x": 1}')
    )
    assert [part.reason for part in read(file)] == [None, "bad_json", None, None, "no_text"]
    assert read(file)[2].text == f"0 {ZH}"


def test_names_tell_kind_and_compression() -> None:
    for name, kind, how in (
        ("a.jsonl.zst", "jsonl", "zstd"),
        ("a.csv.gz", "csv", "gzip"),
        ("crawl.warc.gz", "warc", "gzip"),
        ("a.html.bz2", "html", "bzip2"),
        ("notes.gz", "text", "gzip"),
        ("A.TAR.XZ", "tar", "xz"),
        ("a.tgz", "tar", "gzip"),
        ("a.tar.zst", "tar", "zstd"),
        ("a.zip", "zip", None),
        ("a.py", "code", None),
    ):
        path = Path(name)
        assert (kinds.classify(path)[0], kinds.compression(path)) == (kind, how)
    assert kinds.classify(Path("a.zip.gz"))[2] == "nested_archive"
    assert kinds.classify(Path("a.gz.gz"))[2] == "nested_archive"
    assert kinds.classify(Path("a.png.gz"))[2] == "binary"
    assert kinds.uncompressed_name("a.py.gz") == "a.py" and kinds.uncompressed_name("a.py") == "a.py"
