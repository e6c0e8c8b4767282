"""CSV, TSV and Parquet: the text column, wherever it is; what is broken is counted row by row."""

import gzip
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weft.data import kinds
from weft.data.config import ReadConfig
from weft.data.readers.documents import documents
from weft.data.readers.part import Part

ZH = "春眠不觉晓，处处闻啼鸟。\n夜来风雨声，花落知多少。"


def read(file: Path, config: ReadConfig | None = None) -> list[Part]:
    kind, language, _ = kinds.classify(file, given=True)
    assert kind is not None
    with file.open("rb") as stream:
        return list(documents(stream, file, kind, language, config or ReadConfig()))


def csv_parts(tmp_path: Path, content: bytes | str, name: str = "x.csv", **keys: Any) -> list[Part]:
    content = content.encode() if isinstance(content, str) else content
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return read(tmp_path / name, ReadConfig(**keys))


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_rows_of_csv(tmp_path: Path, name: str, encoding: str) -> None:
    rows = f'id,text,note\r\n1,"{ZH}",x\r\n2,"say ""hello"", please",\r\n\r\n3,plain,\n'
    parts = csv_parts(tmp_path, rows.encode(encoding), name)
    assert [(part.name, part.text) for part in parts] == [
        ("#0", ZH), ("#1", 'say "hello", please'), ("#3", "plain"),
    ]  # fmt: skip
    assert parts[0].size == len(ZH.encode())


def test_other_delimiters_and_columns(tmp_path: Path) -> None:
    assert [part.text for part in csv_parts(tmp_path, "a;text\n1;x, y\n")] == ["x, y"]
    assert [part.text for part in csv_parts(tmp_path, 'a,正文\n1,"x"\n', text_field="正文")] == ["x"]
    # In TSV a quotation mark is only that.
    assert [part.text for part in csv_parts(tmp_path, 'text\tn\n"x\t1\n5" wide\t2\n', "x.tsv")] == [
        '"x', '5" wide',
    ]  # fmt: skip
    [missing] = csv_parts(tmp_path, "id,body\n1,x\n")
    assert (missing.reason, missing.value) == ("no_text", "columns are id, body")
    [empty] = csv_parts(tmp_path, "")
    assert empty.reason == "no_text"
    [binary] = csv_parts(tmp_path, b"\x7fELF\0\0\0\1\2\3")
    assert binary.reason == "binary"


def test_broken_rows_are_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    rows = 'id,text\n1,one\n2\n3,"never closed\n4,four\n5,"five"x\n6,six\n'
    assert [part.text or part.reason for part in csv_parts(tmp_path, rows)] == [
        "one", "bad_csv", "bad_csv", "four", "bad_csv", "six",
    ]  # fmt: skip
    parts = csv_parts(tmp_path, b"id,text\n" + b"1,fine\n" * 9 + b"2,\xff\xfe\n3," + ZH[:9].encode() + b"\n")
    assert [part.reason for part in parts] == [None] * 9 + ["invalid_encoding", None]
    parts = csv_parts(tmp_path, b"id,text\n1,a\xffb\n2," + ZH[:9].encode() + b"\n", invalid="replace")
    assert parts[0].text == "a\ufffdb"
    long = "id,text\n1," + "x" * 5000 + "\n2,two\n" + '3,"' + "y\n" * 3000 + '"\n4,four\n'
    got = [part.text or part.reason for part in csv_parts(tmp_path, long, max_document_bytes=1000)]
    assert got[0] == "too_large" and "two" in got and got[-1] == "four"
    assert {*got} <= {"too_large", "bad_csv", "two", "four"}


def test_a_broken_gzip_of_csv_keeps_its_rows(tmp_path: Path) -> None:
    rows = "text\n" + "".join(f"{number * 7919**3 % 1_000_003}\n" for number in range(50_000))
    packed = gzip.compress(rows.encode())
    (tmp_path / "x.csv.gz").write_bytes(packed[: len(packed) // 2])
    *kept, last = read(tmp_path / "x.csv.gz")
    assert len(kept) > 10_000 and [part.text for part in kept] == rows.split("\n")[1 : len(kept) + 1]
    assert (last.name, last.reason) == ("#rest", "truncated")


def parquet(file: Path, table: pa.Table, **options: Any) -> None:
    pq.write_table(table, file, **options)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary()])
def test_rows_of_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    texts = [ZH, "two", None, "four"] * 500
    table = pa.table({"n": list(range(2000)), "text": pa.array(texts, pa.string()).cast(kind)})
    parquet(tmp_path / "x.parquet", table, row_group_size=700)
    parts = read(tmp_path / "x.parquet")
    assert [part.text for part in parts] == texts
    assert [part.name for part in parts] == [f"#{number}" for number in range(2000)]
    assert parts[2].reason == "no_text" and parts[0].size == len(ZH.encode())
    parquet(tmp_path / "y.parquet", table.rename_columns(["n", "正文"]).slice(0, 1), compression="zstd")
    assert read(tmp_path / "y.parquet", ReadConfig(text_field="正文"))[0].text == ZH


def test_parquet_of_words_in_a_dictionary(tmp_path: Path) -> None:
    texts = pa.array([ZH, "two"] * 5).dictionary_encode()
    parquet(tmp_path / "x.parquet", pa.table({"text": texts}))
    assert [part.text for part in read(tmp_path / "x.parquet")] == [ZH, "two"] * 5


def test_parquet_without_text_has_a_reason(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    for table, value in (
        (pa.table({"id": [1], "body": ["x"]}), "columns are id, body"),
        (pa.table({"text": [1]}), "column text is int64, not text"),
        (pa.table({"text": [["x"]]}), "column text is list<element: string>, not text"),
    ):
        parquet(file, table)
        assert [(part.reason, part.value) for part in read(file)] == [("no_text", value)]


def test_damaged_parquet_keeps_the_rows_before(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    texts = [f"{number} {ZH}" for number in range(3000)]
    parquet(file, pa.table({"text": texts}), row_group_size=1000, use_dictionary=False, compression="snappy")
    content = bytearray(file.read_bytes())
    place = pq.ParquetFile(file).metadata.row_group(1).column(0).data_page_offset
    content[place : place + 2000] = b"\xff" * 2000
    file.write_bytes(content)
    *kept, last = read(file)
    assert [part.text for part in kept] == texts[:1000]
    assert (last.name, last.reason) == ("#rest", "damaged") and last.value and "\n" not in last.value
    for damaged in (content[: len(content) // 2], b"", b"PAR1"):
        file.write_bytes(damaged)
        assert [part.reason for part in read(file)] == ["damaged"]


def test_parquet_limits(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    parquet(file, pa.table({"text": ["x" * 5000, "y"]}))
    parts = read(file, ReadConfig(max_document_bytes=1000))
    assert [part.reason for part in parts] == ["too_large", None]
    parquet(file, pa.table({"text": ["z" * (1 << 20)] * 40}), compression="zstd", use_dictionary=False)
    assert [part.reason for part in read(file)] == ["zip_bomb"]


def test_parquet_inside_a_stream(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": [ZH]}), buffer)
    file = tmp_path / "x.parquet.gz"
    file.write_bytes(gzip.compress(buffer.getvalue()))
    assert [part.text for part in read(file)] == [ZH]
    assert [part.reason for part in read(file, ReadConfig(max_document_bytes=100))] == ["too_large"]
