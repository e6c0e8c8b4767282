"""Archives: members are documents, nothing is written to disk, hostile members have a reason."""

import gzip
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from weft.data import kinds
from weft.data.config import ReadConfig
from weft.data.readers.documents import documents
from weft.data.readers.part import Part

ZH = "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。"
FILES = {
    "a.txt": b"plain text",
    "文档/诗.md": ZH.encode(),
    "src/b.py": b"x = 1\n",
    "rows.jsonl": b'{"text": "one"}\n{"text": "two"}\n',
    "deep/c.txt.gz": gzip.compress(ZH.encode()),
    "table.csv": b"id,text\n1,hello\n",
    "image.png": b"\x89PNG\0",
    "inner.zip": b"PK\x03\x04",
    "inner.tar.gz": b"\x1f\x8b",
    ".hidden/x.txt": b"hidden",
    "__pycache__/y.py": b"y = 1",
}
EXPECTED = {
    "#a.txt": "plain text",
    "#文档/诗.md": ZH,
    "#src/b.py": "x = 1\n",
    "#rows.jsonl#0": "one",
    "#rows.jsonl#16": "two",
    "#deep/c.txt.gz": ZH,
    "#table.csv#0": "hello",
    "#image.png": "binary",
    "#inner.zip": "nested_archive",
    "#inner.tar.gz": "nested_archive",
}


def read(file: Path, config: ReadConfig | None = None) -> list[Part]:
    kind, language, _ = kinds.classify(file, given=True)
    assert kind is not None
    with file.open("rb") as stream:
        return list(documents(stream, file, kind, language, config or ReadConfig()))


def by_name(parts: list[Part]) -> dict[str, str | None]:
    assert len({part.name for part in parts}) == len(parts)
    return {part.name: part.reason or part.text for part in parts}


