"""Every kind of bad input at once, through the whole step: set aside with a reason, and the rest goes on."""

import gzip
import io
import random
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weft.core import config as configuration
from weft.core.errors import DataError
from weft.data import pipeline
from weft.data.config import DataConfig
from weft.data.documents import texts
from weft.data.engine import daft
from weft.data.steps import read as reading

WORDS = "river mountain winter summer garden letter window market bridge captain sailor island".split()  # noqa: SIM905
HAN = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜"


def text(seed: int) -> str:
    chosen = random.Random(seed)
    lines = [" ".join(chosen.choices(WORDS, k=9)) + "，" + "".join(chosen.choices(HAN, k=12)) + "。"]
    lines += [" ".join(chosen.choices(WORDS, k=9)) + "." for _ in range(12)]
    return "\n".join(lines) + "\n"


def good(folder: Path, count: int = 8) -> set[str]:
    folder.mkdir()
    for number in range(count):
        (folder / f"good{number}.txt").write_text(text(number), encoding="utf-8")
    return {text(number) for number in range(count)}


def settings(*overrides: str) -> DataConfig:
    return configuration.load(DataConfig, None, ["junk.max_repeated_text=1.0", *overrides])


def kept(out: Path) -> list[str]:
    return [one for split in ("train", "valid", "test") for one in texts(out, split)]


def dropped(out: Path) -> dict[str, str]:
    rows: list[dict[str, Any]] = pq.read_table(out / "dropped").to_pylist()
    assert all(row["value"] for row in rows if row["reason"] not in ("no_text",))
    return {row["source"].partition("/")[2]: row["reason"] for row in rows}


def make_bad(folder: Path) -> None:
    packed = gzip.compress("".join(text(100 + n) for n in range(40)).encode())
    (folder / "cut.txt.gz").write_bytes(packed[: len(packed) // 2])
    with gzip.open(folder / "bomb.jsonl.gz", "wb") as out:
        for _ in range(24):
            out.write(b'{"text": "' + b" " * (1 << 20) + b'"}\n')
    with tarfile.open(folder / "outside.tar", "w") as archive:
        for name, kind in (("../up.txt", tarfile.REGTYPE), ("link.txt", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            content = b"outside" if kind == tarfile.REGTYPE else b""
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        content = text(200).encode()
        info = tarfile.TarInfo("inside.txt")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    with zipfile.ZipFile(folder / "outside.zip", "w") as packed_files:
        packed_files.writestr("../up.txt", "outside")
    pq.write_table(pa.table({"number": [1, 2], "other": [3.0, 4.0]}), folder / "schema.parquet")
    record = '{"text": "' + text(201).replace("\n", "\\n") + '"}\n'
    (folder / "broken.jsonl").write_text(record + '{"text": "br\n' + record.replace("river", "lake"))
    (folder / "huge.txt").write_text("huge " * 50_000)
    (folder / "wrong.txt").write_bytes(b"broken \xfd\xff\x81\x9f\xfe bytes " * 20)
    cyrillic = "Это текст в другой кодировке, и он не читается."
    (folder / "cyrillic.txt").write_bytes(cyrillic.encode("koi8-r") * 3)


def test_all_of_it_at_once(tmp_path: Path) -> None:
    expected = good(tmp_path / "in")
    make_bad(tmp_path / "in")
    config = settings("read.max_document_bytes=200000", "read.max_ratio=100", "duplicates.near=false")
    record = pipeline.build(config, [tmp_path / "in"], tmp_path / "out")
    reasons = dropped(tmp_path / "out")
    assert {name: reason for name, reason in reasons.items() if "jsonl" not in name} == {
        "cut.txt.gz#rest": "truncated",
        "outside.tar#../up.txt": "unsafe_path",
        "outside.tar#link.txt": "link",
        "outside.zip#../up.txt": "unsafe_path",
        "schema.parquet": "no_text",
        "huge.txt": "too_large",
        "wrong.txt": "invalid_encoding",
        "cyrillic.txt": "invalid_encoding",
    }
    assert {reason for name, reason in reasons.items() if name.startswith("broken.jsonl")} == {"bad_json"}
    assert "too_large" in {reasons[name] for name in reasons if name.startswith("bomb.jsonl.gz")}
    found = set(kept(tmp_path / "out"))
    assert expected <= found and text(200) in found and text(201) in found
    assert not any("outside" in one or "huge" in one for one in found)
    figures = record["figures"]
    assert figures["in"]["documents"] == figures["kept"]["documents"] + len(reasons)


def test_only_duplicates_leave_one(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(50):
        (folder / f"{number:02}.txt").write_text(text(1), encoding="utf-8")
    record = pipeline.build(settings(), [folder], tmp_path / "out")
    assert kept(tmp_path / "out") == [text(1)]
    assert record["figures"]["dropped"]["exact_duplicate"]["documents"] == 49


def test_all_dropped_is_one_sentence(tmp_path: Path) -> None:
    good(tmp_path / "in")
    with pytest.raises(DataError, match=r"Nothing is left of 8 documents \(too_short 8\)"):
        pipeline.build(settings("junk.min_bytes=100000"), [tmp_path / "in"], tmp_path / "out")
    assert not (tmp_path / "out" / "documents").exists()


def test_a_mount_that_vanishes_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first part is read; then the folder is gone: its files are set aside, what was read stands."""
    expected = good(tmp_path / "in", 20)
    made = reading.read_pieces
    calls = []

    def read_pieces(chosen: Any, config: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            (tmp_path / "in").rename(tmp_path / "gone")
        return made(chosen, config)

    monkeypatch.setattr("weft.data.cleaning.read_pieces", read_pieces)
    record = pipeline.build(settings("part_bytes=3000"), [tmp_path / "in"], tmp_path / "out")
    reasons = dropped(tmp_path / "out")
    assert len(calls) > 2 and set(reasons.values()) == {"unreadable"}
    found = set(kept(tmp_path / "out"))
    assert found and found < expected and len(found) + len(reasons) == 20
    assert record["figures"]["dropped"]["unreadable"]["documents"] == len(reasons)


def test_a_large_file_of_json_lines_is_worked_on_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_GROUP_BYTES", 4000)
    lines = ['{"text": "' + text(number).replace("\n", "\\n") + '"}\n' for number in range(60)]
    (tmp_path / "one.jsonl").write_text("".join(lines), encoding="utf-8")
    parts = []
    write = daft.DataFrame.write_parquet

    def note(frame: Any, root: str, **options: Any) -> Any:
        parts.append(root)
        return write(frame, root, **options)

    monkeypatch.setattr(daft.DataFrame, "write_parquet", note)
    pipeline.build(settings("part_bytes=8000"), [tmp_path / "one.jsonl"], tmp_path / "out")
    assert len([root for root in parts if "/clean/" in root]) > 3
    assert sorted(kept(tmp_path / "out")) == sorted(text(number) for number in range(60))
