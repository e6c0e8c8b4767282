"""Documents read from files, and passages cut at sentence ends with exact offsets."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.core.errors import DataError, UsageError
from weft.retrieval.passages import (
    Document,
    Skipped,
    cut,
    find_files,
    read_documents,
    sentences,
    table,
    untable,
)


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


def test_sentences_of_both_languages() -> None:
    assert split('He said "no." Then e.g. Dr. Smith left, at 3.5 km/h! Why?  So.') == [
        'He said "no."',
        "Then e.g. Dr. Smith left, at 3.5 km/h!",
        "Why?",
        "So.",
    ]
    assert split("北京是首都。真的吗？“是的。”他说\n上海在海边") == [
        "北京是首都。",
        "真的吗？",
        "“是的。”",
        "他说",
        "上海在海边",
    ]
    assert split("# Title\nwrapped\nline\n\n- one\n- two") == ["# Title", "wrapped\nline", "- one", "- two"]
    assert split(" \n ") == split("") == []


def test_passages_overlap_and_keep_their_places() -> None:
    text = "  One two three. Four five. Six seven eight nine. Ten. 北京是首都。 "
    found = cut(Document("d", "t", text), size=6, overlap=2)
    assert [one.text for one in found] == [
        "One two three. Four five.",
        "Four five. Six seven eight nine.",
        "Ten. 北京是首都。",
    ]
    assert all(text[one.start : one.end] == one.text for one in found)


@given(st.text("ab .!?。，北京\n#-", max_size=200), st.integers(1, 9), st.integers(0, 8))
def test_every_word_lies_in_a_passage(text: str, size: int, overlap: int) -> None:
    found = cut(Document("d", "", text), size, min(overlap, size - 1))
    covered = {place for one in found for place in range(one.start, one.end)}
    assert all(place in covered for place, letter in enumerate(text) if letter.isalnum())
    assert all(one.text and text[one.start : one.end] == one.text for one in found)


def test_long_sentences_are_cut_between_words() -> None:
    found = cut(Document("d", "", "a b c d e f g."), size=3, overlap=0)
    assert [one.text for one in found] == ["a b c", "d e f", "g."]
    with pytest.raises(UsageError, match="not possible"):
        cut(Document("d", "", "a"), size=3, overlap=3)


def test_files_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("A note.")
    (tmp_path / "北京.md").write_text("text before\n# 首都 \n北京。")
    (tmp_path / "old.txt.gz").write_bytes(gzip.compress("旧的。".encode()))
    lines = [
        json.dumps({"_id": "7", "title": "T", "text": "seven"}),
        json.dumps({"text": "none"}),
        "{broken",
        '{"text": 3}',
        '{"text": "\\ud800"}',
    ]
    (tmp_path / "some.jsonl.zst").write_bytes(pa.compress("\n".join(lines).encode(), "zstd", asbytes=True))
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"much text " * 100)[:30])
    (tmp_path / "empty.txt").write_text(" ")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    skipped = Skipped()
    found = {one.id: one for one in read_documents(find_files([tmp_path], skipped), skipped)}
    base = tmp_path.name
    assert {name: (one.title, one.text) for name, one in found.items()} == {
        f"{base}/note.txt": ("note", "A note."),
        f"{base}/北京.md": ("首都", "text before\n# 首都 \n北京。"),
        f"{base}/old.txt.gz": ("old", "旧的。"),
        "7": ("T", "seven"),
        f"{base}/some.jsonl.zst:2": ("", "none"),
    }
    assert skipped.reasons == {
        "binary": 1, "truncated": 1, "empty": 1, "bad_json": 1, "no_text": 1, "invalid_encoding": 1,
    }  # fmt: skip


def test_names_are_unique(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"_id": 1, "text": "a"}\n{"_id": "1", "text": "b"}\n')
    skipped = Skipped()
    with pytest.raises(DataError, match="Two documents are called '1'"):
        list(read_documents(find_files([tmp_path], skipped), skipped))


def test_table_and_back() -> None:
    found = cut(Document("d", "t", "One. 二。"), size=1, overlap=0)
    assert untable(table(found)) == found
