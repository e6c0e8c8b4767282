"""Reading through the engine: small files together, large ones as streams, what fails has a reason."""

import errno
import gzip
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from weft.data import sources
from weft.data.config import ReadConfig
from weft.data.engine import daft
from weft.data.steps import read as reading

ZH = "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。"


def rows(source: Path, config: ReadConfig | None = None) -> dict[str, dict[str, Any]]:
    config = config or ReadConfig()
    table = reading.read(sources.find([source], config), config).to_arrow().to_pylist()
    found = {row["source"].partition("/")[2] or row["source"]: row for row in table}
    assert len(found) == len(table), "sources are unique"
    return found


def test_a_folder_of_many_formats(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(ZH, encoding="utf-8")
    (tmp_path / "b.py").write_text("x = 1\n")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}\n{"text": '))
    (tmp_path / "d.csv").write_text("text\nrow\n")
    (tmp_path / "e.png").write_bytes(b"\x89PNG\0")
    (tmp_path / "f.txt.gz").write_bytes(gzip.compress(ZH.encode() * 9)[:-5])
    (tmp_path / "g.jsonl").write_text('{"text": "\\ud800"}\n{"text": "好"}\n')
    got = rows(tmp_path)
    assert {name: row["text"] or row["reason"] for name, row in got.items()} == {
        "a.txt": ZH,
        "b.py": "x = 1\n",
        "c.jsonl.gz#0": "one",
        "c.jsonl.gz#16": "bad_json",
        "d.csv#0": "row",
        "e.png": "binary",
        "f.txt.gz": "truncated",
        "g.jsonl#0": "invalid_encoding",
        "g.jsonl#19": "好",
    }
    assert got["b.py"]["kind"] == "code" and got["b.py"]["language"] == "python"
    assert all(row["value"] for row in got.values() if row["reason"])


def test_a_file_that_vanishes_is_unreadable(tmp_path: Path) -> None:
    for name in ("a.txt", "b.jsonl", "c.zip"):
        (tmp_path / name).write_text("{}")
    config = ReadConfig()
    listing = sources.find([tmp_path], config)
    (tmp_path / "a.txt").unlink()
    (tmp_path / "c.zip").unlink()
    table = reading.read(listing, config).to_arrow().to_pylist()
    assert sorted((row["reason"], row["value"]) for row in table) == [
        ("no_text", "text"),
        ("unreadable", "No such file or directory"),
        ("unreadable", "No such file or directory"),
    ]


def test_a_disk_that_fails_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"text": "one"}\n'))

    def fail(*arguments: object) -> Any:
        yield reading.Part("#0", 3, "one")
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(reading, "documents", fail)
    [listed] = sources.find([file], ReadConfig())
    found = list(reading._piece_rows(reading.Piece(listed, 0, 10), ReadConfig()))
    assert [(name, part.reason, part.value) for name, part in found] == [
        ("a.jsonl.gz#0", None, None),
        ("a.jsonl.gz#rest-0", "unreadable", "Input/output error"),
    ]


def test_batches_are_bounded_and_tasks_pickle(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.gz"
    with gzip.open(file, "wt", compresslevel=1) as out:
        for number in range(300):
            out.write(json.dumps({"text": f"{number} " + "x" * 100_000}) + "\n")
    config = ReadConfig(max_ratio=10_000)
    listing = sources.find([file], config)
    [group] = pickle.loads(pickle.dumps(list(reading._groups(list(reading.pieces(listing[0]))))))
    wrap = daft.recordbatch.RecordBatch._from_pyrecordbatch
    sizes = [len(wrap(batch)) for batch in reading.read_group(group, config)]
    assert sum(sizes) == 300 and max(sizes) <= 43


def test_a_large_compressed_file_is_not_held_in_memory(tmp_path: Path) -> None:
    """A stream of 1.2 GB goes through in far less."""
    file = tmp_path / "a.jsonl.gz"
    line = json.dumps({"text": "x" * 400_000}).encode() + b"\n"
    with gzip.open(file, "wb", compresslevel=1) as out:
        for _ in range(3000):
            out.write(line)
    script = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from weft.data import sources\n"
        "from weft.data.config import ReadConfig\n"
        "from weft.data.engine import daft\n"
        "from weft.data.steps.read import read\n"
        "config = ReadConfig(max_ratio=10_000)\n"
        "frame = read(sources.find([sys.argv[1]], config), config)\n"
        "size = daft.functions.length_bytes(daft.col('text'))\n"
        "print(frame.select(size.alias('n')).sum('n').to_pydict()['n'][0])\n"
        # Not ru_maxrss, which counts the memory of the process that started this one.
        "peak = re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())\n"
        "print(int(peak[1]) >> 10)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(file)], capture_output=True, text=True, check=True
    )
    size, mebibytes = map(int, done.stdout.split())
    assert size == 3000 * 400_000 and mebibytes < 400


@pytest.mark.parametrize(
    ("odd", "last"),
    [
        ("", "\n"),
        ("", ""),
        ("\n \n", "\n"),
        ('{"text": "\\ud800"}\n', "\n"),
        ('{"text": 5}\n', "\n"),
        ('{"text": "one"}{"text": "two"}\n\n', "\n"),
        ('["text"]\n', "\n"),
        ('{"text": "cut\n', "\n"),
    ],
)
def test_a_large_file_read_by_the_column_is_the_one_read_by_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str, last: str
) -> None:
    lines = [json.dumps({"id": n, "text": ZH * (n % 7) + "\n"}, ensure_ascii=n % 3 == 0) for n in range(400)]
    lines[17] = '{"id": 17}'
    lines[30] = json.dumps({"text": "x" * 1900})
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n" + odd + '{"text": "end"}' + last, "utf-8")
    monkeypatch.setattr(reading, "_GROUP_BYTES", 3000)
    used = []
    parse = reading.records.parse_piece

    def watched(*given: Any) -> Any:
        used.append(parse(*given))
        return used[-1]

    monkeypatch.setattr(reading.records, "parse_piece", watched)
    config = ReadConfig(max_document_bytes=1800)
    by_column = rows(tmp_path, config)
    assert any(found is not None for found in used) and any(found is None for found in used)
    monkeypatch.setattr(reading.records, "parse_piece", lambda *given: None)
    assert rows(tmp_path, config) == by_column
    reasons = [row["reason"] for row in by_column.values()]
    assert reasons.count("too_large") == 1 and reasons.count("no_text") >= 1
