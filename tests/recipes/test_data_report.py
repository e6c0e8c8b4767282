"""The report of a data folder: what the page says, in both languages, safely."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weft.core import manifest
from weft.core.errors import DataError, UsageError
from weft.data import shards
from weft.data.config_quality import RuleSet
from weft.recipes.data_report import write_data_report
from weft.recipes.data_words import REASONS, explain
from weft.tokenizer import Tokenizer

EVIL = "<script>alert('恶')</script>\x1b[31m"
COLUMNS = ("id", "source", "kind", "language", "bytes", "text", "reason", "value")


def document(number: int, text: str | None, source: str, **more: str) -> dict[str, Any]:
    known = {"id": f"{number:032x}", "source": source, "kind": "text", "language": "han", "text": text}
    return known | {"bytes": len((text or "").encode())} | more


def write_rows(folder: Path, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    folder.mkdir(parents=True)
    schema = pa.schema([(name, pa.int64() if name == "bytes" else pa.string()) for name in columns])
    table = pa.Table.from_pylist([{name: row.get(name) for name in columns} for row in rows], schema)
    pq.write_table(table, folder / "part-00000.parquet")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """60 kept documents of 30 folders, and dropped ones of four reasons."""
    kept = [
        document(n, f"第{n}篇文档，内容。" + "长" * n * 40, f"web/part{n // 2}/{n}.txt") for n in range(60)
    ]
    kept[7]["source"], kept[7]["text"] = f"web/{EVIL}/7.txt", EVIL * 3
    dropped = [
        document(100, None, "web/a.png", reason="binary", value=".png"),
        document(101, "第3篇", "web/3b.txt", reason="near_duplicate", value=kept[3]["id"]),
        document(3, kept[3]["text"], "web/3c.txt", reason="exact_duplicate", value=kept[3]["source"]),
        document(103, "别处的文档", "web/4b.txt", reason="near_duplicate", value=f"{999:032x}"),
        document(102, EVIL, f"web/{EVIL}.txt", reason="a_new_rule", value=EVIL),
    ]
    splits = {"train": kept[:56], "valid": kept[56:58], "test": kept[58:]}
    for split, rows in splits.items():
        write_rows(tmp_path / "documents" / split, rows, COLUMNS[:6])
    write_rows(tmp_path / "dropped", dropped, COLUMNS)
    counts = {name: {"documents": len(r), "bytes": sum(d["bytes"] for d in r)} for name, r in splits.items()}
    figures = {"in": {"documents": 65}, "splits": counts, "dropped": {d["reason"]: {} for d in dropped}}
    outputs = tuple(f"{split}/part-00000.parquet" for split in splits)
    manifest.write(
        tmp_path / "documents", command="documents", config="", inputs={}, figures=figures, outputs=outputs
    )
    return tmp_path


class Balance(HTMLParser):
    """Checks that every element that opens closes, and keeps the names of all."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        if tag not in {"meta", "input", "line", "rect", "path"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"rect", "line", "path"}:
            assert self.open.pop() == tag


def test_a_page_about_documents_alone(folder: Path, tmp_path: Path) -> None:
    record = write_data_report(folder, tmp_path / "out" / "page.html")
    text = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    for words in (
        "Weft data report", "数据报告", "Funnel", "漏斗", "Languages", "语言", "Lengths", "长度",
        "Sources", "来源", "Duplicates", "重复", "Samples", "样例",
        "nearly the same text as a kept document", "与某篇保留文档近乎相同", "a_new_rule",
        "belong to 2 clusters", "3 × web/part1/3.txt", "web/3b.txt  (near_duplicate)", "2 × (kept elsewhere",
        "its text was never read", "12 smaller ones are not shown",
    ):  # fmt: skip
        assert words in text, words
    for words in ("Personal data", "Mixture", "The manifest counted", "tokens of a vocabulary"):
        assert words not in text, words
    assert record["kept"]["documents"] == 60 and record["dropped"]["binary"]["documents"] == 1
    assert record["clusters"]["number"] == 2 and sum(record["lengths"].values()) == 60
    assert json.loads(json.dumps(record))["clusters"]["largest"][0]["kept"] == "web/part1/3.txt"