def tar_of(file: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    how = {".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz"}.get(file.suffix, "")
    with tarfile.open(file, f"w:{how}") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz", "x.tar.bz2", "x.tar.xz"])
def test_members_of_tar_files(tmp_path: Path, name: str) -> None:
    tar_of(tmp_path / name, [(tarfile.TarInfo(member), content) for member, content in FILES.items()])
    assert by_name(read(tmp_path / name)) == EXPECTED


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_members_of_zip_files(tmp_path: Path, method: int) -> None:
    file = tmp_path / "x.zip"
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.mkdir("empty")
        for member, content in FILES.items():
            archive.writestr(member, content)
    parts = read(file)
    assert by_name(parts) == EXPECTED
    assert {part.name: part.language for part in parts if part.kind == kinds.CODE} == {"#src/b.py": "python"}
    wanted = by_name(read(file, ReadConfig(suffixes=(".md",))))
    assert wanted["#a.txt"] == "other_suffix" and wanted["#文档/诗.md"] == ZH


def test_chinese_names_without_a_flag_are_read_as_gbk(tmp_path: Path) -> None:
    file = tmp_path / "x.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("aaaaaaaaaaaa.txt", ZH)
    name = "唐诗三百首选".encode("gbk")
    file.write_bytes(file.read_bytes().replace(b"aaaaaaaaaaaa", name))
    assert by_name(read(file)) == {"#唐诗三百首选.txt": ZH}


def test_hostile_members_are_dropped_with_a_reason(tmp_path: Path) -> None:
    def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        return info, b"text" if kind == tarfile.REGTYPE else b""

    tar_of(
        tmp_path / "x.tar",
        [
            entry("../../escape.txt"),
            entry("/etc/absolute.txt"),
            entry("a/../../b.txt"),
            entry("link.txt", tarfile.SYMTYPE, "/etc/passwd"),
            entry("hard.txt", tarfile.LNKTYPE, "good.txt"),
            entry("pipe.txt", tarfile.FIFOTYPE),
            entry("good.txt"),
            entry("good.txt"),
        ],
    )
    assert by_name(read(tmp_path / "x.tar")) == {
        "#../../escape.txt": "unsafe_path",
        "#/etc/absolute.txt": "unsafe_path",
        "#a/../../b.txt": "unsafe_path",
        "#link.txt": "link",
        "#hard.txt": "link",
        "#pipe.txt": "unreadable",
        "#good.txt": "text",
        "#good.txt~2": "text",
    }
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("../up.txt", "/root.txt", "C:\\windows.txt", "good.txt"):
            archive.writestr(name, "text")
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    got = by_name(read(tmp_path / "x.zip"))
    assert got.pop("#good.txt") == "text" and got.pop("#link.txt") == "link"
    assert set(got.values()) == {"unsafe_path"} and len(got) == 3
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.tar", "x.zip"]


def test_encrypted_members_have_a_reason(tmp_path: Path) -> None:
    file = tmp_path / "x.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "secret")
        archive.writestr("b.txt", "open")
    content = bytearray(file.read_bytes())
    # The flag of the first member, in its own header and in the directory.
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    file.write_bytes(content)
    assert by_name(read(file)) == {"#a.txt": "encrypted", "#b.txt": "open"}


def test_broken_archives_keep_what_came_before(tmp_path: Path) -> None:
    text = ZH.encode() * 2000
    members = [(tarfile.TarInfo(f"{number}.txt"), text) for number in range(6)]
    tar_of(tmp_path / "x.tar", members)
    whole = (tmp_path / "x.tar").read_bytes()
    size = 512 + (len(text) + 511) // 512 * 512
    for place in (3 * size + 700, 3 * size, 3 * size + 100, 3 * size + 50_000):
        (tmp_path / "x.tar").write_bytes(whole[:place])
        parts = read(tmp_path / "x.tar")
        assert [part.text for part in parts[:3]] == [text.decode()] * 3
        assert {part.reason for part in parts if part.reason} == {"truncated"}
    (tmp_path / "x.tar").write_bytes(whole[: 2 * size] + b"#" * 512 + whole[2 * size + 512 :])
    assert [part.reason for part in read(tmp_path / "x.tar")] == [None, None, "damaged"]
    packed = gzip.compress(whole)
    (tmp_path / "x.tgz").write_bytes(packed[: len(packed) // 2])
    parts = read(tmp_path / "x.tgz")
    assert parts[0].text == ZH * 2000 and parts[-1].reason == "truncated"

    file = tmp_path / "x.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", text)
        archive.writestr("b.txt", "good")
    content = bytearray(file.read_bytes())
    content[100] ^= 0xFF
    file.write_bytes(content)
    got = read(file)
    assert {part.reason for part in got if part.name.startswith("#a.txt")} >= {"damaged"}
    assert got[-1] == Part("#b.txt", 4, "good")
    file.write_bytes(content[:-30])
    assert [part.reason for part in read(file)] == ["damaged"]


def test_empty_archives_have_a_reason(tmp_path: Path) -> None:
    tar_of(tmp_path / "x.tar", [])
    with zipfile.ZipFile(tmp_path / "x.zip", "w"):
        pass
    for name in ("x.tar", "x.zip"):
        assert [(part.reason, part.value) for part in read(tmp_path / name)] == [
            ("empty", "no files in the archive")
        ]
    (tmp_path / "x.tar").write_bytes(b"")
    assert [part.reason for part in read(tmp_path / "x.tar")] == ["truncated"]


def test_bombs_in_archives_are_stopped(tmp_path: Path) -> None:
    file = tmp_path / "x.zip"
    line, long = b'{"text": "a"}\n', b'{"text": "%s"}\n' % (b"a" * 1000)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.jsonl", long * (3 << 13))
        archive.writestr("good.txt", "good")
    *_, rest, good = read(file, ReadConfig(max_ratio=100))
    assert (rest.name, rest.reason) == ("#bomb.jsonl#rest", "zip_bomb")
    assert good.reason == "zip_bomb" or good.text == "good"
    config = ReadConfig(max_member_bytes=1000, max_archive_bytes=10_000)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("large.jsonl", line * 200)
        for number in range(20):
            archive.writestr(f"{number}.jsonl", line * 70)
    parts = read(file, config)
    stopped = [part.name for part in parts if part.reason == "zip_bomb"]
    assert stopped[0] == "#large.jsonl" and len(stopped) > 5
    tar_of(tmp_path / "x.tgz", [(tarfile.TarInfo("bomb.jsonl"), long * (3 << 13))])
    assert read(tmp_path / "x.tgz", ReadConfig(max_ratio=100))[-1].reason == "zip_bomb"


def test_large_members_are_dropped_without_being_read(tmp_path: Path) -> None:
    tar_of(tmp_path / "x.tar", [(tarfile.TarInfo("a.txt"), b"x" * 5000), (tarfile.TarInfo("b.txt"), b"y")])
    parts = read(tmp_path / "x.tar", ReadConfig(max_document_bytes=1000))
    assert parts == [Part("#a.txt", 5000, None, "too_large", "5000"), Part("#b.txt", 1, "y")]