def test_the_page_is_safe_and_loads_nothing(folder: Path, tmp_path: Path) -> None:
    write_data_report(folder, tmp_path / "page.html", samples=100)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Balance(text)
    assert page.open == [] and not page.names & {"script", "link", "img", "iframe"}
    assert "&lt;script&gt;alert(&#x27;恶&#x27;)" in text and "\x1b" not in text
    assert not re.search(r"(src|href)=", text)
    # Twice as many kept ones as of each reason, and no more than there are; a long one is cut.
    assert text.count("<details>") == 60 + 5 + 2 + 1
    assert "长…</pre>" in text and max(map(len, re.findall("长+", text))) < 1500


def test_the_same_seed_gives_the_same_page(folder: Path, tmp_path: Path) -> None:
    pages = []
    for number, seed in enumerate((1, 1, 2)):
        write_data_report(folder, tmp_path / f"{number}.html", samples=2, seed=seed)
        pages.append((tmp_path / f"{number}.html").read_text(encoding="utf-8"))
    assert pages[0] == pages[1] != pages[2]


def test_shards_personal_data_and_a_mixture_have_sections(
    folder: Path, tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    encoded = shards.write(folder, tiny_tokenizer, folder / "shards")
    figures = {
        "shards": encoded["figures"],
        "seconds": {"clean": 1.25},
        "personal": {"phone": {"documents": 3, "found": 1234}, "resident_id": {"documents": 1, "found": 2}},
        "mixture": {"zh": 0.75, "en": 0.25},
        "lines": {"javascript": 77, "common": 4321},
        "mixed_languages": 12,
    }
    manifest.write(folder, command="data", config='sources = ["网页"]\n', inputs={}, figures=figures)
    record = write_data_report(folder, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    for words in (
        "of a vocabulary of 512", "词表大小 512", "Personal data", "居民身份证号", "1,234",
        "Mixture", "配比", "0.75", "Lines removed", "4,321", "12 kept documents mix", "12 篇混有多种语言",
        "Read from: 网页", "1.2 s",
    ):  # fmt: skip
        assert words in text, words
    tokens = sum(encoded["figures"][split]["tokens"] for split in ("train", "valid", "test"))
    assert f"{tokens:,} tokens" in text
    assert sum(count["tokens"] for count in record["tokens"].values()) == tokens
    figures["personal"] = {"email": 5}
    manifest.write(folder, command="data", config="", inputs={}, figures=figures)
    write_data_report(folder, tmp_path / "page.html", samples=0)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "电子邮箱" in text and "Samples" not in text


def test_files_that_were_deleted_are_noticed(folder: Path, tmp_path: Path) -> None:
    (folder / "dropped" / "part-00000.parquet").unlink()
    write_data_report(folder, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "The manifest counted 65 documents, the files here hold 60" in text


def test_bad_input_is_one_sentence_and_no_page(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    with pytest.raises(DataError, match="no finished documents"):
        write_data_report(tmp_path / "absent", page)
    for samples, seed in ((-1, 0), (1, -1), (1, 1 << 64)):
        with pytest.raises(UsageError, match="whole numbers from 0 on"):
            write_data_report(folder, page, samples, seed)
    (folder / "dropped" / "part-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="damaged"):
        write_data_report(folder, page)
    assert not page.exists()


def test_every_set_of_rules_and_every_broken_file_is_explained() -> None:
    for name in (*get_args(RuleSet), "zip_bomb", "truncated", "unsafe_path", "contaminated", "personal_data"):
        assert explain(REASONS, name).en and explain(REASONS, name).zh, name
